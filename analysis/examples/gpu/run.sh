#!/usr/bin/env bash
# What must be seen on a GPU: `make gpu` runs all parts, each within nine minutes.
#
#     analysis/examples/gpu/run.sh FOLDER tests speed
#
# tests: every engine gives what one process gives on a CPU; the loss curves go to losses.json.
# speed: images per second of ResNet-50 at 224 pixels against the way of the public code.
#
# FOLDER gets the results. PYTHON is the interpreter, by default python.
set -euo pipefail
out=$1
shift
python=${PYTHON:-python}
bench=("$python" -m bigbatch_ue bench --preset pets --out "$out/bench")
mkdir -p "$out"
for part in "$@"; do
    case $part in
    tests)
        GPU_RESULTS=$out "$python" -m pytest -p no:cacheprovider -m gpu tests/gpu
        ;;
    speed)
        "${bench[@]}" --batch 256 --micro 64 --at-most 2
        "${bench[@]}" --batch 1024 --micro auto --path delta
        "${bench[@]}" compute.compile=graphs --batch 256 --micro 64 --path delta
        "$python" -m analysis scaling "$out/bench" --out "$out/scaling"
        ;;
    *)
        echo "error: $part: no such part; name tests or speed" >&2
        exit 2
        ;;
    esac
done
