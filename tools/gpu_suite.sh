#!/usr/bin/env bash
# Everything that a machine with a GPU and no Rust toolchain can prove with the built program.
#
#   tools/gpu_suite.sh BINARY OUTDIR [DEVICE]      DEVICE: cuda (default), cuda:1, emulated, cpu
#
# Needs this repository's tests/fixtures, bash, awk and timeout. Uses compute-sanitizer where it is on PATH, under CUDA_HOME
# or in /usr/local/cuda, and works. Runs all items even when some fail, what proves the most first; logs and JSON go to OUTDIR,
# a short table is printed last. The exit code is 0 when nothing failed. Ends within PSMT_SUITE_SECONDS (480): items that no
# longer fit count as failed. A further call with the same OUTDIR, program and device goes on: it repeats what has not passed.
set -uo pipefail

if [[ $# -lt 2 || $# -gt 3 ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
device=${3:-cuda}
fixtures=$here/tests/fixtures
deadline=$((SECONDS + ${PSMT_SUITE_SECONDS:-480}))
rows=()
failed=0

# What an earlier call of the same program has proved: NAME to its line of the table.
declare -A passed=()
identity="$(sha256sum "$bin" | cut -c1-64) $device"
if [[ -f $out/passed.tsv && $(head -n 1 "$out/passed.tsv") == "$identity" ]]; then
    while IFS= read -r line; do
        passed[${line%%$'\t'*}]=$line
    done < <(tail -n +2 "$out/passed.tsv")
else
    echo "$identity" >"$out/passed.tsv"
fi

# row NAME RESULT SECONDS NOTE: a line of the table.
row() {
    rows+=("$1"$'\t'"$2"$'\t'"$3"$'\t'"$4")
    [[ $2 != ok ]] || echo "${rows[-1]}" >>"$out/passed.tsv"
    [[ $2 == ok || $2 == skipped ]] || failed=$((failed + 1))
    echo "$1: $2${4:+ ($4)}"
}

# item NAME LIMIT COMMAND...: runs it with its output in NAME.log, whose last line is the note.
item() {
    local name=$1 limit=$2 start=$SECONDS left=$((deadline - SECONDS)) code result
    shift 2
    if [[ -n ${passed[$name]:-} ]]; then
        rows+=("${passed[$name]}")
        echo "$name: passed in an earlier call"
        return 0
    fi
    if ((left <= 0)); then
        row "$name" "no time" 0 ""
        return 1
    fi
    if [[ $(type -t "$1") != function ]]; then
        set -- timeout --kill-after=5 "$((limit < left ? limit : left))" "$@"
    fi
    "$@" >"$out/$name.log" 2>&1
    code=$?
    case $code in
    0) result=ok ;;
    124 | 137) result="too long" ;;
    *) result=FAILED ;;
    esac
    row "$name" "$result" "$((SECONDS - start))" "$(tail -n 1 "$out/$name.log" | tr -d "\000-\037" | cut -c1-100)"
    return "$code"
}

# anew NAME: removes the run that an item of this name is about to train.
anew() {
    [[ -n ${passed[$1]:-} ]] || rm -rf "${out:?}/$1"
}

skip() {
    row "$1" skipped 0 "$2"
}

# same_losses RUN RUN TOLERANCE: the losses of two runs agree, relative to their size (at least 0.1), at every step.
same_losses() {
    awk -v tolerance="$3" -f "$here/tools/same_losses.awk" "$1/metrics.jsonl" "$2/metrics.jsonl"
}

item doctor 60 "$bin" doctor
timeout 60 "$bin" doctor --json >"$out/doctor.json"
if [[ $device == cuda* && -z ${passed[gpu]:-} ]]; then
    if grep -q '"auto": "cuda' "$out/doctor.json"; then
        row gpu ok 0 "$(sed -n 's/.*"name": "\(.*\)",/\1/p' "$out/doctor.json" | tail -n 1)"
    else
        row gpu FAILED 0 "$(sed -n 's/.*"auto_reason": "\(.*\)".*/\1/p' "$out/doctor.json" | cut -c1-100)"
    fi
