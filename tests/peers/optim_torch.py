#!/usr/bin/env python3
"""Prints the table in tests/optim_plain.rs: five steps of torch's AdamW and SGD on four weights.

Gradients are exact in f32: g[t][i] = ((7 t + 3 i) mod 11 - 5) / 4.
"""
import torch

START = [0.5, -1.25, 0.0, 2.0]


def run(make):
    w = torch.tensor(START, requires_grad=True)
    optimizer = make([w])
    for t in range(5):
        w.grad = torch.tensor([((7 * t + 3 * i) % 11 - 5) / 4 for i in range(4)])
        optimizer.step()
        print("    [" + ", ".join(f"{v:.9}" for v in w.tolist()) + "],")


print("adamw")
run(lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1))
print("sgd")
run(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1))
