#!/usr/bin/env bash
# Make the evaluation in this folder: five data sets, three seeds of surrogate, perturbations and target.
#
#     analysis/examples/evaluation/run.sh DATA
#
# DATA is that of ../recipe/run.sh. Started again after a stop, it continues.
set -euo pipefail
data=$1
recipe=$(dirname "$0")/../recipe/run.sh
whole="evaluation.fractions=[1.0]"
both="--arm clean --arm uc $whole"
controls="--arm clean --arm random_noise --arm pattern --arm uc $whole"
scrapers="evaluation.countermeasures=[cutout,mixup,randaugment,jpeg75,jpeg10,blur,bit_depth]"
adversarial="evaluation.countermeasures=[adversarial]"
for set in flowers5 digits blood8 pneumoniamnist breastmnist; do
    SEEDS="0 1 2" EVALUATION=$controls "$recipe" "$data" "$set" base
    EVALUATION="$both $scrapers" "$recipe" "$data" "$set" base
done

EVALUATION="--arm uc evaluation.fractions=[0.2,0.4,0.6]" "$recipe" "$data" flowers5 base
SEEDS="0 1 2" EVALUATION="--arm uc evaluation.fractions=[0.8]" "$recipe" "$data" flowers5 base
EVALUATION="$both $adversarial" "$recipe" "$data" flowers5 base
EVALUATION="--arm uc $whole $adversarial" "$recipe" "$data" digits base
for target in densenet121 regnetx_016; do
    EVALUATION="$both --target $target" "$recipe" "$data" flowers5 base
done
bigbatch-ue evaluate runs/recipe/flowers5/base-s0 --seed 0 --arm clean --arm uc "$whole" \
    target.model=tf_efficientnet_lite0 "target.args={}" target.weights=package \
    "target.fit={optimizer: adamw, epochs: 4, batch: 32, lr: 1e-3, weight_decay: 0.01}"
bigbatch-ue evaluate runs/recipe/blood8/base-s0 --seed 0 --arm clean --arm uc "$whole" \
    "evaluation.labels=[own, random:2, prototypes:4]"

bigbatch-ue report runs/recipe/{flowers5,digits,blood8,pneumoniamnist,breastmnist}/base-s?/evaluation \
    --out analysis/examples/evaluation
