#!/usr/bin/env bash
# Registers, shared memory, stack and spills of every kernel, as ptxas reported them when the program was built.
#
#   tools/resources.sh [BINARY]            rewrites kernels/RESOURCES.tsv
#   tools/resources.sh --check [BINARY]    compares with it: fails where a kernel spills more than the table says, and where the
#                                          table is out of date
#
# BINARY (default: target/release/psmt-fast) must have been built with nvcc, for the targets below at least.
set -euo pipefail

cd "$(dirname "$0")/.."
check=
if [[ ${1:-} == --check ]]; then
    check=yes
    shift
fi
bin=${1:-target/release/psmt-fast}
table=kernels/RESOURCES.tsv
new=$(mktemp)
trap 'rm -f "$new"' EXIT

# The oldest target and the one that matters most; the others compile the same text to nearly the same.
"$bin" doctor --kernels | awk -F '\t' 'NR == 1 || $3 == "80" || $3 == "90a"' >"$new"
for target in 80 90a; do
    if ! cut -f 3 "$new" | grep -qx "$target"; then
        echo "$bin has no kernels for sm_$target: install nvcc by tools/install_nvcc.sh and build without PSMT_CUDA_TARGETS" >&2
        exit 1
    fi
done

if [[ -z $check ]]; then
    cp "$new" "$table"
    column -t -s $'\t' "$table" 2>/dev/null || cat "$table"
    exit
fi
awk -F '\t' '
    FNR == 1 { next }
    { key = $2 " of kernels/" $1 ".cu for sm_" $3; spilled = $7 + $8 }
    FILENAME == ARGV[1] { known[key] = spilled; next }
    spilled > known[key] { print key " spills " spilled " bytes, the table allows " known[key] + 0; bad = 1 }
    END { exit bad }
' "$table" "$new" >&2
if ! diff "$table" "$new" >&2; then
    echo "$table is out of date: run tools/resources.sh and commit the table" >&2
    exit 1
fi
