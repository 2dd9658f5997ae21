"""`accelerate launch ... -m bigbatch_ue.train`, as users type it: the run of one process."""

import json
import sys
from pathlib import Path

import torch

from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import load_run
from bigbatch_ue.training.train import train
from tests.helpers.ranks import start
from tests.helpers.runs import STABLE, TINY, perturbations, tiny

SETTINGS = ("batch.micro=5", STABLE)


def test_two_ranks_write_the_run_of_one(tmp_path: Path) -> None:
    alone = train(tiny(tmp_path, *SETTINGS, name="alone"))
    output = tmp_path / "two"
    done = start(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"),
            *("--config_file", "launchers/accelerate/ddp.yaml", "-m", "bigbatch_ue.train"),
            *("--preset", "digits", *TINY, *SETTINGS),
            *(f"data.root={tmp_path / 'data'}", f"output={output}"),
        ]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = read_json(output / "result.json")
    assert (result["engine"], result["world_size"]) == ("ddp", 2)
    delta, expected = (perturbations(load_run(each)[1]) for each in (output, alone.folder))
    assert (delta - expected).norm() < 1e-3 * expected.norm()
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (output, alone.folder)
    )
    assert [line["step"] for line in ours] == list(range(6)), "the main process alone writes"
    assert len(list((output / "tensorboard").iterdir())) == 1
    losses = [torch.tensor([line["loss"] for line in each]) for each in (ours, theirs)]
    assert torch.allclose(*losses, rtol=1e-3)
