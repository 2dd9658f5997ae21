"""Estimated times of cells."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn.functional import interpolate

from bigbatch_ue.sweeps.cells import sweep_cells
from bigbatch_ue.sweeps.estimate import Rates, estimate, measure_rates
from bigbatch_ue.sweeps.spec import load_sweep
from tests.helpers.sweeps import TINY, write


def test_time_grows_with_the_batch_and_shared_work_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = sweep_cells(load_sweep(write(tmp_path, batches=[4, 4096], seeds=[0])))
    measured = measure_rates(everything[0].config, everything[0].data)
    monkeypatch.setattr("bigbatch_ue.sweeps.estimate.measure_rates", lambda *_: measured)
    seconds = estimate(everything)
    small, large = (seconds[cell.name] for cell in everything)
    assert [cell.plan.at(0).images for cell in everything] == [12, 12288]
    assert 0 < small < large
    turned = estimate(everything[::-1])
    assert turned[everything[0].name] < small
    assert sum(turned.values()) > 0


@pytest.mark.parametrize(
    ("seeds", "clusters", "targets"),
    [
        ([0, 1], {"by": "labels"}, 4 + 2 + 2),
        ({"run": 2, "target": 3}, {"by": "labels"}, 12 + 3 + 3),
        ({"run": 2, "target": 3}, {"count": 3}, 12 + 3 + 2 * 3),
    ],
)
def test_each_target_counts_and_the_controls_of_a_target_seed_count_once(
    seeds: Any, clusters: Any, targets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protected, clean and noise; clusters by features, and noise with them, depend on the run."""
    rates = Rates(bank=0, image=0, surrogate=0, target=1)
    monkeypatch.setattr("bigbatch_ue.sweeps.estimate.measure_rates", lambda *_: rates)
    settings = {**TINY, "data": {"size": 8, "limit": 120, "root": str(tmp_path / "data")}}
    settings["clusters"] = clusters
    cells = sweep_cells(load_sweep(write(tmp_path, seeds=seeds, settings=settings)))
    data = cells[0].data
    one = cells[0].config.target.fit.epochs * (len(data.train) + len(data.test) / 3)
    assert sum(estimate(cells).values()) == pytest.approx(targets * one)


def test_networks_are_timed_at_the_sizes_that_they_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = sweep_cells(load_sweep(write(tmp_path, batches=[4], seeds=[0])))
    seen: list[tuple[int, int]] = []

    def watched(images: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
        seen.append(size)
        return interpolate(images, size, **how)

    monkeypatch.setattr("bigbatch_ue.networks.backbone.F.interpolate", watched)
    config = cell.config
    larger = config.model_copy(
        update={
            "surrogate": config.surrogate.model_copy(update={"size": 12}),
            "target": config.target.model_copy(update={"size": 16}),
        }
    )
    measure_rates(larger, cell.data)
    assert set(seen) == {(12, 12), (16, 16)}
