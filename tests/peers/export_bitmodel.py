#!/usr/bin/env python3
"""Writes what tests/pytorch_parity.rs compares with: bitmodel.py's `small` model trained for a few steps in PyTorch.

For each mode (`f32`, `ternary`) a folder with config.json and model.safetensors (the initial weights, as hybridq loads
them), gradients.safetensors (of the first step, before clipping) and run.json (learning rate, loss and gradient norm of
each step); beside them batches.safetensors, `[steps, batch, seq + 1]` token ids. Schedule, data order and clipping are
those of quality.py.

    python export_bitmodel.py --anchors DIR --corpus FILE --out DIR
    HYBRIDQ_PARITY_DIR=DIR cargo test --release --test pytorch_parity
"""
import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np
import torch

WARMUP, SCHEDULE_STEPS = 40, 300


def write_safetensors(path: pathlib.Path, tensors: dict) -> None:
    """The format is a length, a JSON header and the bytes: no package needed."""
    names = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}
    header, end, arrays = {}, 0, []
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor)
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
        arrays.append(array)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(array.tobytes())


def learning_rate(step: int, peak: float) -> float:
    if step < WARMUP:
        return peak * (step + 1) / WARMUP
    progress = (step - WARMUP) / (SCHEDULE_STEPS - WARMUP)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def export(args: argparse.Namespace, bit: bool, batches: np.ndarray) -> None:
    from bitmodel import CONFIGS, Transformer, make_optimizer

    size = CONFIGS["small"]
    folder = args.out / ("ternary" if bit else "f32")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = Transformer(size, bit)
    optimizer = make_optimizer(model, args.lr)
    config = {
        "model_type": "plain", "hidden_size": size.hidden, "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "vocab_size": size.vocab,
        "max_position_embeddings": size.seq, "rms_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
        "precision": "ternary" if bit else "f32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    arrays = {name: value.detach().numpy() for name, value in model.named_parameters()}
    write_safetensors(folder / "model.safetensors", arrays)
    losses, norms, rates = [], [], []
    for step, batch in enumerate(batches):
        tokens = torch.from_numpy(batch.astype(np.int64))
        rate = learning_rate(step, args.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            gradients = {name: value.grad.numpy() for name, value in model.named_parameters()}
            write_safetensors(folder / "gradients.safetensors", gradients)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        rates.append(rate)
    (folder / "run.json").write_text(json.dumps({"learning_rates": rates, "losses": losses, "gradient_norms": norms}))
    print(f"{folder}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=pathlib.Path, required=True, help="folder of bitmodel.py")
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(args.anchors))
    args.out.mkdir(parents=True, exist_ok=True)
    from bitmodel import CONFIGS

    data, seq = np.frombuffer(args.corpus.read_bytes(), np.uint8), CONFIGS["small"].seq
    train = data[:len(data) * 9 // 10]
    batches = []
    for step in range(args.steps):
        offsets = np.random.default_rng([args.seed, step]).integers(0, len(train) - seq - 1, args.batch)
        batches.append(np.stack([train[offset:offset + seq + 1] for offset in offsets]).astype(np.int32))
    batches = np.stack(batches)
    write_safetensors(args.out / "batches.safetensors", {"tokens": batches})
    for bit in (False, True):
        export(args, bit, batches)


if __name__ == "__main__":
    main()
