#!/usr/bin/env bash
# Scrapers whose labels are not the owner's: coarser ones, random ones, and finer ones. blood8, 2,000 images.
#
#     SEEDS="0 1 2" analysis/examples/recipe/labels.sh DATA
#
# DATA is that of run.sh. Started again after a stop, it continues.
set -euo pipefail
data=$1
here=$(dirname "$0")
other='evaluation.labels=[own, random:2, prototypes:4]'
EVALUATION="evaluation.arms=[clean,uc] evaluation.fractions=[1.0]" "$here/run.sh" "$data" blood8 "base nested4 features"
python - "$data" <<'PYTHON'
"""Write the share of blood8 that the runs above train on, and the same with its classes in four pairs.

A share depends on the labels, so that a limit would choose other images for the pairs.
"""
import sys
from pathlib import Path

import numpy as np

from bigbatch_ue.data.share import stratified_share

folder = Path(sys.argv[1])
with np.load(folder / "blood8.npz", allow_pickle=False) as arrays:
    share = stratified_share(arrays["train_labels"].ravel(), 2000)
    fine = {
        "train_images": arrays["train_images"][share],
        "train_labels": arrays["train_labels"][share],
        "test_images": arrays["test_images"],
        "test_labels": arrays["test_labels"],
    }
coarse = {key: value // 2 if key.endswith("labels") else value for key, value in fine.items()}
for name, content in (("blood8-2000", fine), ("blood4-2000", coarse)):
    if not (folder / f"{name}.npz").exists():
        np.savez_compressed(folder / f"{name}.npz", **content)
PYTHON
common=(--preset small "data.root=$data" target.fit.epochs=10)
for seed in ${SEEDS:-0}; do
    for variant in base nested4 features; do
        bigbatch-ue evaluate "runs/recipe/blood8/$variant-s$seed" --seed "$seed" \
            --arm clean --arm uc "evaluation.fractions=[1.0]" "$other"
    done
    coarse=runs/recipe/blood4/base-s$seed
    bigbatch-ue train "${common[@]}" --resume "data.name=npz:$data/blood4-2000.npz" "seed=$seed" "output=$coarse"
    [ -e "$coarse/protected" ] || bigbatch-ue protect "$coarse" --at training --form npz
    python - "$coarse" <<'PYTHON'
"""Leave the coarse labels out of the protected file: its images belong to the fine ones too."""
import sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
with np.load(folder / "protected" / "blood4-2000.npz", allow_pickle=False) as arrays:
    np.savez_compressed(folder / "perturbed.npz", train_images=arrays["train_images"])
PYTHON
    bigbatch-ue evaluate --protected "npz:$coarse/perturbed.npz" "${common[@]}" \
        "data.name=npz:$data/blood8-2000.npz" "seed=$seed" "evaluation.seeds=[$seed]" \
        "evaluation.arms=[clean, uc]" "evaluation.fractions=[1.0]" "output=runs/recipe/fine/base-s$seed"
done
