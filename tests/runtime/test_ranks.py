"""The variables of a launcher, before anything relies on them."""

import pytest

from bigbatch_ue.runtime.accelerator import start_accelerator
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.ranks import world_size

GOOD = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_without_a_launcher_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world_size() == 1
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert world_size() == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='': must be a number from 1 on; unset it, or start"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': must be a number from 1 on"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4: RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT must be"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK='-1': must be a number from 0 on"),
        ({"RANK": "1"}, "RANK=1: WORLD_SIZE must be set too; unset it"),
        ({"RANK": "one"}, "RANK='one': must be a number from 0 on"),
        ({**GOOD, "RANK": "2"}, "RANK=2: must be less than WORLD_SIZE=2"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4: MPI started this process"),
        ({"PMI_SIZE": "x"}, "PMI_SIZE='x': must be a number from 1 on"),
    ],
)
def test_variables_that_cannot_be_are_named_before_accelerate_sees_them(
    given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for start in (start_accelerator, world_size):
        with pytest.raises(UserError) as error:
            start()
        assert str(error.value).startswith(message)


def test_what_accelerate_refuses_is_one_line_with_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ACCELERATE_DYNAMO_BACKEND"
    monkeypatch.setenv(name, "fast")
    with pytest.raises(UserError, match=rf"^launcher: Accelerate cannot start .*\b{name}\b"):
        start_accelerator()
