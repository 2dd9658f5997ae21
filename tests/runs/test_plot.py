"""The figure of a run: every step, every generator and every perturbation is in it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bigbatch_ue.files.formats import read_json
from bigbatch_ue.runs.folder import RunFiles
from bigbatch_ue.runs.metrics_file import read_steps
from bigbatch_ue.runs.plot import training_figure
from bigbatch_ue.runs.result import read_result
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.training.train import train
from tests.helpers.runs import COUNT, make_run, perturbations, tiny


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def test_a_run_is_drawn_as_it_was(tmp_path: Path) -> None:
    settings = ("noise.every=3", "budget.steps=7", "batch.effective=6", "batch.micro=6")
    run = train(tiny(tmp_path, *settings))
    result = read_result(run.result)
    assert result.folder == run.folder
    assert "folder" not in read_json(run.result)
    figure = result.plot()
    assert figure.get_suptitle() == f"{result.dataset}, effective batch 6"
    drawn = panels(figure)
    assert list(drawn) == [
        "loss of the generators",
        "learning rate",
        "perturbations, amplified",
        "noise scale of the pixels",
        "noise scale of the networks",
    ]
    steps = read_steps(run.metrics, COUNT)
    losses = drawn["loss of the generators"].lines
    assert len(losses) == COUNT + 1
    for line, own in zip(losses, [*steps.losses.T, steps.losses.mean(1)], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(7))
        np.testing.assert_array_equal(line.get_ydata(), own)
    assert losses[-1].get_ydata()[-1] == pytest.approx(np.mean(result.final_loss))
    (lr,) = drawn["learning rate"].lines
    assert max(lr.get_ydata()) == pytest.approx(result.learning_rate)
    sparse = drawn["noise scale of the networks"].lines[:-1]
    assert len(sparse) == COUNT
    assert all(line.get_xdata().tolist() == [0, 3, 6] for line in sparse)
    figure.savefig(tmp_path / "figure.png")


def test_every_perturbation_is_a_tile_and_grey_is_no_change(tmp_path: Path) -> None:
    run = train(tiny(tmp_path, "noise.every=0"))
    (picture,) = panels(read_result(run.result).plot())["perturbations, amplified"].images
    shown, deltas = np.asarray(picture.get_array()), perturbations(run).numpy()
    count, channels, height, width = deltas.shape
    assert (count, channels) == (3, 1)
    assert shown.shape == (2 * height + 1, 2 * width + 1, 3)
    for index, delta in enumerate(deltas):
        top, left = (index // 2) * (height + 1), (index % 2) * (width + 1)
        tile = shown[top : top + height, left : left + width, 0]
        np.testing.assert_allclose(2 * tile - 1, delta[0] / np.abs(deltas).max(), atol=1e-6)
    assert (shown[height + 1 :, width + 1 :] == 0.5).all()


def test_a_skipped_step_is_a_gap(tmp_path: Path) -> None:
    run = RunFiles(make_run(tmp_path))
    lines = [f'{{"step": {n}, "lr": 0.1, "loss": [1.0, 2.0, 3.0]}}' for n in range(3)]
    lines[1] = '{"step": 1, "lr": 0.1, "skipped": [0]}'
    run.metrics.write_text("\n".join(lines))
    steps = read_steps(run.metrics, COUNT)
    assert np.isnan(steps.losses[1]).all()
    assert steps.noise == {}
    figure = training_figure("heading", 4, [steps], run.perturbations)
    assert list(panels(figure)["loss of the generators"].lines[-1].get_xdata()) == [0, 1, 2]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = RunFiles(make_run(tmp_path))
    result = read_result(run.result)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        result.plot()
    run.metrics.write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl: has no steps"):
        result.plot()
    run.metrics.write_text('{"step": 0, "lr": 0.1, "loss": [1.0]}')
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot read the steps"):
        result.plot()
    run.metrics.write_text('{"step": 0, "lr": 0.1, "loss": [1.0, 2.0, 3.0]}')
    run.perturbations.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"perturbations\.safetensors: cannot be read"):
        result.plot()
