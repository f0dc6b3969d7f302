#!/usr/bin/env bash
# Every strategy of parameter sharing, and combinations, on real text: unique parameters, bytes, validation loss (nats
# per byte), time a step. The model is `tiny` with six blocks.
#
#   bench/sharing.sh TEXT_FILE [STEPS, default 300] [SEEDS, default "0"]
set -euo pipefail
data=$(realpath "${1:?usage: sharing.sh TEXT_FILE [STEPS] [SEEDS]}")
steps=${2:-300} seeds=${3:-0}
root=$(cd "$(dirname "$0")/.." && pwd)
hybridq=${HYBRIDQ:-$root/target/release/hybridq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The last value of a key in a run's metrics.
last() { grep -o "\"$2\": *[0-9.e-]*" "$1/metrics.jsonl" | tail -n 1 | sed 's/.*: *//'; }
rule() { echo "{\"strategy\": \"$1\"${2:+, $2}}"; }

strategies=(
    "none, head of its own||false"
    "tied embeddings||true"
    "cross-layer, interval 2|$(rule cross-layer '"interval": 2')|true"
    "cross-layer, interval 3|$(rule cross-layer '"interval": 3')|true"
    "alternate|$(rule alternate)|true"
    "attention|$(rule attention)|true"
    "feed-forward|$(rule feed-forward)|true"
    "custom: 0 with 5, 1 with 2, 3 with 4|$(rule custom '"groups": [[0, 5], [1, 2], [3, 4]]')|true"
    "attention and cross-layer, interval 2|$(rule attention), $(rule cross-layer '"interval": 2')|true"
    "attention and feed-forward|$(rule attention), $(rule feed-forward)|true"
)
echo "| sharing | unique parameters | less | f32 file, bytes | ternary packed, bytes | validation loss | ms a step |"
echo "|---|---|---|---|---|---|---|"
for strategy in "${strategies[@]}"; do
    IFS='|' read -r name rules tied <<< "$strategy"
    cat > "$work/model.json" << JSON
{"model_type": "bitnet", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
 "vocab_size": 256, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
 "tie_word_embeddings": $tied, "parameter_sharing": {"rules": [$rules]}}
JSON
    losses=()
    for seed in $seeds; do
        run="$work/run-$RANDOM-$seed"
        "$hybridq" train --data "$data" --model "$work/model.json" --steps "$steps" --batch 8 --seq 128 --lr 4e-3 \
            --seed "$seed" --out "$run" > /dev/null
        losses+=("$(last "$run" val_loss)")
    done
    summary=$("$hybridq" inspect "$run" | grep 'parameters in use')
    unique=$(sed 's/.*use, \([0-9]*\) unique.*/\1/' <<< "$summary")
    less=$(sed 's/.*(\([0-9.]*\) % less).*/\1/' <<< "$summary")
    packed=$(sed 's/.*less), \([0-9]*\) bytes.*/\1/' <<< "$summary")
    bytes=$(stat -c %s "$run/model/model.safetensors")
    each=$(printf '%.4f ' "${losses[@]}")
    milliseconds=$(awk "BEGIN { printf \"%.0f\", 1000 * $(last "$run" seconds) / $steps }")
    echo "| $name | $unique | $less % | $bytes | $packed | $each| $milliseconds |"
done
