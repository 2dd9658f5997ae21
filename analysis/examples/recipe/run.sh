#!/usr/bin/env bash
# Measurements behind the recipe of protection: what images are grouped by, targets, objective, steps, eps,
# surrogate, robust views. Each variant changes one thing of the preset.
#
#     analysis/examples/recipe/run.sh DATA flowers5 "base nested2 features"
#     SEEDS="0 1 2" analysis/examples/recipe/run.sh DATA pneumoniamnist base
#
# DATA contains flowers5/ (a folder with train/ and test/), blood8.npz, and medmnist/ with the official
# files at 28 pixels. Started again after a stop, it continues. table.py makes results.csv of all runs.
set -euo pipefail
data=$1
set=$2
variants=$3
declare -A sets=(
    [flowers5]="--preset small data.name=folder:$data/flowers5 data.size=64"
    [breastmnist]="--preset breastmnist surrogate.fit.epochs=20 target.fit.epochs=20"
    [pneumoniamnist]="--preset pneumoniamnist data.limit=2000 target.fit.epochs=10"
    [blood8]="--preset small data.name=npz:$data/blood8.npz data.limit=2000 target.fit.epochs=10"
    [digits]="--preset digits"
)
lite0="surrogate.model=tf_efficientnet_lite0 surrogate.args={} surrogate.weights=package"
declare -A settings=(
    [base]=""
    [nested2]="clusters.by=nested clusters.per_class=2"
    [nested4]="clusters.by=nested clusters.per_class=4"
    [features]="clusters.by=features"
    [shift]="clusters.target_map=shift"
    [farthest]="clusters.target_map=farthest"
    [cosine]="objective.name=cosine"
    [kl-0.1]="objective.temperature=0.1"
    [cross-entropy-0.1]="objective.name=cross_entropy objective.temperature=0.1"
    [steps30]="budget.steps=30"
    [steps60]="budget.steps=60"
    [steps120]="budget.steps=120"
    [steps240]="budget.steps=240"
    [eps4]="generator.eps=low"
    [eps8]="generator.eps=medium"
    [robust]="augment.robust=true"
    [robust240]="augment.robust=true budget.steps=240"
    [batch16]="batch.effective=16"
    [lite0]="$lite0"
    [lite0-224]="$lite0 surrogate.size=own budget.steps=30"
    [lite0-cross-entropy]="$lite0 objective.name=cross_entropy objective.temperature=0.1"
    [lite0-features]="$lite0 clusters.by=features"
    [lite0-224-features]="$lite0 surrogate.size=own clusters.by=features"
)
for variant in $variants; do
    for seed in ${SEEDS:-0}; do
        run=runs/recipe/$set/$variant-s$seed
        # shellcheck disable=SC2086 # each setting is a word of its own
        bigbatch-ue train ${sets[$set]} --resume "data.root=$data" \
            "seed=$seed" "output=$run" ${settings[$variant]}
        # shellcheck disable=SC2086
        bigbatch-ue evaluate "$run" --seed "$seed" ${EVALUATION:-evaluation.arms=[uc] evaluation.fractions=[1.0]}
    done
done
