"""The metrics of a run: one line for each optimizer step."""

import json
from pathlib import Path

from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.metrics_file import drop_steps_from


def test_metrics_of_later_steps_and_an_incomplete_line_are_dropped(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "answer")
    whole = [json.dumps({"step": step}) for step in range(6)]
    run.metrics.write_text("\n".join(whole) + '\n{"step": 6, "lo')
    drop_steps_from(run.metrics, 4)
    assert run.metrics.read_text().splitlines() == whole[:4]
    drop_steps_from(run.metrics, 0)
    assert run.metrics.read_text() == ""
