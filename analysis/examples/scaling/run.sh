#!/usr/bin/env bash
# Make the measurements in this folder: speed, memory and traffic of optimizer steps on this machine.
#
#     analysis/examples/scaling/run.sh [FOLDER]
#
# It takes about 20 minutes on 2 CPU cores. Nothing else should run meanwhile.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-runs/scaling}
small=(--preset digits data.size=28 "surrogate.args={channels: [8, 16, 32, 64]}" generator.width=8)

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    # the setting of the study: ResNet-50, 224 px, 10 clusters
    bigbatch-ue bench --preset pets --batch 256 --micro 64 --out "$out"
    bigbatch-ue bench --preset pets --batch 256 --batch 1024 --micro auto --path delta \
        --path engine --out "$out"
    bigbatch-ue bench --preset pets compute.compile=graphs --batch 256 --micro auto --path delta \
        --out "$out"
    bigbatch-ue bench --preset pets --batch 4096 --batch 16384 --batch 65536 --micro auto \
        --path delta --rounds 1 --out "$out"
else
    bigbatch-ue bench --preset pets --batch 256 --micro 8 --at-most 4 --out "$out"
    bigbatch-ue bench --preset pets --batch 64 --micro 32 --at-most 1 --out "$out"
    bigbatch-ue bench "${small[@]}" clusters.count=2 --batch 1024 --batch 4096 --batch 16384 \
        --batch 65536 --micro auto --at-most 16 --out "$out"
    export OMP_NUM_THREADS=1
fi
for engine in ddp fsdp2 zero0 zero1 zero2 zero3; do
    accelerate launch --config_file "launchers/accelerate/$engine.yaml" --num_processes 2 -m bigbatch_ue \
        bench "${small[@]}" --batch 256 --micro 64 --out "$out"
done
python -m analysis scaling "$out" --out "$here"
