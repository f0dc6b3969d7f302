#!/usr/bin/env python3
"""Tokens per second of llama.cpp (PyPI's llama-cpp-python) on a GGUF file: decode_llama_cpp.py FILE THREADS. See decode.sh."""
import statistics
import sys
import time

import llama_cpp

path, threads = sys.argv[1], int(sys.argv[2])
llama = llama_cpp.Llama(path, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
times = []
for position in range(64):
    start = time.perf_counter()
    llama.eval([(position * 7919) % 31999])
    times.append(time.perf_counter() - start)
print(f"llama.cpp {threads} thread(s): {1 / statistics.median(times[16:]):.2f} tokens/s")
prompts = []
for _ in range(3):
    llama.reset()
    start = time.perf_counter()
    llama.eval([(position * 7919) % 31999 for position in range(512)])
    prompts.append(time.perf_counter() - start)
print(f"llama.cpp {threads} thread(s), prompt of 512: {512 / statistics.median(prompts):.2f} tokens/s")
