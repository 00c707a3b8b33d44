# Whether the losses of two runs agree, relative to their size (at least 0.1), at every step:
#   awk -v tolerance=1e-3 -f same_losses.awk RUN/metrics.jsonl OTHER/metrics.jsonl
# Prints how many there are and how far off the worst is; the exit code is 0 where they agree.

# The value of a key, or "" where there is none or it is not a number. Adding 0 makes it a number: substrings compare as text.
function number(key) {
    if (!match($0, "\"" key "\":[-+0-9.eE]+")) return ""
    return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0
}

function magnitude(value) {
    return value < 0 ? -value : value
}

function compare(what, value,    size, off) {
    if (value == "") return
    if (FILENAME == ARGV[1]) {
        expected[what] = value
        wanted++
        return
    }
    if (!(what in expected)) {
        print what " is not in the first run"
        bad = 1
        return
    }
    size = magnitude(expected[what])
    off = magnitude(value - expected[what]) / (size > 0.1 ? size : 0.1)
    if (off > worst) {
        worst = off
        where = ", in " what
    }
    compared++
}

/"kind":"step"/ {
    compare("loss_sup of step " number("step"), number("loss_sup"))
    compare("loss_unsup of step " number("step"), number("loss_unsup"))
}

END {
    printf "%d losses, off by at most %.1e of %s allowed%s\n", compared, worst, tolerance, where
    exit bad || compared < 10 || compared < wanted || worst > tolerance + 0
}
