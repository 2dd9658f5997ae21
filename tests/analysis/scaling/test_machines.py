"""Estimated steps on whole machines: a table and a figure."""

from pathlib import Path

import pytest

from analysis.cli import main
from analysis.scaling.machines import SCALINGS, curve, estimate, machines_figure
from bigbatch_ue.benchmark.machines import MACHINES, MachineName
from tests.helpers.command_line import cli_of

DOCS = Path(__file__).parents[3] / "docs" / "speed.md"


def test_machines_writes_the_figure_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli_of(main, capsys)("machines", "--out", tmp_path)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"machines.png", "machines.svg"}
    assert (tmp_path / "machines.png").read_bytes().startswith(b"\x89PNG")
    assert all(str(path) in out for path in tmp_path.iterdir())
    *table, _, _ = out.splitlines()
    assert max(map(len, table)) <= 80
    for machine in MACHINES.values():
        assert f"{machine.nodes:,}" in out


def test_the_documented_table_is_what_is_estimated() -> None:
    text = DOCS.read_text()
    for machine in MACHINES.values():
        for nodes in (1, 64, machine.nodes):
            points = [estimate(machine, scaling, nodes) for scaling in SCALINGS]
            cells = [f"{nodes:,}", f"{points[0].gpus:,}"]
            for point in points:
                seconds = point.step.total
                share = 100 * point.step.communication / seconds
                cells += [f"{seconds:#.2g}".rstrip("."), f"{share:.1f} %"]
            assert f" | {' | '.join(cells)} |" in text


@pytest.mark.parametrize("name", MachineName)
@pytest.mark.parametrize("groups", [1, 10])
def test_a_curve_goes_up_to_the_last_whole_rank_groups(name: MachineName, groups: int) -> None:
    machine = MACHINES[name]
    for scaling in SCALINGS:
        gpus = [point.gpus for point in curve(machine, scaling, groups)]
        assert gpus == sorted(set(gpus))
        assert all(count % groups == 0 for count in gpus)
        assert machine.gpus * machine.nodes - gpus[-1] < groups * machine.gpus


def test_the_figure_shows_where_communication_takes_a_tenth() -> None:
    figure = machines_figure()
    lines = [line for axes in figure.axes[2:] for line in axes.lines]
    assert sum(set(line.get_ydata()) == {10} for line in lines) == 2
    shares = [line.get_ydata() for line in lines if set(line.get_ydata()) != {10}]
    assert len(shares) == 2 * 2 * len(MACHINES)
    assert max(max(share) for share in shares) < min(axes.get_ylim()[1] for axes in figure.axes[2:])
