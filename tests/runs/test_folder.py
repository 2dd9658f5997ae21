"""The run folder: which runs may be continued, and by which process."""

from pathlib import Path

import pytest

from bigbatch_ue.config.load import load_config
from bigbatch_ue.runs.folder import Run, create_run, load_run, open_run
from bigbatch_ue.runs.identity import DataIdentity, answer_digest
from bigbatch_ue.runtime.errors import UserError

DATA = DataIdentity("digits", "content")


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    with (
        Run(tmp_path, "answer").exclusive(),
        pytest.raises(UserError, match="another process is training this run"),
        Run(tmp_path, "answer").exclusive(),
    ):
        pass
    with Run(tmp_path, "answer").exclusive():
        pass


def test_unfinished_runs_need_resume_and_finished_ones_are_only_opened(tmp_path: Path) -> None:
    config = load_config("digits", overrides=[f"output={tmp_path / 'run'}"])
    run = open_run(config, [DATA], resume=False)
    create_run(run, config, DATA)
    with pytest.raises(UserError, match="add --resume"):
        open_run(config, [DATA], resume=False)
    with pytest.raises(UserError, match="not finished"):
        load_run(run.folder)
    assert open_run(config, [DATA], resume=True) == run
    run.result.write_text("{}")
    assert open_run(config, [DATA], resume=False).finished
    assert load_run(run.folder) == (config, run)


def test_decomposition_may_change_but_settings_and_data_may_not(tmp_path: Path) -> None:
    place = f"output={tmp_path / 'run'}"
    config = load_config("digits", overrides=[place])
    create_run(open_run(config, [DATA], resume=False), config, DATA)
    decomposed = load_config(
        "digits", overrides=[place, "batch.micro=3", "batch.accumulation=engine"]
    )
    open_run(decomposed, [DATA], resume=True)
    with pytest.raises(UserError, match=r"seed: 0 -> 1"):
        open_run(load_config("digits", overrides=[place, "seed=1"]), [DATA], resume=True)
    with pytest.raises(UserError, match="data set has changed"):
        open_run(config, [DataIdentity("digits", "other")], resume=True)


def test_a_run_of_an_earlier_version_is_recognised_by_place_and_times(tmp_path: Path) -> None:
    settings = [f"output={tmp_path / 'run'}", "data.name=folder:/photographs"]
    config = load_config("small", overrides=settings)
    former = DataIdentity("folder:/photographs", "times")
    now = DataIdentity(None, "content")
    old = Run(tmp_path / "run", answer_digest(config, former))
    create_run(old, config, former)
    assert open_run(config, [now, former], resume=True) == old
    moved = load_config("small", overrides=[settings[0], "data.name=folder:/copied"])
    with pytest.raises(UserError, match="data set has changed"):
        open_run(moved, [now, former], resume=True)


def test_weights_are_known_by_their_bytes_not_by_their_place(tmp_path: Path) -> None:
    def opened(place: str) -> Run:
        settings = [f"output={tmp_path / 'run'}", f"surrogate.weights=file:{tmp_path / place}"]
        config = load_config("digits", overrides=settings)
        run = open_run(config, [DATA], resume=True)
        create_run(run, config, DATA)
        return run

    (tmp_path / "net.pth").write_bytes(b"weights")
    (tmp_path / "copy.pth").write_bytes(b"weights")
    run = opened("net.pth")
    assert opened("copy.pth") == run
    (tmp_path / "net.pth").write_bytes(b"others")
    with pytest.raises(UserError, match=r"surrogate.weights: a file with SHA-256 \w+ -> a file"):
        opened("net.pth")
    with pytest.raises(UserError, match=r"net\.pth: has changed since .* was trained; put"):
        run.require_weights(load_config(file=run.config))
    (tmp_path / "net.pth").unlink()
    with pytest.raises(UserError, match=r"net\.pth: no such file"):
        opened("net.pth")


def test_a_run_of_an_earlier_version_knows_weights_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"weights")
    settings = [f"output={tmp_path / 'run'}", f"surrogate.weights=file:{tmp_path / 'net.pth'}"]
    config = load_config("digits", overrides=settings)
    old = Run(tmp_path / "run", answer_digest(config, DATA))
    create_run(old, config, DATA)
    assert open_run(config, [DATA], resume=True) == old


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("notes")
    config = load_config("digits", overrides=[f"output={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=r"run: is not a folder; choose another one with output"):
        open_run(config, [DATA], resume=False)
