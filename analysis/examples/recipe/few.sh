#!/usr/bin/env bash
# Protection of few images: 10 to 80 photographs of a class, tested on all test images.
#
#     analysis/examples/recipe/few.sh FLOWERS
#
# FLOWERS has flowers' train/<class>/*.jpg and test/<class>/*.jpg. SEEDS are the seeds, by default 0 1 2.
# Then `python analysis/examples/recipe/table.py` writes results.csv.
set -euo pipefail
flowers=$1
for count in 10 20 40 80; do
    few=runs/recipe/data/flowers5-$count
    for class in "$flowers"/train/*/; do
        mkdir -p "$few/train/$(basename "$class")"
        find "$class" -name '*.jpg' | sort | shuf -n "$count" --random-source=<(yes 1) |
            xargs cp -t "$few/train/$(basename "$class")"
    done
    cp -r "$flowers/test" "$few/"
    for variant in base epochs60; do
        epochs=$([ "$variant" = base ] && echo 12 || echo 60)
        for seed in ${SEEDS:-0 1 2}; do
            run=runs/recipe/flowers5-$count/$variant-s$seed
            bigbatch-ue train --preset small "data.name=folder:$few" data.size=64 --resume \
                "target.fit.epochs=$epochs" "seed=$seed" "output=$run"
            bigbatch-ue evaluate "$run" --arm clean --arm uc --seed "$seed" "evaluation.fractions=[1.0]"
        done
    done
done
