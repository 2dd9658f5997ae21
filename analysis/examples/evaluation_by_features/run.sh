#!/usr/bin/env bash
# Make the evaluation in this folder: clusters by features, four data sets, three seeds of surrogate,
# perturbations and target.
#
#     analysis/examples/evaluation_by_features/run.sh DATA [I/N]
#
# DATA contains medmnist/breastmnist.npz, medmnist/pneumoniamnist.npz (the official files at 28 pixels)
# and blood8.npz (see README.md beside this script). Started again after a stop, it continues. I/N runs
# part I of N of the arms, so that several processes can share them.
set -euo pipefail
data=$1
shard=${2:-1/1}
narrow='target.args={channels: [8, 16, 32, 64]}'
controls='evaluation.fractions=[0.8, 1.0]'
partial='evaluation.fractions=[0.2, 0.4, 0.6, 0.8, 1.0]'
attacks='evaluation.countermeasures=[cutout, mixup, randaugment, jpeg75, jpeg10, blur, cluster_average, projection]'
six='evaluation.countermeasures=[cutout, mixup, jpeg75, jpeg10, cluster_average, projection]'
all='evaluation.countermeasures=all'
protected='evaluation.countered=[uc]'

evaluate() { # name, settings of the run, "--", settings of the evaluation
    local name=$1 settings=() seed run
    shift
    while [ "$1" != -- ]; do
        settings+=("$1")
        shift
    done
    shift
    for seed in 0 1 2; do
        run=runs/evaluation_by_features/$name-s$seed
        bigbatch-ue train --resume "${settings[@]}" clusters.by=features budget.steps=60 \
            "data.root=$data" "seed=$seed" "output=$run"
        bigbatch-ue evaluate "$run" --shard "$shard" --seed "$seed" "$@"
    done
}

evaluate digits --preset digits clusters.count=10 -- "$partial" "$all"
evaluate breastmnist --preset small data.name=breastmnist clusters.count=3 \
    surrogate.fit.epochs=20 target.fit.epochs=20 "$narrow" -- "$controls" "$attacks" "$protected"
evaluate pneumoniamnist --preset small data.name=pneumoniamnist data.limit=2000 clusters.count=3 \
    target.fit.epochs=10 "$narrow" -- "$controls" "$six" "$protected"
evaluate blood8 --preset small "data.name=npz:$data/blood8.npz" data.limit=2000 clusters.count=10 \
    target.fit.epochs=10 "$narrow" -- "$controls" "$six" "$protected"

bigbatch-ue report runs/evaluation_by_features/*/evaluation --out analysis/examples/evaluation_by_features
