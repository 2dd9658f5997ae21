"""A small sample of the kill points of `make soak`."""

from pathlib import Path

import pytest

from tests.soak.kills import RANKS, points, run


def test_what_was_killed_while_protecting_recovers(tmp_path: Path) -> None:
    seed = 16
    assert [(point.stage, point.ranks) for point in points(1, seed)] == [("protecting", 1)]
    said: list[str] = []
    assert run(1, seed, tmp_path, said.append) == 1, "\n".join(said)


@pytest.mark.parametrize("seed", range(3))
def test_every_stage_has_its_share_of_kill_points(seed: int) -> None:
    chosen = points(60, seed)
    for stage, several in RANKS.items():
        for ranks in several:
            own = [p for p in chosen if (p.stage, p.ranks) == (stage, ranks)]
            assert len(own) == 6
            assert len({p.moment for p in own}) == 6
            assert {p.rank for p in own} <= set(range(ranks))
    assert {p.victims for p in chosen} == {"one", "all"}
