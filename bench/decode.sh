#!/usr/bin/env bash
# Generation of a 1.1 B Llama with random ternary weights, embedding and head at 8 bits: hybridq beside llama.cpp on the
# TQ2_0 file of the same weights, in turn, with the same threads.
#
#   python3 -m venv .peers && .peers/bin/pip install numpy llama-cpp-python==0.3.36    # builds llama.cpp: minutes
#   bench/decode.sh .peers/bin/python [THREADS, default "1 2"]
set -euo pipefail
python=${1:?usage: decode.sh PYTHON [THREADS]}
threads=${2:-1 2}
here=$(cd "$(dirname "$0")" && pwd)
hybridq=${HYBRIDQ:-$here/../target/release/hybridq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for count in $threads; do
    "$hybridq" bench --suite decode --threads "$count" --gguf "$work/model.gguf"
    "$python" "$here/decode_llama_cpp.py" "$work/model.gguf" "$count"
done
