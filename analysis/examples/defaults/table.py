"""Collect the runs of `run.sh` into results.csv, one row for each trained target."""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent


def main() -> None:
    """Write the evaluations of `runs/defaults/<preset>/<variant>-s<seed>`; print their means."""
    tables = []
    for path in sorted(Path("runs/defaults").glob("*/*/evaluation/results.json")):
        table = pd.read_json(path).rename(columns={"arm": "name"})
        table = table[["name", "seed", "final_accuracy", "peak_accuracy"]]
        table.insert(0, "preset", path.parts[-4])
        table.insert(1, "variant", path.parts[-3].rsplit("-s", 1)[0])
        tables.append(table)
    results = pd.concat(tables).sort_values(["preset", "name", "variant", "seed"])
    results.round(4).to_csv(HERE / "results.csv", index=False)
    grouped = results.groupby(["preset", "name", "variant"])["final_accuracy"]
    print(grouped.agg(["mean", "min", "max", "count"]).round(3).to_string())


if __name__ == "__main__":
    main()
