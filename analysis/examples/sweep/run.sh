#!/usr/bin/env bash
# Make the sweep in this folder, from images to report. Started again after a stop, it continues.
#
#     analysis/examples/sweep/run.sh [JOBS]
#
# Run it in the folder that contains blood8.npz (see README.md beside this script). JOBS processes share the
# cells.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jobs=${1:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
pids=()
for ((i = 1; i <= jobs; i++)); do
    bigbatch-ue sweep --config "$here/sweep.yaml" --shard "$i/$jobs" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || [ $? -eq 1 ]; done  # 1: some cells failed
python -m analysis collect runs/sweep
python -m analysis report runs/sweep/analysis
cp -r runs/sweep/analysis/. "$here"
