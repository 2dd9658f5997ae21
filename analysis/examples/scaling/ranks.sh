#!/usr/bin/env bash
# Check the model of a step (bigbatch_ue/benchmark/step_time.py) with 1, 2 and 3 ranks of this machine.
#
#     analysis/examples/scaling/ranks.sh [FOLDER [OPTION OF BENCH]...]
#
# Measured for the prediction: steps of one rank; how much slower they are while one or two other processes
# do the same; and all-reduces of two ranks. Predicted, and measured to compare: steps of 1, 2 and 3 ranks
# under DDP. It takes about 3 minutes on 2 CPU cores. Nothing else should run meanwhile.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-runs/ranks}
export OMP_NUM_THREADS=1
settings=(--preset digits data.size=32 "surrogate.args={channels: [16, 32, 64, 128]}" generator.width=32
    clusters.count=2 clusters.by=features compute.compile=off --micro 64 --path delta "${@:2}")
# each B makes whole micro-batches of 64 on 1, 2 and 3 ranks
batches=(--batch 192 --batch 384 --batch 768)

if [ -e "$out" ]; then
    echo "error: $out: exists; name a new folder" >&2
    exit 2
fi
python -m bigbatch_ue bench "${settings[@]}" "${batches[@]}" --out "$out/1"
for ranks in 2 3; do
    processes=()
    for ((one = 1; one <= ranks; one++)); do
        python -m bigbatch_ue bench "${settings[@]}" --batch 768 --out "$out/busy-$ranks/$one" &
        processes+=($!)
    done
    for process in "${processes[@]}"; do wait "$process"; done
    python -m bigbatch_ue launch ddp --ranks "$ranks" -- bench "${settings[@]}" "${batches[@]}" \
        --out "$out/$ranks"
done
python -m bigbatch_ue.launch --config_file launchers/accelerate/ddp.yaml --num_processes 2 \
    "$here/ranks.py" links "$out"
python "$here/ranks.py" compare "$out"
