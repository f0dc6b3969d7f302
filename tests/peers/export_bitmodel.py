#!/usr/bin/env python3
"""Writes what tests/pytorch_parity.rs compares with: bitmodel.py's `small` model trained for a few steps in PyTorch.

For each mode (`f32`, `ternary`) a folder with config.json and model.safetensors (the initial weights, as hybridq loads
them), gradients.safetensors (of the first step, before clipping) and run.json (learning rate, loss and gradient norm of
each step); beside them batches.safetensors, `[steps, batch, seq + 1]` token ids. Schedule, data order and clipping are
those of quality.py.

An activation that lies on the edge between two int8 values falls to either side with the last bit of the arithmetic,
and what follows differs. So the ternary gradients of a whole batch agree with nothing, not with PyTorch on another
number of threads, beyond a spread: run.json holds it (`gradient_spread`, f32 against f64 arithmetic). For a sharp
comparison short.safetensors holds the gradients of a few stretches of 8 tokens in which PyTorch's f32 and f64 agree.
The same holds for the losses once a step is unstable (gradient norms above 100 near step 17 at the default rate): run.json
has the losses of the run in f64 arithmetic too. With --lr 3e-4 nothing is unstable in 20 steps.

With --validate the whole schedule is run instead, without gradients and f64: run.json then has the validation loss after
every 100 steps, batches.safetensors the validation windows too.

    python export_bitmodel.py --anchors DIR --corpus FILE --out DIR
    HYBRIDQ_PARITY_DIR=DIR cargo test --release --test pytorch_parity
    python export_bitmodel.py --anchors DIR --corpus FILE --out DIR2 --validate
    HYBRIDQ_PARITY_RUN_DIR=DIR2 cargo test --release --test pytorch_parity whole_run
"""
import argparse
import copy
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


def gradients_of(model: torch.nn.Module, batch: np.ndarray, kind: torch.dtype) -> dict:
    """Gradients of a copy of the model in the arithmetic `kind`."""
    model = copy.deepcopy(model).to(kind)
    tokens = torch.from_numpy(batch.astype(np.int64))
    model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
    return {name: value.grad for name, value in model.named_parameters()}


def relative_difference(ours: dict, theirs: dict) -> float:
    """The largest `||a - b|| / ||b||` of a parameter."""
    return max(((ours[name].double() - b.double()).norm() / b.double().norm()).item() for name, b in theirs.items())


def validation_loss(model: torch.nn.Module, windows: np.ndarray) -> float:
    """Nats per token over all windows, 16 at a time."""
    total = 0.0
    with torch.no_grad():
        for chunk in np.split(windows, range(16, len(windows), 16)):
            tokens = torch.from_numpy(chunk.astype(np.int64))
            total += model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).item() * len(chunk)
    return total / len(windows)


def train(model: torch.nn.Module, batches: np.ndarray, rates: list, after_step=lambda step: None) -> tuple:
    """Losses and gradient norms of a step for each batch."""
    from bitmodel import make_optimizer

    optimizer, losses, norms = make_optimizer(model, rates[0]), [], []
    for step, (batch, rate) in enumerate(zip(batches, rates)):
        tokens = torch.from_numpy(batch.astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        after_step(step + 1)
    return losses, norms


def export(args: argparse.Namespace, bit: bool, batches: np.ndarray, windows: np.ndarray) -> None:
    from bitmodel import CONFIGS, Transformer

    size = CONFIGS["small"]
    folder = args.out / ("ternary" if bit else "f32")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = Transformer(size, bit)
    config = {
        "model_type": "plain", "hidden_size": size.hidden, "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "vocab_size": size.vocab,
        "max_position_embeddings": size.seq, "rms_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
        "precision": "ternary" if bit else "f32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    arrays = {name: value.detach().numpy() for name, value in model.named_parameters()}
    write_safetensors(folder / "model.safetensors", arrays)
    rates = [learning_rate(step, args.lr) for step in range(len(batches))]
    if args.validate:
        validation_losses = []

        def after_step(step: int) -> None:
            if step % 100 == 0:
                validation_losses.append(validation_loss(model, windows))
                print(f"{folder}: step {step}, validation loss {validation_losses[-1]:.4f}", flush=True)

        losses, norms = train(model, batches, rates, after_step)
        run = {"learning_rates": rates, "losses": losses, "gradient_norms": norms, "validation_losses": validation_losses}
        (folder / "run.json").write_text(json.dumps(run))
        return
    spread = relative_difference(*(gradients_of(model, batches[0], kind) for kind in (torch.float32, torch.float64)))
    short, starts = {}, []
    for sequence in range(len(batches[0])):
        stretch = batches[0][sequence:sequence + 1, :9]
        single, double = (gradients_of(model, stretch, kind) for kind in (torch.float32, torch.float64))
        if relative_difference(single, double) < 1e-5:
            short |= {f"{sequence}.{name}": gradient.float().numpy() for name, gradient in double.items()}
            starts.append(sequence)
    write_safetensors(folder / "short.safetensors", short)
    gradients = gradients_of(model, batches[0], torch.float32)
    write_safetensors(folder / "gradients.safetensors", {name: value.numpy() for name, value in gradients.items()})
    exact_losses, _ = train(copy.deepcopy(model).double(), batches, rates)
    losses, norms = train(model, batches, rates)
    (folder / "run.json").write_text(json.dumps({
        "learning_rates": rates, "losses": losses, "exact_losses": exact_losses, "gradient_norms": norms,
        "gradient_spread": spread, "short": starts}))
    spreads = " ".join(f"{abs(a / b - 1):.0e}" for a, b in zip(losses, exact_losses))
    print(f"{folder}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, spread of the gradients {spread:.2e}, of the losses {spreads}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=pathlib.Path, required=True, help="folder of bitmodel.py")
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, help="default 20, with --validate 300")
    parser.add_argument("--validate", action="store_true", help="a whole run with validation losses")
    parser.add_argument("--windows", type=int, default=192, help="validation windows")
    parser.add_argument("--modes", nargs="+", choices=["f32", "ternary"], default=["f32", "ternary"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.steps = args.steps or (SCHEDULE_STEPS if args.validate else 20)
    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(args.anchors))
    args.out.mkdir(parents=True, exist_ok=True)
    from bitmodel import CONFIGS

    data, seq = np.frombuffer(args.corpus.read_bytes(), np.uint8), CONFIGS["small"].seq
    train, validation = np.split(data, [len(data) * 9 // 10])
    batches = []
    for step in range(args.steps):
        offsets = np.random.default_rng([args.seed, step]).integers(0, len(train) - seq - 1, args.batch)
        batches.append(np.stack([train[offset:offset + seq + 1] for offset in offsets]).astype(np.int32))
    batches = np.stack(batches)
    offsets = np.linspace(0, len(validation) - seq - 1, args.windows).astype(int)
    windows = np.stack([validation[offset:offset + seq + 1] for offset in offsets]).astype(np.int32)
    write_safetensors(args.out / "batches.safetensors", {"tokens": batches, "validation": windows})
    for mode in args.modes:
        export(args, mode == "ternary", batches, windows)


if __name__ == "__main__":
    main()
