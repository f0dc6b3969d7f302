#!/usr/bin/env python3
"""llama.cpp's outputs of a BERT (PyPI's llama-cpp-python) for tests/llama_cpp_parity.rs.

    llama_cpp_embeddings.py MODEL.gguf

Reads texts, one a line, and prints a JSON list of pairs: the ids that llama.cpp makes of the text, and its outputs: hidden
states, token after token, or the scores of a classification.
"""
import ctypes
import json
import sys

import llama_cpp

llama = llama_cpp.Llama(sys.argv[1], embedding=True, n_ctx=64, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, verbose=False)
pooled = llama.pooling_type() != llama_cpp.LLAMA_POOLING_TYPE_NONE
found = []
for line in sys.stdin.buffer.read().split(b"\n"):
    ids = llama.tokenize(line, add_bos=True, special=False)
    llama._batch.reset()
    llama._batch.add_sequence(ids, 0, True)
    llama._ctx.kv_cache_clear()
    llama._ctx.decode(llama._batch)
    if pooled:
        values = llama_cpp.llama_get_embeddings_seq(llama._ctx.ctx, 0)
        count = llama_cpp.llama_model_n_cls_out(llama._model.model)
    else:
        values, count = llama_cpp.llama_get_embeddings(llama._ctx.ctx), len(ids) * llama.n_embd()
    found.append([ids, ctypes.cast(values, ctypes.POINTER(ctypes.c_float))[:count]])
print(json.dumps(found))
