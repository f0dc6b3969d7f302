#!/usr/bin/env bash
# Kills a training run with SIGKILL at random moments, resumes it each time, and compares its metrics with those of a run
# that was never disturbed: equal to the last digit, times excepted. (tests/resume_program.rs kills inside the writing of
# checkpoints.)
#
#   tests/long/kill_resume.sh TEXT_FILE [KILLS, default 20]
set -euo pipefail
data=$(realpath "${1:?usage: kill_resume.sh TEXT_FILE [KILLS]}")
random_kills=${2:-20}
root=$(cd "$(dirname "$0")/../.." && pwd)
hybridq=${HYBRIDQ:-$root/target/release/hybridq}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/model.json" <<'JSON'
{"model_type": "bitnet", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
 "vocab_size": 256, "max_position_embeddings": 64, "hidden_act": "silu"}
JSON
train=("$hybridq" train --data "$data" --model "$work/model.json" --seq 64 --batch 8 --steps 500 --seed 5
    --checkpoint-every 50 --eval-every 100 --eval-windows 8)

# Metrics without the keys that hold times.
untimed() { sed -E 's/"(seconds|tokens_per_s)": ?[0-9.eE+-]+,?//g' "$1/metrics.jsonl"; }

"${train[@]}" --out "$work/whole" > "$work/whole.log" 2>&1
start=$(date +%s%N)
"${train[@]}" --out "$work/timing" > /dev/null 2>&1
length_ms=$((($(date +%s%N) - start) / 1000000))
untimed "$work/whole" > "$work/expected"
untimed "$work/timing" | cmp - "$work/expected" && echo "two undisturbed runs agree; one takes $length_ms ms"

# Starts the run of folder $1, or resumes it where it was started before.
launch() {
    if [ -e "$1/config.toml" ]; then
        "$hybridq" train --resume --out "$1" > "$1.log" 2>&1 &
    else
        "${train[@]}" --out "$1" > "$1.log" 2>&1 &
    fi
    pid=$!
}

finish() {
    "$hybridq" train --resume --out "$1" > "$1.log" 2>&1 || { cat "$1.log"; echo "FAILED: $1 cannot be resumed"; exit 1; }
    if ! untimed "$1" | cmp -s - "$work/expected"; then
        echo "FAILED: the metrics of $1 differ"
        diff <(untimed "$1") "$work/expected" | head -n 6
        exit 1
    fi
}

RANDOM=7
kills=0 run=0
while [ "$kills" -lt "$random_kills" ]; do
    run=$((run + 1))
    for _ in 1 2 3 4; do
        [ "$kills" -lt "$random_kills" ] || break
        launch "$work/random-$run"
        sleep "$(awk "BEGIN { print ($RANDOM % 1000) / 1000 * $length_ms / 4000 }")"
        if kill -9 "$pid" 2>/dev/null; then kills=$((kills + 1)); fi
        wait "$pid" 2>/dev/null || true
    done
    [ -e "$work/random-$run/config.toml" ] || launch "$work/random-$run"
    wait "$pid" 2>/dev/null || true
    finish "$work/random-$run"
    echo "$kills of $random_kills kills: metrics equal"
done

echo "all resumed runs equal the undisturbed one"
