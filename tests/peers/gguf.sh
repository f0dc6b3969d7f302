#!/usr/bin/env bash
# Everything that needs other people's GGUF software: trains a small ternary model of each form (a few minutes in all),
# then compares with PyPI's `gguf` and with llama.cpp.
#
#   python3 -m venv .peers
#   .peers/bin/pip install numpy gguf==0.19.0 safetensors==0.8.0 llama-cpp-python==0.3.36    # builds llama.cpp: minutes
#   tests/peers/gguf.sh .peers/bin/python TEXT_FILE [STEPS, default 1000]
set -euo pipefail
python=$(realpath -s "${1:?usage: gguf.sh PYTHON TEXT_FILE [STEPS]}") text=$(realpath "${2:?usage: gguf.sh PYTHON TEXT_FILE [STEPS]}")
steps=${3:-1000}
cd "$(dirname "$0")/../.."
cargo build --release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gated='"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 256,
    "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0'
echo "{\"model_type\": \"bitnet\", \"tie_word_embeddings\": true, $gated}" > "$work/bitnet.json"
echo "{\"model_type\": \"llama\", \"num_key_value_heads\": 2, \"tie_word_embeddings\": false, $gated}" > "$work/llama.json"
echo '{"model_type": "gpt2", "n_embd": 256, "n_layer": 4, "n_head": 4, "n_inner": 1024, "n_positions": 256,
    "vocab_size": 256, "activation_function": "gelu_new"}' > "$work/gpt2.json"
for form in bitnet llama gpt2; do
    target/release/hybridq train --data "$text" --model "$work/$form.json" --precision ternary --steps "$steps" --batch 8 \
        --seq 128 --out "$work/$form" | tail -n 8
done
"$python" tests/peers/check_gguf.py --hybridq target/release/hybridq --model "$work"/{bitnet,llama,gpt2}
HYBRIDQ_LLAMA_CPP_PYTHON=$python HYBRIDQ_LLAMA_CPP_MODELS=$work/bitnet:$work/llama:$work/gpt2 HYBRIDQ_LLAMA_CPP_TEXT=$text \
    HYBRIDQ_REQUIRE=llama-cpp cargo test --release --test llama_cpp_parity -- --nocapture
