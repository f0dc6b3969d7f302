#!/usr/bin/env python3
"""Writes what tests/recurrent.rs compares with: language models on torch.nn.LSTM and torch.nn.GRU, and their ternary forms
with weights and activations rounded as hybridq rounds them (gradients straight through).

Each case is a folder: config.json and model.safetensors in hybridq's form, expected.safetensors with `tokens`
`[sequences, 2 * length + 1]`, `losses` of the two halves, the second from the state that the first has left, and `logits`
of the last position; and `gradients/`, a model folder that holds the gradient of the second half's loss (truncated: none
reaches the first half) in place of every parameter.

    .peers/bin/python tests/peers/export_recurrent.py --out DIR
    HYBRIDQ_TORCH_RECURRENT_DIR=DIR cargo test --release --test recurrent
"""
import argparse
import copy
import json
import pathlib

import torch
from safetensors.torch import save_file

VOCABULARY = 37


def ternary(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.abs().mean().clamp(min=1e-5)
    return weight + ((weight / scale).round().clamp(-1, 1) * scale - weight).detach()


def int8(x: torch.Tensor) -> torch.Tensor:
    scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


class Ternary(torch.nn.Module):
    """The layers of torch.nn.LSTM or torch.nn.GRU with rounded products."""

    def __init__(self, layers: torch.nn.RNNBase):
        super().__init__()
        self.layers = layers

    def forward(self, x, state):
        lstm = isinstance(self.layers, torch.nn.LSTM)
        states = []
        for layer in range(self.layers.num_layers):
            of_input, of_state, in_bias, state_bias = self.layers.all_weights[layer]
            sums = int8(x) @ ternary(of_input).T + in_bias
            if state is None:
                h = c = torch.zeros(x.shape[0], self.layers.hidden_size, dtype=x.dtype)
            else:
                h, c = (state[0][layer], state[1][layer]) if lstm else (state[layer], None)
            outputs = []
            for step in range(x.shape[1]):
                from_state = int8(h) @ ternary(of_state).T + state_bias
                if lstm:
                    i, f, g, o = (sums[:, step] + from_state).chunk(4, dim=1)
                    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    h = o.sigmoid() * c.tanh()
                else:
                    (xr, xz, xn), (hr, hz, hn) = sums[:, step].chunk(3, dim=1), from_state.chunk(3, dim=1)
                    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
                    h = (1 - z) * (xn + r * hn).tanh() + z * h
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
            states.append((h, c))
        return x, (tuple(torch.stack(part) for part in zip(*states)) if lstm else torch.stack([h for h, _ in states]))


class LanguageModel(torch.nn.Module):
    def __init__(self, kind: str, width: int, layers: int, tied: bool, rounded: bool, seed: int):
        super().__init__()
        base = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](width, width, layers, batch_first=True)
        self.embedding = torch.nn.Embedding(VOCABULARY, width)
        self.head = torch.nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in [*base.parameters(), *self.parameters()]:
                value.copy_(torch.randn(value.shape, generator=generator) * (0.4 if value.dim() > 1 else 0.2))
        self.base, self.rounded = base, rounded

    def forward(self, tokens, state):
        x = self.embedding(tokens)
        x, state = (Ternary(self.base) if self.rounded else self.base)(x, state)
        return self.head(x), state

    def named(self) -> dict:
        """Parameters by hybridq's names."""
        layers = {f"layers.{name.rsplit('_l', 1)[1]}.{name.rsplit('_l', 1)[0]}": value for name, value in self.base.named_parameters()}
        own = {"embedding.weight": self.embedding.weight, "head.weight": self.head.weight}
        if self.head.weight is self.embedding.weight:
            del own["head.weight"]
        return layers | own


def run(model: LanguageModel, tokens: torch.Tensor) -> tuple:
    """Logits of the last position, losses of both halves, gradients of the second."""
    length, state, losses = tokens.shape[1] // 2, None, []
    for start in (0, length):
        model.zero_grad()
        logits, state = model(tokens[:, start:start + length], state)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, start + 1:start + length + 1].flatten())
        loss.backward()
        losses.append(loss.detach())
        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
    return logits[:, -1].detach(), torch.stack(losses), {name: value.grad.clone() for name, value in model.named().items()}


def case(out: pathlib.Path, name: str, kind: str, seed: int, width=22, layers=3, tied=False, rounded=False, sequences=3, length=7) -> None:
    while True:
        model = LanguageModel(kind, width, layers, tied, rounded, seed)
        tokens = torch.randint(0, VOCABULARY, (sequences, 2 * length + 1), generator=torch.Generator().manual_seed(1000 + seed))
        logits, losses, gradients = run(model, tokens)
        _, _, exact = run(copy.deepcopy(model).double(), tokens)
        # An activation on the edge between two int8 values falls to either side with the last bit: another seed then.
        if max(((gradients[key] - value).norm() / value.norm()).item() for key, value in exact.items()) < 1e-4:
            break
        seed += 1
    folder = out / name
    (folder / "gradients").mkdir(parents=True, exist_ok=True)
    config = dict(model_type=kind, vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, tie_word_embeddings=tied,
                  precision="ternary" if rounded else "f32")
    for where, values in ((folder, model.named()), (folder / "gradients", gradients)):
        (where / "config.json").write_text(json.dumps(config))
        save_file({key: value.detach().contiguous() for key, value in values.items()}, where / "model.safetensors")
    save_file({"tokens": tokens.int(), "losses": losses, "logits": logits.contiguous()}, folder / "expected.safetensors")
    print(f"{name}: losses {losses.tolist()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    for kind in ("lstm", "gru"):
        for seed in range(3):
            case(args.out, f"{kind}-{seed}", kind, 10 * seed)
        case(args.out, f"{kind}-tied", kind, 50, width=17, layers=2, tied=True)
        case(args.out, f"{kind}-one-layer-one-sequence", kind, 60, width=1, layers=1, sequences=1, length=3)
        case(args.out, f"{kind}-deep", kind, 70, width=9, layers=12, sequences=2)
        for seed in range(2):
            case(args.out, f"{kind}-ternary-{seed}", kind, 100 * (seed + 1), rounded=True, layers=2, length=4)


if __name__ == "__main__":
    main()
