#!/usr/bin/env bash
# Kills a training at random moments and resumes it, until it ends; its checkpoint must have the bits of a run that nobody
# killed. Again and again for a time:
#   tools/kill_loop.sh PROGRAM [SECONDS]
# Exits with 1 at the first difference, and leaves both runs' folders where it says.
set -euo pipefail
program=$(realpath "${1:?usage: tools/kill_loop.sh PROGRAM [SECONDS]}")
seconds=${2:-60}
work=$(mktemp -d)
args=(--threads 1 train --set data.demo_labeled=8 --set data.demo_unlabeled=16 --set data.demo_val=4 --set data.demo_size=48
    --crop 48 --warm-up-passes 4 --epochs 4 --steps-per-epoch 10 --checkpoint-every 3)

fail() {
    echo "$1; the folders are in $work" >&2
    exit 1
}
"$program" "${args[@]}" --out "$work/whole" >/dev/null 2>"$work/whole.log" || fail "the run that nobody killed failed"

kills=0 runs=0
while ((SECONDS < seconds)); do
    rm -rf "$work/killed"
    "$program" "${args[@]}" --out "$work/killed" >/dev/null 2>"$work/killed.log" &
    while :; do
        # Up to a second and a half, in thousandths: longer than the program takes to start.
        sleep "$(printf '0.%03d' $((RANDOM % 1000)))"
        ((RANDOM % 2)) || sleep 0.5
        if [[ -z $(jobs -rp) ]]; then
            wait $! || fail "a resumed run failed"
            break
        fi
        kill -KILL $! 2>/dev/null || true
        wait $! 2>/dev/null || true
        kills=$((kills + 1))
        if [[ -e $work/killed/config.toml ]]; then
            "$program" --threads 1 train --resume "$work/killed" >/dev/null 2>"$work/killed.log" &
        else
            "$program" "${args[@]}" --out "$work/killed" >/dev/null 2>"$work/killed.log" &
        fi
    done
    for file in last best; do
        cmp -s "$work/whole/checkpoints/$file.safetensors" "$work/killed/checkpoints/$file.safetensors" ||
            fail "$file.safetensors differs"
    done
    [[ -z $(find "$work/killed" -name '.*.tmp') ]] || fail "temporary files are left"
    runs=$((runs + 1))
done
rm -rf "$work"
echo "$kills kills in $runs runs: all ended with the same bits"