fi

# What kernels are built on, then every op against the stored results, by the bars of docs/precision.md.
check=("$bin" op --check --device "$device" --precision)
if [[ $device == cpu ]]; then
    skip selftest "the processor runs no kernels"
else
    item selftest 60 "$bin" selftest --device "$device" --json "$out/selftest.json"
fi
item op-f32 100 "${check[@]}" f32 "$fixtures"/*.safetensors
if [[ $device == cpu ]]; then
    skip op-bf16 "the processor computes in f32 and f64"
else
    item op-bf16 100 "${check[@]}" bf16 "$fixtures"/*.safetensors
fi

# The fixtures' convolutions are small and would take the smallest tile: each tile is asked for.
tiles=(f32:large f32:small bf16:large bf16:small)
convolutions=("$fixtures"/conv2d_*.safetensors)
# The emulator needs minutes for whole networks in one tile.
[[ $device != cuda* ]] || convolutions+=("$fixtures"/{network,train_step,tvat}_*.safetensors)
if [[ $device == cpu ]]; then
    tiles=()
    skip tiles "the processor has no tiles"
elif [[ $device == emulated* ]] || grep -q '"compute_capability": "9.0"' "$out/doctor.json"; then
    tiles+=(bf16:wgmma64 bf16:wgmma128 bf16:wgmma256 bf16:wgmma256x2)
else
    skip wgmma "needs compute capability 9.0"
fi
for tile in "${tiles[@]}"; do
    item "op-${tile/:/-}" 60 "${check[@]}" "${tile%:*}" --tile "${tile#*:}" \
        "${convolutions[@]}"
done

# Values of large convolutions with the tiles that a card takes for them, compared before they are timed.
if [[ $device == cuda* ]]; then
    item bench-layers 240 "$bin" bench layers --device "$device" --model r50 --crop 512 --batch 8 --steps 5 \
        --json "$out/bench-layers.json"
else
    item bench-layers 60 "$bin" bench layers --device "$device" --steps 1 --json "$out/bench-layers.json"
fi

# What memory a step of the largest recipe takes, planned before anything runs.
widths=(--set model.stem_width=64 --set model.planes=64 --set model.aspp=256 --set model.low_level=48)
item dry-run 30 "$bin" train --dry-run --device "$device" --model resnet50 --crop 512 --batch-size 8 --num-classes 21 \
    "${widths[@]}"

# Five steps of warm-up and five of the whole method on drawn scenes follow the processor's losses.
# The settings of tools/lab/tests/lab/steps.rs. The rate is low: rounding grows a hundredfold a step where training is as fast as it can be.
steps=(train --epochs 1 --warm-up-passes 1 --steps-per-epoch 5 --lr 0.0002 --ramp-up constant --threshold 0.3 --crop 41
    --val-every 2 --set run.log_every=1 --set run.pictures=0 --set data.demo_labeled=20 --set data.demo_unlabeled=8
    --set data.demo_val=4)
anew steps-cpu
item steps-cpu 100 "$bin" "${steps[@]}" --device cpu --out "$out/steps-cpu"
if [[ $device != cpu ]]; then
    anew "steps-$device"
    item "steps-$device" 60 "$bin" "${steps[@]}" --precision f32 --device "$device" --out "$out/steps-$device"
    item steps-compare 10 same_losses "$out/steps-cpu" "$out/steps-$device" 1e-3
fi
# Kernels launched one by one give the same bits as the graph of a step.
if [[ $device == cuda* ]]; then
    anew steps-launches
    item steps-launches 60 env PSMT_CUDA_GRAPHS=0 "$bin" "${steps[@]}" --precision f32 --device "$device" \
        --out "$out/steps-launches"
    item graph-compare 10 same_losses "$out/steps-$device" "$out/steps-launches" 0
else
    skip graph-compare "for GPUs only"
fi

# Every derivative against finite differences.
item gradcheck 150 "$bin" gradcheck --device "$device"

# One fixture an op under each tool. Without the cache every buffer is an allocation of its own, with bounds that the tools
# see; waiting for each kernel makes their reports name it.
sanitizer=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin type -P compute-sanitizer)
if [[ $device != cuda* ]]; then
    skip sanitizer "for GPUs only"
elif [[ -z $sanitizer ]]; then
    skip sanitizer "compute-sanitizer was not found"
elif ! timeout 60 "$sanitizer" --tool memcheck "$bin" doctor >"$out/sanitizer.log" 2>&1; then
    # As where the system lets no tool attach to the card.
    skip sanitizer "compute-sanitizer does not work here: $(tail -n 1 "$out/sanitizer.log" | tr -d "\000-\037" | cut -c1-70)"
else
    selection=()
    for file in "$fixtures"/*_0.safetensors "$fixtures"/ohem_cross_entropy_00.safetensors; do
        case $(basename "$file") in
        network_* | train_step_* | schedule_* | resize_*) ;;
        *) selection+=("$file") ;;
        esac
    done
    for tool in memcheck racecheck synccheck initcheck; do
        for type in f32 bf16; do
            item "$tool-$type" 45 env PSMT_CUDA_CACHE=0 PSMT_CUDA_BLOCKING=1 \
                "$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 20 \
                "${check[@]}" "$type" "${selection[@]}"
        done
    done
    # Of each tile those accesses that its convolutions make.
    for tile in "${tiles[@]}"; do
        item "memcheck-${tile/:/-}" 45 env PSMT_CUDA_CACHE=0 PSMT_CUDA_BLOCKING=1 \
            "$sanitizer" --tool memcheck --error-exitcode 99 --print-limit 20 \
            "${check[@]}" "${tile%:*}" --tile "${tile#*:}" "$fixtures"/conv2d_*.safetensors
    done
    item memcheck-step 60 env PSMT_CUDA_CACHE=0 "$sanitizer" --tool memcheck --error-exitcode 99 --print-limit 20 \
        "$bin" bench step --device "$device" --model tiny --crop 33 --batch 2 --steps 1 --warmup 0
fi

# Speed proves nothing, but what is timed is checked first, and a step that fails does.
item bench-tiny 30 "$bin" bench step --device "$device" --model tiny --crop 96 --batch 2 --steps 5 \
    --json "$out/bench-tiny.json"
if [[ $device == cuda* ]]; then
    sizes=(--device "$device" --model r50 --crop 512 --batch 8)
    for what in step forward loss tvat; do
        item "bench-$what" 60 "$bin" bench "$what" "${sizes[@]}" --json "$out/bench-$what.json"
    done
    item bench-launches 60 env PSMT_CUDA_GRAPHS=0 "$bin" bench step "${sizes[@]}" --json "$out/bench-launches.json"
    item bench-kernels 120 "$bin" bench kernels "${sizes[@]}" --steps 5 --json "$out/bench-kernels.json"
else
    for what in forward loss tvat kernels; do
        item "bench-$what" 30 "$bin" bench "$what" --device "$device" --steps 1 --json "$out/bench-$what.json"
    done
fi

{
    printf '{"device": "%s", "failed": %d, "items": [' "$device" "$failed"
    separator=
    for line in "${rows[@]}"; do
        IFS=$'\t' read -r name result seconds note <<<"$line"
        note=${note//\\/\\\\}
        note=${note//\"/\\\"}
        printf '%s\n  {"item": "%s", "result": "%s", "seconds": %d, "note": "%s"}' \
            "$separator" "$name" "$result" "$seconds" "$note"
        separator=,
    done
    printf '\n]}\n'
} >"$out/suite.json"

printf '\n%-22s %-8s %5s  %s\n' item result "s" note
for line in "${rows[@]}"; do
    IFS=$'\t' read -r name result seconds note <<<"$line"
    printf '%-22s %-8s %5d  %s\n' "$name" "$result" "$seconds" "$note"
done
echo "$failed of ${#rows[@]} items failed; logs and suite.json are in $out"
((failed == 0))
