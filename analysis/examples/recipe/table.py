"""Collect the runs of `run.sh` into results.csv, one row for each trained target."""

import math
from pathlib import Path

import pandas as pd

from bigbatch_ue.runs.result import read_result

HERE = Path(__file__).parent
SHOWN = ["arm", "countermeasure", "fraction", "labels", "target", "seed"]
MEASURED = ["final_accuracy", "peak_accuracy", "balanced_accuracy", "auc"]


def main() -> None:
    """Write the evaluations of `runs/recipe/<set>/<variant>-s<seed>`; print their means."""
    tables = []
    for path in sorted(Path("runs/recipe").glob("*/*/evaluation/results.json")):
        run = path.parents[1]
        nmi = noise_scale = math.nan
        if (run / "result.json").exists():  # images from elsewhere have no run
            result = read_result(run / "result.json")
            nmi = result.agreement.nmi if result.agreement else math.nan
            noise_scale = (result.noise_scale["delta"] or {}).get("value", math.nan)
        table = pd.read_json(path)[SHOWN + MEASURED]
        table.insert(0, "set", run.parent.name)
        table.insert(1, "variant", run.name.rsplit("-s", 1)[0])
        table["nmi"], table["noise_scale"] = nmi, noise_scale
        tables.append(table)
    keys = ["set", "variant", *SHOWN]
    results = pd.concat(tables).drop_duplicates(keys).sort_values(keys)
    results.round(4).to_csv(HERE / "results.csv", index=False)
    grouped = results.groupby(["set", "arm", "countermeasure", "fraction", "variant"])
    print(grouped["final_accuracy"].agg(["mean", "min", "max", "count"]).round(3).to_string())


if __name__ == "__main__":
    main()
