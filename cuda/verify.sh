#!/usr/bin/env bash
# `verify.sh prepare` builds the CUDA tests and the bench into cuda/verify/ (needs nvcc). `verify.sh` runs them on a machine with an
# NVIDIA driver and nothing else, from that folder, and writes to $OUT (default: cuda/verify/results). What takes longest and
# matters least, the sanitizer, comes last; everything ends within $LIMIT seconds (default 540).
set -uo pipefail
cd "$(dirname "$0")/.."
folder=cuda/verify
limit=$((60 * 1024 * 1024))

if [ "${1:-}" = prepare ]; then
    set -e
    mkdir -p "$folder"
    place() { # of the program called $1, from cargo's messages
        program=$(sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)
        [ -n "$program" ] || { echo "$1: cargo built no such program" >&2; exit 1; }
        cp "$program" "$folder/$1"
        strip --strip-debug "$folder/$1"
    }
    build=(--release --features cuda --no-run --message-format=json)
    ${CARGO:-cargo} test --test cuda_matches_cpu "${build[@]}" | place cuda_matches_cpu
    ${CARGO:-cargo} test --bench cuda "${build[@]}" | place cuda
    bytes=$(du -sb "$folder" | cut -f1)
    [ "$bytes" -lt "$limit" ] || { echo "$folder: $bytes bytes, expected below $limit" >&2; exit 1; }
    echo "$folder: $bytes bytes; on the machine with a GPU: OUT=folder cuda/verify.sh"
    exit 0
fi

out=${OUT:-$folder/results}
mkdir -p "$out"
: >"$out/summary.txt"
failed=0
note() { echo "$*" | tee -a "$out/summary.txt"; }
# Runs a command for at most $1 seconds, and never beyond the whole's end.
within() {
    local most=$1 left=$((${LIMIT:-540} - SECONDS))
    shift
    [ "$left" -gt 0 ] || return 124
    timeout --kill-after=5 "$((most < left ? most : left))" "$@"
}
passed() { # what $1 came to, from its exit status $2
    case $2 in
        0) note "$1: pass" ;;
        124 | 137) note "$1: out of time after ${SECONDS}s in all"; failed=1 ;;
        *) note "$1: FAIL ($2)"; failed=1 ;;
    esac
}

# An archive may not keep the permission to run.
chmod +x "$folder/cuda_matches_cpu" "$folder/cuda" 2>/dev/null
for program in cuda_matches_cpu cuda; do
    [ -x "$folder/$program" ] || { echo "$folder/$program: not there; run cuda/verify.sh prepare first" >&2; exit 1; }
done
# Containers keep the driver where the loader may not look.
for place in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib; do
    [ -e "$place/libcuda.so.1" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$place"
done
# No thresholds of this machine's user.
export HYBRIDQ_DISPATCH_CACHE=off
nvidia-smi >"$out/device.txt" 2>&1 || note "nvidia-smi: not there, or it failed"
cat "$out/device.txt"

note "== tests"
within 120 "$folder/cuda_matches_cpu" >"$out/tests.txt" 2>&1
passed tests $?
tail -n 30 "$out/tests.txt"

note "== cuBLAS, through PyTorch (${SECONDS}s so far)"
if ! python3 -c 'import torch' 2>/dev/null; then
    note "cuBLAS: no PyTorch here, products have no ceiling"
else
    within 90 python3 - >"$out/cublas.jsonl" 2>"$out/cublas.txt" <<'PYTHON'
import json
import torch

def seconds(run):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(9):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(20):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 2e4)
    return sorted(times)[4]

shapes = [(4096, 4096, 512), (11008, 4096, 512), (4096, 4096, 4096), (11008, 4096, 4096), (8192, 8192, 8192)]
for rows, cols, tokens in shapes:
    for kind in ["bf16", "int8"]:
        try:
            if kind == "int8":
                a = torch.randint(-128, 127, (tokens, cols), dtype=torch.int8, device="cuda")
                b = torch.randint(-128, 127, (rows, cols), dtype=torch.int8, device="cuda").t()
                run = lambda: torch._int_mm(a, b)
            else:
                a = torch.randn(tokens, cols, dtype=torch.bfloat16, device="cuda")
                b = torch.randn(rows, cols, dtype=torch.bfloat16, device="cuda").t()
                run = lambda: torch.matmul(a, b)
            value = 2e-12 * tokens * rows * cols / seconds(run)
        except Exception as error:
            print(json.dumps({"kind": kind, "rows": rows, "cols": cols, "tokens": tokens, "error": str(error)[:200]}))
            continue
        print(json.dumps({"kind": kind, "rows": rows, "cols": cols, "tokens": tokens, "value": value, "unit": "TOP/s"}), flush=True)
PYTHON
    passed cuBLAS $?
    cat "$out/cublas.txt" "$out/cublas.jsonl"
fi

note "== bench (${SECONDS}s so far)"
touch "$out/cublas.jsonl"
within 240 "$folder/cuda" "$out/cublas.jsonl" >"$out/bench.jsonl" 2>"$out/bench.txt"
passed bench $?
cat "$out/bench.jsonl" "$out/bench.txt"
grep -E 'wanted .*: (met|MISSED|NOT MEASURED)$' "$out/bench.txt" >>"$out/summary.txt"

note "== compute-sanitizer (${SECONDS}s so far)"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2>/dev/null | head -n 1)
if [ -z "$sanitizer" ]; then
    note "compute-sanitizer: not there"
else
    # Every launch is slowed a hundredfold: the smaller shapes. A refused allocation and a host pointer are errors to it.
    for tool in memcheck racecheck; do
        within $(((${LIMIT:-540} - SECONDS) / 2 + 1)) "$sanitizer" --tool "$tool" --error-exitcode 9 "$folder/cuda_matches_cpu" \
            --test-threads 1 --skip large --skip two_threads --skip wrong_calls >"$out/$tool.txt" 2>&1
        passed "$tool" $?
        note "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$out/$tool.txt" | tail -n 1)"
        grep -E '^test .* ok$' "$out/$tool.txt" | sed "s/^/$tool /"
    done
fi
note "== ${SECONDS}s in all"
cat "$out/summary.txt"
exit "$failed"
