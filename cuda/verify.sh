#!/usr/bin/env bash
# `verify.sh prepare` builds the CUDA tests and the bench into cuda/verify/ (needs nvcc). `verify.sh` runs them on a machine with an
# NVIDIA driver and nothing else, from that folder, and writes to $OUT (default: cuda/verify/results).
set -uo pipefail
cd "$(dirname "$0")/.."
folder=cuda/verify
limit=$((60 * 1024 * 1024))

if [ "${1:-}" = prepare ]; then
    set -e
    mkdir -p "$folder"
    place() { # of the program called $1, from cargo's messages
        cp "$(sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)" "$folder/$1"
        strip --strip-debug "$folder/$1"
    }
    build=(--features cuda --no-run --message-format=json)
    cargo test --release --test cuda_matches_cpu "${build[@]}" | place cuda_matches_cpu
    cargo bench --bench cuda "${build[@]}" | place cuda
    bytes=$(du -sb "$folder" | cut -f1)
    [ "$bytes" -lt "$limit" ] || { echo "$folder: $bytes bytes, expected below $limit" >&2; exit 1; }
    echo "$folder: $bytes bytes; on the machine with a GPU: OUT=folder cuda/verify.sh"
    exit 0
fi

out=${OUT:-$folder/results}
mkdir -p "$out"
failed=0
note() { echo "$*" | tee -a "$out/summary.txt"; }

for program in cuda_matches_cpu cuda; do
    [ -x "$folder/$program" ] || { echo "$folder/$program: not there; run cuda/verify.sh prepare first" >&2; exit 1; }
done
nvidia-smi 2>/dev/null | tee "$out/device.txt" || note "nvidia-smi: not there"

note "== tests"
if timeout 120 "$folder/cuda_matches_cpu" >"$out/tests.txt" 2>&1; then note "tests: pass"; else note "tests: FAIL"; failed=1; fi
tail -n 20 "$out/tests.txt"

note "== compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        # Every launch is slowed a hundredfold: the tests with the smaller shapes.
        if timeout 100 compute-sanitizer --tool "$tool" --error-exitcode 9 "$folder/cuda_matches_cpu" --test-threads 1 \
            --skip ternary_products --skip two_threads --skip wrong_calls >"$out/$tool.txt" 2>&1; then
            note "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$out/$tool.txt" | tail -n 1)"
        else
            note "$tool: FAIL or out of time"; failed=1
        fi
        tail -n 3 "$out/$tool.txt"
    done
else
    note "compute-sanitizer: not there"
fi

note "== bench"
if timeout 180 "$folder/cuda" >"$out/bench.jsonl" 2>"$out/bench.txt"; then note "bench: done"; else note "bench: FAIL"; failed=1; fi
cat "$out/bench.txt" "$out/bench.jsonl"

note "== cuBLAS, through PyTorch"
timeout 60 python3 - >"$out/cublas.txt" 2>&1 <<'PYTHON' || note "cuBLAS: PyTorch is not there, or it failed (cublas.txt)"
import torch

def seconds(run):
    for _ in range(3):
        run()
    times = []
    for _ in range(9):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(10):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e4)
    return sorted(times)[4]

for n, k, m in [(4096, 4096, 512), (4096, 4096, 4096), (11008, 4096, 4096), (8192, 8192, 8192)]:
    for kind, multiply in [(torch.bfloat16, torch.matmul), (torch.int8, torch._int_mm)]:
        if kind == torch.int8:
            a = torch.randint(-128, 127, (m, k), dtype=kind, device="cuda")
            b = torch.randint(-128, 127, (n, k), dtype=kind, device="cuda").t()
        else:
            a, b = torch.randn(m, k, dtype=kind, device="cuda"), torch.randn(n, k, dtype=kind, device="cuda").t()
        print(f"{kind} {m} tokens, {n} x {k}: {2e-12 * m * n * k / seconds(lambda: multiply(a, b)):.0f} T/s")
PYTHON
cat "$out/cublas.txt"
cat "$out/summary.txt"
exit "$failed"
