#!/usr/bin/env python3
"""Writes what tests/transformers_parity.rs compares with: small random models of Hugging Face's transformers.

Each case is a folder: config.json and the weights as transformers saves them (one file, shards, bf16, packed ternary),
expected.safetensors with `tokens` `[sequences, length + 1]`, `logits` `[sequences, length, vocabulary]` and `loss`, and
for most cases `gradients/`, a model folder that holds the gradient of the mean loss in place of every parameter.

Ternary cases: an activation on the edge between two int8 values falls to either side with the last bit of the
arithmetic. Only seeds are taken for which transformers' own f32 and f64 runs agree.

    python -m venv .peers && .peers/bin/pip install torch transformers accelerate safetensors
    .peers/bin/python tests/peers/export_transformers.py --out DIR
    HYBRIDQ_TRANSFORMERS_DIR=DIR cargo test --release --test transformers_parity
"""
import argparse
import copy
import json
import os
import pathlib
import shutil

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.bitnet import pack_weights

VOCABULARY, SEQUENCES = 61, 2
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
          "modules_to_not_convert": ["lm_head"]}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 20}


def gpt2(**changes) -> transformers.PreTrainedModel:
    sizes = dict(vocab_size=VOCABULARY, n_positions=41, n_embd=28, n_layer=3, n_head=4, n_inner=37, bos_token_id=1,
                 eos_token_id=2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes | changes))


def gated(name: str, **changes) -> transformers.PreTrainedModel:
    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "bitnet": (transformers.BitNetConfig, transformers.BitNetForCausalLM),
    }[name]
    sizes = dict(vocab_size=VOCABULARY, hidden_size=36, intermediate_size=52, num_hidden_layers=2,
                 num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=41, bos_token_id=1,
                 eos_token_id=[2, 3], rms_norm_eps=3e-6)
    return model(config(**sizes | changes))


def randomize(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            is_gain = value.dim() == 1 and name.endswith("weight")
            value.copy_(1 + 0.2 * noise if is_gain else noise * (0.25 if value.dim() > 1 else 0.1))


def run(model: torch.nn.Module, tokens: torch.Tensor, train: bool) -> tuple:
    """Logits, loss and gradients."""
    model.eval()
    model.config._attn_implementation = "eager"
    with torch.set_grad_enabled(train):
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    gradients = {}
    if train:
        model.zero_grad()
        loss.backward()
        gradients = {name: value.grad.float() for name, value in model.named_parameters()}
    return logits.detach().float(), loss.detach().float(), gradients


def save_gradients(folder: pathlib.Path, gradients: dict) -> None:
    """A model folder that holds gradients in place of parameters."""
    if gradients:
        (folder / "gradients").mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in gradients.items()}, folder / "gradients" / "model.safetensors")
        shutil.copy(folder / "config.json", folder / "gradients" / "config.json")


def write(folder: pathlib.Path, model: torch.nn.Module, tokens: torch.Tensor, train: bool = True) -> None:
    logits, loss, gradients = run(model, tokens, train)
    save_file({"tokens": tokens.int(), "logits": logits.contiguous(), "loss": loss.reshape(1)}, folder / "expected.safetensors")
    save_gradients(folder, gradients)
    print(f"{folder.name}: loss {loss.item():.4f}, largest logit {logits.abs().max().item():.3f}")


def random_tokens(seed: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (SEQUENCES, length + 1), generator=torch.Generator().manual_seed(1000 + seed))


def plain_case(out: pathlib.Path, name: str, model: torch.nn.Module, seed: int, length: int = 19, **saving) -> None:
    folder = out / name
    randomize(model, seed)
    if "dtype" in saving:
        # transformers computes in f32 on the rounded weights. (A model cast in place keeps rounded rotary frequencies.)
        model.to(saving["dtype"]).save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        model.save_pretrained(folder, **saving)
    write(folder, model, random_tokens(seed, length))


def change_config(folder: pathlib.Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def ternary_case(out: pathlib.Path, name: str, make, seed: int) -> None:
    """Latent weights that transformers rounds; the first seed from `seed` on without an edge."""
    folder = out / name
    while True:
        model = make()
        randomize(model, seed)
        model.save_pretrained(folder)
        change_config(folder, quantization_config=ONLINE)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokens = random_tokens(seed, 8)
        single, _, gradients = run(model, tokens, True)
        double, _, exact = run(copy.deepcopy(model).double(), tokens, True)
        apart = max(((gradients[key] - value).norm() / value.norm()).item() for key, value in exact.items())
        seed += 1
        if apart < 1e-4 and (single - double).abs().max() < 1e-5 * double.abs().max():
            write(folder, model, tokens)
            return


def packed_case(out: pathlib.Path, online: str, name: str, linear_class: str) -> None:
    """The model of a ternary case at 2 bits a weight."""
    folder = out / name
    folder.mkdir(exist_ok=True)
    tensors = {}
    for key, weight in load_file(out / online / "model.safetensors").items():
        if key.endswith("_proj.weight"):
            scale = weight.abs().mean().clamp(min=1e-5)
            tensors[key] = pack_weights((weight / scale).round().clamp(-1, 1))
            tensors[key + "_scale"] = (1 / scale if linear_class == "bitlinear" else scale).reshape(1)
        else:
            tensors[key] = weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(out / online / "config.json", folder / "config.json")
    change_config(folder, quantization_config=ONLINE | {"linear_class": linear_class, "quantization_mode": "offline"})
    tokens = load_file(out / online / "expected.safetensors")["tokens"].long()
    write(folder, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokens, train=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed in range(3):
        plain_case(args.out, f"gpt2-{seed}", gpt2(), seed)
        plain_case(args.out, f"llama-{seed}", gated("llama"), seed)
        plain_case(args.out, f"mistral-{seed}", gated("mistral", sliding_window=5), seed)
        plain_case(args.out, f"bitnet-{seed}", gated("bitnet"), seed)
    plain_case(args.out, "gpt2-untied", gpt2(tie_word_embeddings=False, n_head=7, n_inner=None), 3, length=40)
    plain_case(args.out, "gpt2-sharded", gpt2(), 4, max_shard_size="8KB")
    plain_case(args.out, "llama-tied-biased-wide-heads", gated("llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=10), 5)
    plain_case(args.out, "llama-bf16", gated("llama", num_key_value_heads=3), 6, dtype=torch.bfloat16)
    plain_case(args.out, "llama-f16", gated("llama", num_key_value_heads=6), 7, dtype=torch.float16)
    plain_case(args.out, "llama-linear", gated("llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}), 8)
    plain_case(args.out, "llama-llama3", gated("llama", head_dim=16, rope_parameters=dict(LLAMA3)), 9, length=40)
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0}
    plain_case(args.out, "llama-dynamic", gated("llama", max_position_embeddings=16, rope_parameters=dynamic), 10, length=40)
    plain_case(args.out, "mistral-no-window-sharded", gated("mistral", sliding_window=None), 11, length=40, max_shard_size="9KB")
    for number in range(2):
        ternary_case(args.out, f"ternary-bitnet-{number}", lambda: gated("bitnet"), 100 * number + 20)
        ternary_case(args.out, f"ternary-llama-{number}", lambda: gated("llama"), 100 * number + 60)
    packed_case(args.out, "ternary-bitnet-0", "packed-bitnet-multiply", "autobitlinear")
    packed_case(args.out, "ternary-bitnet-1", "packed-bitnet-divide", "bitlinear")


if __name__ == "__main__":
    main()
