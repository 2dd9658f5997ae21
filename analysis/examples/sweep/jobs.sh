#!/usr/bin/env bash
# Run a sweep as several jobs of one thread each, and wait for all: jobs.sh JOBS FILE
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
pids=()
for ((i = 1; i <= $1; i++)); do
    bigbatch-ue sweep --config "$2" --shard "$i/$1" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || [ $? -eq 1 ]; done  # 1: some cells failed
