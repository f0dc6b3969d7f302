#!/usr/bin/env python3
"""Writes tests/peers/gguf_blocks.txt: blocks that the `gguf` package (PyPI, llama.cpp's own) makes of seeded values.

A line: format, kind, bytes of four blocks in hexadecimal. tests/kernels_gguf_ternary.rs makes the same values:
a generator `s = 1664525 s + 1013904223 mod 2^32`, value = signed s / 2^31 in f32, times the scale of the block.
Kinds: "random" as they are; "ties" rounded to halves of the largest, "zeros" all zero.
"""
from pathlib import Path

import numpy as np
from gguf import quants

BLOCKS, VALUES = 4, 256
SCALES = np.array([1.0, 0.02, 3e-6, 40000.0], dtype=np.float32)


def draw(seed):
    values, state = np.empty(BLOCKS * VALUES, dtype=np.float32), seed
    for i in range(values.size):
        state = (1664525 * state + 1013904223) % 2**32
        values[i] = np.float32(np.array(state, dtype=np.uint32).astype(np.int32)) * np.float32(2.0**-31)
    return values.reshape(BLOCKS, VALUES)


def inputs():
    yield "random", draw(1) * SCALES[:, None]
    ties = np.round(draw(2) * np.float32(2)) / np.float32(2)
    yield "ties", (ties * SCALES[:, None]).astype(np.float32)
    yield "zeros", np.zeros((BLOCKS, VALUES), dtype=np.float32)


lines = []
for name, format in (("tq1_0", quants.TQ1_0), ("tq2_0", quants.TQ2_0)):
    for kind, values in inputs():
        lines.append(f"{name} {kind} {format.quantize_blocks(values).tobytes().hex()}\n")
Path(__file__).with_name("gguf_blocks.txt").write_text("".join(lines))
