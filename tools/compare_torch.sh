#!/usr/bin/env bash
# Times the same work in PyTorch and in the built program, one right after the other, and prints the ratios.
#
#   tools/compare_torch.sh PATH/TO/bench_torch.py BINARY OUTDIR [DEVICE]      DEVICE: cuda (default), cpu
#
# bench_torch.py is the plain PyTorch implementation of the same iteration; it needs a Python with torch, $PYTHON or python3.
# JSON and logs of every measurement go to OUTDIR, ratios.json too. Sizes and forms by environment:
#   PSMT_MODEL=r50 PSMT_CROP=512 PSMT_BATCH=8 PSMT_CLASSES=21 PSMT_STEPS=20 PSMT_WARMUP=5
#   PSMT_WHAT="step step-exact loss tvat tvat-exact forward layers"
#   PSMT_FORMS="compiled tf32 plain": compiled is bf16, channels last, torch.compile; on a CPU the default is plain alone
#   PSMT_SECONDS=600: the most that one measurement may take
# PyTorch's compiled form is set beside the program in bf16, the others beside f32. The exit code is 1 where the program
# failed; a form that PyTorch cannot run is a row that says so.
set -uo pipefail

if [[ $# -lt 3 || $# -gt 4 ]]; then
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
torch=$(realpath "$1")
bin=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
device=${4:-cuda}
python=${PYTHON:-python3}
[[ $device == cpu ]] && usual=plain || usual="compiled tf32 plain"
read -ra forms <<<"${PSMT_FORMS:-$usual}"
read -ra whats <<<"${PSMT_WHAT:-step step-exact loss tvat tvat-exact forward layers}"
for word in "${forms[@]}" "${whats[@]}"; do
    case $word in
    compiled | tf32 | plain | step | step-exact | loss | tvat | tvat-exact | forward | layers) ;;
    *)
        echo "PSMT_FORMS, PSMT_WHAT: unknown $word" >&2
        exit 2
        ;;
    esac
done
sizes=(--device "$device" --model "${PSMT_MODEL:-r50}" --crop "${PSMT_CROP:-512}" --batch "${PSMT_BATCH:-8}")
sizes+=(--classes "${PSMT_CLASSES:-21}" --steps "${PSMT_STEPS:-20}" --warmup "${PSMT_WARMUP:-5}")
limit=(timeout --kill-after=10 "${PSMT_SECONDS:-600}")
failed=0

if ! "$python" -c 'import torch' 2>"$out/python.log"; then
    echo "$python has no torch (see $out/python.log); set PYTHON" >&2
    exit 2
fi

# theirs WHAT FORM NAME: one measurement of PyTorch, a line of JSON each in NAME.jsonl.
theirs() {
    local flags=(--what "${1%-exact}")
    case $1 in
    *-exact) flags+=(--tvat exact) ;;
    esac
    case $2 in
    compiled) flags+=(--amp bf16 --channels-last --compile) ;;
    tf32) flags+=(--tf32) ;;
    esac
    rm -f "$out/$3.jsonl"
    "${limit[@]}" "$python" "$torch" "${sizes[@]}" "${flags[@]}" >"$out/$3.part" 2>"$out/$3.log" &&
        mv "$out/$3.part" "$out/$3.jsonl"
}

# ours WHAT PRECISION NAME: one measurement of the program in NAME.json.
ours() {
    local flags=()
    case $1 in
    step | tvat) flags=(--tvat finite-difference) ;;
    *-exact) flags=(--tvat exact) ;;
    # PyTorch's layers read the same memory each time.
    layers) flags=(--cache warm) ;;
    esac
    rm -f "$out/$3.json"
    flags+=(--precision "$2" --json "$out/$3.json")
    "${limit[@]}" "$bin" bench "${1%-exact}" "${sizes[@]}" "${flags[@]}" >"$out/$3.log" 2>&1
}

pairs=()
for what in "${whats[@]}"; do
    for form in "${forms[@]}"; do
        precision=f32
        [[ $form == compiled && $device != cpu ]] && precision=bf16
        names=("torch-$what-$form" "psmt-$what-$form")
        echo "$what: PyTorch $form, psmt-fast $precision"
        theirs "$what" "$form" "${names[0]}" || echo "  PyTorch failed: $(tail -n 1 "$out/${names[0]}.log")"
        if ! ours "$what" "$precision" "${names[1]}"; then
            failed=1
            echo "  psmt-fast failed: $(grep -m 1 error "$out/${names[1]}.log")"
        fi
        pairs+=("$what" "$form" "$precision" "${names[0]}.jsonl" "${names[1]}.json")
    done
done

"$python" - "$out" "${pairs[@]}" <<'PYTHON'
"""The table of ratios, and the same as JSON."""
import json
import pathlib
import sys

out, rest = pathlib.Path(sys.argv[1]), sys.argv[2:]
rows = []


def read(name, lines):
    path = out / name
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")] if lines else [json.loads(text)]


def row(what, detail, form, precision, theirs, ours):
    ratio = theirs / ours if theirs and ours else None
    rows.append(dict(what=what, detail=detail, form=form, precision=precision, torch_ms=theirs, psmt_ms=ours, ratio=ratio))


def layer(r):
    """What makes a convolution distinct on both sides."""
    return (r["what"], tuple(r["x"]), tuple(r["w"]), r["stride"], r["padding"], r["dilation"])


for what, form, precision, theirs, ours in zip(*[iter(rest)] * 5):
    theirs, ours = read(theirs, True), read(ours, False)
    if what != "layers":
        row(what, "", form, precision, theirs[0]["median_ms"] if theirs else None, ours[0]["median_ms"] if ours else None)
        continue
    known = {}
    for r in ours[0]["rows"] if ours else []:
        known.setdefault(layer(r), r["median_ms"])
    total = {}
    for r in theirs:
        key = layer(r)
        n, c, h, w = key[1]
        detail = f"{n}x{h}x{w}x{c} to {key[2][0]} {key[2][2]}x{key[2][3]} stride {key[3]} dilation {key[5]}"
        row(r["what"], detail, form, precision, r["median_ms"], known.get(key))
        if key in known:
            pair = total.setdefault(r["what"], [0, 0])
            pair[0] += r["median_ms"]
            pair[1] += known[key]
    for name, (a, b) in total.items():
        row(name, "all layers once", form, precision, a, b)
    if not total:
        row(what, "", form, precision, None, None)

print(f"\n{'what':<14}{'':<46}{'PyTorch':<10}{'ms':>10}  {'psmt-fast':<10}{'ms':>10}{'ratio':>8}")
for r in rows:
    ms = lambda v: "failed" if v is None else f"{v:.3f}"
    ratio = "-" if r["ratio"] is None else f"{r['ratio']:.2f}"
    print(f"{r['what']:<14}{r['detail']:<46}{r['form']:<10}{ms(r['torch_ms']):>10}  {r['precision']:<10}{ms(r['psmt_ms']):>10}{ratio:>8}")
print("ratio: PyTorch's time over psmt-fast's; above 1 psmt-fast is faster")
(out / "ratios.json").write_text(json.dumps(rows, indent=1) + "\n")
PYTHON
(($? == 0 && failed == 0))
