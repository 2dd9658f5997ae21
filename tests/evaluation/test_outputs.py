"""Everything that an evaluation writes beside its results."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbatch_ue.evaluation.evaluate import evaluate
from bigbatch_ue.evaluation.subject import protected_indices
from bigbatch_ue.files.formats import read_json
from bigbatch_ue.protection.protect import protect
from tests.helpers.runs import QUICK, make_run


def test_all_that_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK, "evaluation.fractions=[0.4, 1.0]")
    arms = evaluate(
        run,
        overrides=["evaluation.arms=[clean, unprotected, uc]", "evaluation.seeds=[0, 1]"],
        command=["bigbatch-ue", "evaluate", "a run"],
    )
    assert [(arm.arm, arm.fraction, arm.seed) for arm in arms[:4]] == [
        ("clean", 0.0, 0),
        ("unprotected", 0.4, 0),
        ("uc", 0.4, 0),
        ("uc", 1.0, 0),
    ]
    folder = run / "evaluation"
    records = read_json(folder / "results.json")
    asked = {"dataset", "arm", "countermeasure", "seed", "target"}
    asked |= {"final_accuracy", "peak_accuracy", "steps"}
    assert all(asked <= record.keys() for record in records)
    assert len(records) == len(arms) == 8
    chosen = read_json(folder / "protected-0.4-s1.json")
    assert chosen == protected_indices(160, 0.4, 1).tolist()
    about = read_json(folder / "about.json")
    assert about["command"] == "bigbatch-ue evaluate 'a run'"
    assert about["wanted"] == 8
    assert about["visibility"]["linf"] == 16
    assert about["measured_on"] == "the images at training size"
    page = (folder / "report.html").read_text()
    assert "data:image/" in page
    assert len(list((folder / "tensorboard").iterdir())) == 8
    events = EventAccumulator(str(sorted((folder / "tensorboard").iterdir())[0])).Reload()
    assert "accuracy/test" in events.Tags()["scalars"]
    left = {path.name for path in folder.iterdir()}
    assert not [name for name in left if name.startswith(".")]


def test_written_files_are_what_is_measured_where_there_are_any(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK)
    protect(run)
    evaluate(run, overrides=["evaluation.arms=[uc]"])
    about = read_json(run / "evaluation" / "about.json")
    assert about["measured_on"] == "the written files"
    manifest = read_json(run / "protected" / "protected.json")
    assert about["visibility"] == manifest["report"]["visibility"]


def test_what_one_call_left_out_is_still_said_after_another(tmp_path: Path) -> None:
    run = make_run(tmp_path, *QUICK)
    about = run / "evaluation" / "about.json"
    evaluate(run, overrides=["evaluation.arms=[uc]", "evaluation.countermeasures=[grey]"])
    said = read_json(about)["notes"]
    assert said == ["grey: the images are grey already"]
    evaluate(run, overrides=["evaluation.arms=[uc]"])
    assert read_json(about)["notes"] == said
