#!/usr/bin/env bash
# Each part of the hybrid optimizer alone, each left out, all and none, on real text: one table of final validation
# losses (nats per token), time a step, and how often the trust region was active.
#
#   bench/ablation.sh TEXT_FILE [STEPS, default 300] [SEEDS, default "0 1 2"] [MODEL, default tiny]
set -euo pipefail
data=$(realpath "${1:?usage: ablation.sh TEXT_FILE [STEPS] [SEEDS] [MODEL]}")
steps=${2:-300} seeds=${3:-0 1 2} model=${4:-tiny}
root=$(cd "$(dirname "$0")/.." && pwd)
hybridq=${HYBRIDQ:-$root/target/release/hybridq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The last value of a key in a run's metrics.
last() { grep -o "\"$2\": *[0-9.e-]*" "$1/metrics.jsonl" | tail -n 1 | sed 's/.*: *//'; }
flag() { if [ "$1" = on ]; then echo true; else echo false; fi; }

echo "| clusters | auxiliary network | trust region | validation loss, mean | each seed | ms a step | constraint active |"
echo "|---|---|---|---|---|---|---|"
for parts in "off off off" "on off off" "off on off" "off off on" "off on on" "on off on" "on on off" "on on on"; do
    read -r clusters network region <<< "$parts"
    {
        echo "use_clustering = $(flag "$clusters")"
        echo "use_auxiliary_nn = $(flag "$network")"
        echo "use_trust_region = $(flag "$region")"
    } > "$work/config.toml"
    losses=()
    for seed in $seeds; do
        run=$work/$clusters-$network-$region-$seed
        "$hybridq" train --data "$data" --model "$model" --config "$work/config.toml" --steps "$steps" --seed "$seed" \
            --out "$run" > /dev/null
        losses+=("$(last "$run" val_loss)")
    done
    active=$(grep -o '"constraint_active": *[a-z0-9.]*' "$run/metrics.jsonl" |
        awk -F': *' '{ n++; s += ($2 == "true") ? 1 : $2 } END { printf "%.0f %%", n ? 100 * s / n : 0 }')
    mean=$(printf '%s\n' "${losses[@]}" | awk '{ s += $1 } END { printf "%.4f", s / NR }')
    each=$(printf '%.4f ' "${losses[@]}")
    milliseconds=$(awk "BEGIN { printf \"%.0f\", 1000 * $(last "$run" seconds) / $steps }")
    echo "| $clusters | $network | $region | $mean | $each| $milliseconds | $active |"
done
