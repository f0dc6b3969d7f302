#!/usr/bin/env python3
"""llama.cpp's logits (PyPI's llama-cpp-python) for tests/llama_cpp_parity.rs.

    llama_cpp_logits.py MODEL.gguf TOKENS OUT LENGTH

TOKENS holds int32 ids, read in windows of LENGTH that begin anew; OUT gets a row of f32 logits for each. Then the ids that
llama.cpp makes of the text on standard input are printed as JSON.
"""
import json
import sys

import numpy as np
from llama_cpp import Llama

model, tokens, out, length = sys.argv[1], np.fromfile(sys.argv[2], np.int32), sys.argv[3], int(sys.argv[4])
llama = Llama(model, n_ctx=length, n_batch=length, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
with open(out, "wb") as file:
    for start in range(0, len(tokens), length):
        window = tokens[start : start + length].tolist()
        llama.reset()
        llama.eval(window)
        file.write(np.ascontiguousarray(llama.scores[: len(window)], np.float32).tobytes())
print(json.dumps(llama.tokenize(sys.stdin.buffer.read(), add_bos=False, special=False)))
