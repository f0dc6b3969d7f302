#!/usr/bin/env bash
# Bytes of the files of a model in each form, alone and with shared layers. The weights are those after one step on the
# text: sizes do not depend on them. Needs 3 GB below TMPDIR for `gpt2`.
#
#   bench/sizes.sh TEXT_FILE [MODEL, default gpt2]
set -euo pipefail
data=$(realpath "${1:?usage: sizes.sh TEXT_FILE [MODEL]}") model=${2:-gpt2}
root=$(cd "$(dirname "$0")/.." && pwd)
hybridq=${HYBRIDQ:-$root/target/release/hybridq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# "name|rules of parameter_sharing"
forms=("none|" "cross-layer, interval 2|{\"strategy\": \"cross-layer\", \"interval\": 2}"
    "attention and feed-forward|{\"strategy\": \"attention\"}, {\"strategy\": \"feed-forward\"}")
train() { "$hybridq" train --data "$data" --steps 1 --batch 1 --seq 32 --eval-windows 1 "$@" > /dev/null; }

train --model "$model" --out "$work/run"
echo "| sharing | unique parameters | f32 | f16 (GGUF) | 8.5 bits (Q8_0) | 2 bits (TQ2_0) | 1.7 bits (TQ1_0) | 1.6 bits (packed) |"
echo "|---|---|---|---|---|---|---|---|"
for form in "${forms[@]}"; do
    IFS='|' read -r name rules <<< "$form"
    if [ -n "$rules" ]; then
        sed "\$d" "$work/run/model/config.json" > "$work/model.json" # all but the last brace
        echo ", \"parameter_sharing\": {\"rules\": [$rules]}}" >> "$work/model.json"
        rm -rf "$work/shared"
        train --model "$work/model.json" --out "$work/shared"
        run=$work/shared
    else
        run=$work/run
    fi
    f32=$(stat -c %s "$run/model/model.safetensors")
    unique=$("$hybridq" inspect "$run" | sed -n 's/.*use, \([0-9]*\) unique.*/\1/p')
    row="| $name | ${unique:-all} | $f32"
    for kind in f16 q8_0 tq2_0 tq1_0; do
        "$hybridq" export --model "$run" --format gguf --type "$kind" --out "$work/file" > /dev/null
        row+=" | $(stat -c %s "$work/file")"
        rm "$work/file"
    done
    "$hybridq" export --model "$run" --format packed --out "$work/file" > /dev/null
    echo "$row | $(stat -c %s "$work/file") |"
    rm "$work/file"
done
