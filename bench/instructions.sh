#!/bin/sh
# Instructions of one call of every kernel, counted by callgrind: the same on a noisy machine, so that a change shows. Prints a
# Markdown table: instructions for 1,000 units of work (elements; multiply-adds of products and k-means), the call included. Valgrind
# knows no AVX-512: the levels counted are portable and AVX2. Usage, from the repository: bench/instructions.sh
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for isa in portable avx2; do
    flags=--param=max-completely-peeled-insns=100 # portable
    [ $isa = avx2 ] && flags="-mavx2 -mfma -mpopcnt"
    for source in csrc/*/$isa.c; do # flags and level of optimization as in build.rs
        "${CC:-cc}" -O3 -std=c11 -ffp-contract=off -fno-math-errno -fno-trapping-math $flags \
            -c "$source" -o "$folder/$(basename "$(dirname "$source")")_$isa.o"
    done
done
"${CC:-cc}" -O2 -std=gnu11 -Wall -Wextra -Wno-missing-field-initializers -Icsrc bench/instructions.c "$folder"/*.o -rdynamic -lm -ldl -o "$folder/calls"
for isa in portable avx2; do
    valgrind --quiet --tool=callgrind --callgrind-out-file="$folder/$isa.out" "$folder/calls" $isa >"$folder/$isa.calls"
    # Lines of callgrind's: "12,345 ( 1.2%)  file:hqk_NAME_ISA [object]".
    callgrind_annotate --inclusive=yes --threshold=100 "$folder/$isa.out" |
        sed -n 's/^ *\([0-9,]*\) .*:hqk_\([a-z0-9_]*\)_'$isa' .*/\2 \1/p' | tr -d , >"$folder/$isa.counts"
done
echo "| kernel | shape | portable | AVX2 |"
echo "|---|---|---|---|"
awk -F';' -v folder="$folder" '
    function counts(isa,   line, word) {
        while ((getline line <(folder "/" isa ".counts")) > 0) { split(line, word, " "); if (!((isa, word[1]) in n)) n[isa, word[1]] = word[2] }
    }
    BEGIN { counts("portable"); counts("avx2") }
    function cell(isa, work) { return (isa, $1) in n ? sprintf("%.0f", 1000 * n[isa, $1] / work) : "" }
    FILENAME ~ /avx2.calls$/ { shape[$1] = $2; work[$1] = $3; next }
    { w = $1 in work ? work[$1] : $3; s = $2 == shape[$1] || !($1 in shape) ? $2 : $2 "; " shape[$1]
      printf "| %s | %s | %s | %s |\n", $1, s, cell("portable", $3), cell("avx2", w) }
' "$folder/avx2.calls" "$folder/portable.calls"
