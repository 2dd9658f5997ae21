#!/usr/bin/env bash
# Make the evaluation in this folder: five data sets, three seeds of surrogate, perturbations and target.
#
#     analysis/examples/evaluation/run.sh DATA
#
# DATA is that of ../recipe/run.sh. Started again after a stop, it continues.
set -euo pipefail
data=$1
recipe=$(dirname "$0")/../recipe/run.sh
controls="--arm clean --arm random_noise --arm pattern --arm uc evaluation.fractions=[1.0]"
scrapers="evaluation.countermeasures=[cutout,mixup,randaugment,jpeg75,jpeg10,blur,bit_depth]"
for set in flowers5 digits blood8 pneumoniamnist breastmnist; do
    SEEDS="0 1 2" EVALUATION=$controls "$recipe" "$data" "$set" base
    EVALUATION="--arm clean --arm uc evaluation.fractions=[1.0] $scrapers" "$recipe" "$data" "$set" base
done
bigbatch-ue report runs/recipe/{flowers5,digits,blood8,pneumoniamnist,breastmnist}/base-s?/evaluation \
    --out analysis/examples/evaluation
