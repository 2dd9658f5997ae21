#!/usr/bin/env bash
# Measurements behind the defaults of objective, place of the perturbation and bound; three seeds each.
#
#     analysis/examples/defaults/run.sh digits batch.effective=32
#     VARIANTS="default cosine after" analysis/examples/defaults/run.sh small \
#         data.name=npz:blood8_28.npz data.limit=4000
#
# Started again after a stop, it continues. `table.py` then makes results.csv from the runs.
set -euo pipefail
preset=$1
shift
declare -A settings=(
    [default]=""
    [kl-0.1]="objective.temperature=0.1"
    [cosine]="objective.name=cosine"
    [cross-entropy-0.1]="objective.name=cross_entropy objective.temperature=0.1"
    [after]="augment.perturb=after"
    [clamp]="generator.bound=clamp"
    [random-surrogate]="surrogate.weights=random"
)
for variant in ${VARIANTS:-default after clamp cosine kl-0.1 cross-entropy-0.1 random-surrogate}; do
    for seed in 0 1 2; do
        run=runs/defaults/$preset/$variant-s$seed
        # shellcheck disable=SC2086 # each setting is a word of its own
        bigbatch-ue train --preset "$preset" clusters.by=features --resume "$@" \
            "seed=$seed" "output=$run" ${settings[$variant]}
        arms=(--arm uc)
        if [ "$variant" = default ]; then
            arms=(--arm clean --arm random_noise --arm uc)
        fi
        bigbatch-ue evaluate "$run" --seed "$seed" "${arms[@]}" "evaluation.fractions=[1.0]"
    done
done
