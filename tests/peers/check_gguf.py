#!/usr/bin/env python3
"""GGUF files between hybridq and PyPI's `gguf`, which is another reader, writer and quantizer.

First files that `gguf` wrote are read by hybridq. Then each --model (a run or model folder, ternary, rows in multiples of
256) is exported in every type, and `gguf` must read the values that are expected: those of ternary layers exactly.
`tests/peers/gguf.sh` says what to install, and runs llama.cpp too.
"""
import argparse
import json
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy as np
from safetensors.numpy import load_file


OLD_SUB_NORMS = {"self_attn.attn_sub_norm": "self_attn.inner_attn_ln", "mlp.ffn_sub_norm": "mlp.ffn_layernorm"}
SUB_NORM = re.compile("|".join(map(re.escape, OLD_SUB_NORMS)))


def run(hybridq, *arguments):
    return subprocess.run([hybridq, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def ternary(weight):
    """What the layers are multiplied with: absmean (BitNet b1.58), in half precision as GGUF stores the scale."""
    scale = max(np.abs(weight.astype(np.float64)).mean(), 1e-5)
    trits = np.where(np.abs(weight) > np.float32(scale) / 2, np.sign(weight), 0)
    return trits * np.float32(np.float16(scale))


def interleaved(rows, heads):
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def check_values(path, folder, kind):
    """Tensors of the file as `gguf` reads them, against the weights of the model folder."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    arch = gguf.MODEL_ARCH[{"mistral": "llama"}.get(config["model_type"], config["model_type"]).upper()]
    names = gguf.get_tensor_name_map(arch, config.get("num_hidden_layers") or config["n_layer"])
    for name, weight in weights.items():
        stem, ending = name.rsplit(".", 1)
        # `gguf` knows BitNet's sub-norms by the names of its first release only.
        known = names.get_name(SUB_NORM.sub(lambda match: OLD_SUB_NORMS[match[0]], stem))
        tensor = tensors.pop(f"{known}.{ending}")
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        if "c_attn.weight" in name or "c_proj.weight" in name or "c_fc.weight" in name:
            weight = weight.T
        linear = weight.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name and "lm_head" not in name
        if linear:
            weight = ternary(weight)
        if config["model_type"] in ("llama", "mistral"):
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
            for part, key in heads.items():
                if part in name:
                    weight = interleaved(weight, config[key])
        bound = 0 if linear and kind.startswith("tq") or weight.ndim == 1 else 6e-3
        off = np.abs(found.reshape(weight.shape) - weight).max() / np.abs(weight).max()
        assert off <= bound, f"{name}: differs by {off} of the largest value"
    assert not set(tensors) - {"rope_freqs.weight"}, tensors.keys()


def others(hybridq, folder):
    """A Llama in files that `gguf` wrote alone: ternary types by its own quantizer, and by max-scaled ternary values."""
    rng = np.random.default_rng(4)
    hidden, ffn, vocabulary = 256, 512, 256
    for kind in (gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0, gguf.GGMLQuantizationType.Q8_0):
        path = folder / f"{kind.name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(2), writer.add_context_length(64), writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(ffn), writer.add_head_count(4), writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5), writer.add_rope_dimension_count(64), writer.add_vocab_size(vocabulary)
        writer.add_tokenizer_model("none")
        writer.add_tensor("token_embd.weight", rng.normal(0, 1, (vocabulary, hidden)).astype(np.float16))
        writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
        for block in range(2):
            shapes = {"attn_q": (hidden, hidden), "attn_k": (128, hidden), "attn_v": (128, hidden), "attn_output": (hidden, hidden),
                      "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}
            for name, shape in shapes.items():
                scale = np.float32(rng.uniform(0.02, 0.1))
                weight = rng.integers(-1, 2, shape).astype(np.float32) * scale
                writer.add_tensor(f"blk.{block}.{name}.weight", gguf.quantize(weight, kind), raw_dtype=kind)
            writer.add_tensor(f"blk.{block}.attn_norm.weight", np.ones(hidden, np.float32))
            writer.add_tensor(f"blk.{block}.ffn_norm.weight", np.ones(hidden, np.float32))
        writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
        imported = folder / f"imported-{kind.name}"
        run(hybridq, "import", "--from", path, "--out", imported)
        config = json.loads((imported / "config.json").read_text())
        assert (config["precision"] == "ternary") == (kind != gguf.GGMLQuantizationType.Q8_0), config
        weights = load_file(imported / "model.safetensors")
        for tensor in gguf.GGUFReader(path).tensors:
            if tensor.name == "blk.1.ffn_down.weight":
                expected = gguf.dequantize(tensor.data, tensor.tensor_type)
                found = weights["model.layers.1.mlp.down_proj.weight"]
                found = ternary(found) if config["precision"] == "ternary" else found
                assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
        text = run(hybridq, "generate", "--model", path, "--prompt", "abc", "--tokens", 4, "--temperature", 0)
        print(f"{kind.name:6} written by gguf: read, {config['precision']}, generates {text!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hybridq", default="target/release/hybridq")
    parser.add_argument("--model", nargs="*", default=[], type=pathlib.Path)
    parser.add_argument("--types", nargs="*", default=["tq2_0", "tq1_0", "q8_0", "f16"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        others(arguments.hybridq, work)
        for model in arguments.model:
            folder = model / "model" if (model / "model").is_dir() else model
            for kind in arguments.types:
                path = work / f"{model.name}-{kind}.gguf"
                run(arguments.hybridq, "export", "--model", model, "--format", "gguf", "--type", kind, "--out", path)
                check_values(path, folder, kind)
                print(f"{model.name:16} {kind:6} {path.stat().st_size:9} bytes, values as expected", flush=True)


main()
