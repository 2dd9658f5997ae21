"""Loading a configuration: presets, overrides, and errors that say what to do."""

from pathlib import Path
from typing import Any

import pytest

from bigbatch_ue.config.load import load_config, resolve, revise_evaluation
from bigbatch_ue.config.names import PARITY, PRESETS, Grouping
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.sweeps.spec import SweepSpec, load_sweep
from tests.helpers.sweeps import write


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_names_its_data(preset: str) -> None:
    config = load_config(preset)
    assert config.data.name == ("digits" if preset == "small" else preset.removesuffix(PARITY))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_the_study_are_blind_to_labels_and_the_others_are_not(preset: str) -> None:
    by = load_config(preset).clusters.by
    assert by == (Grouping.FEATURES if preset.endswith(PARITY) else Grouping.AUTO)


@pytest.mark.parametrize(
    ("preset", "clusters", "epochs"),
    [("pets-parity", 10, 50), ("flowers102-parity", 5, 50), ("bloodmnist-parity", 3, 30)],
)
def test_presets_contain_the_settings_of_the_study(preset: str, clusters: int, epochs: int) -> None:
    config = load_config(preset)
    assert config.surrogate.model == "resnet50"
    assert config.surrogate.weights == "pretrained"
    assert config.generator.eps == pytest.approx(16 / 255)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.min_lr) == ("adam", 1e-4, 1e-6)
    assert optimizer.weight_decay == 5e-4
    assert optimizer.schedule == "cosine"
    assert (config.clusters.count, config.budget.epochs) == (clusters, epochs)
    assert config.budget.kind == "epochs"


def test_overrides_come_last_and_are_coerced(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("optimizer: {lr: 1e-3}\nbatch: {effective: 7}\n")
    config = load_config(file=file, overrides=["batch.effective=4096", "optimizer.min_lr=1e-5"])
    assert (config.batch.effective, config.optimizer.lr) == (4096, 1e-3)
    assert config.optimizer.min_lr == 1e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "batch.effectve=3",
            "batch.effectve: unknown key; allowed: effective, schedule, micro, scope, "
            "extend, accumulation",
        ),
        ("bacth.effective=3", "bacth: unknown key; allowed: seed, output, tracking, data, "),
        ("surrogate.fit.rate=1", "surrogate.fit.rate: unknown key; allowed: optimizer, epochs, "),
        ("data.title=a/b", "data.title='a/b': must be text without /"),
        ("batch.effective=0", "batch.effective=0: must be 'auto' or greater than or equal to 1"),
        ("batch.effective=many", "batch.effective='many': must be 'auto' or a whole number"),
        ("batch.micro=0", "batch.micro=0: must be 'auto' or greater than or equal to 1"),
        ("batch.scope=some", "batch.scope='some': must be 'cluster' or 'all'"),
        ("clusters.count=1", "clusters.count=1: must be 'auto' or greater than or equal to 2"),
        ("generator.eps=0", "generator.eps=0: must be greater than 0"),
        ("augment.flip=7", "augment.flip=7: must be true or false"),
        ("optimizer.lr=.nan", "optimizer.lr=nan: must be a finite number"),
        ("optimizer.lr=fast", "optimizer.lr='fast': must be a number"),
        ("optimizer.min_lr=1", "optimizer.min_lr=1.0: exceeds optimizer.lr=0.002; lower it"),
        ("data.size=4", "data.size=4: too small for the generators; use at least 8 pixels"),
        (
            "augment.pad=16",
            "augment.pad=16: reaches over the whole image; use less than data.size=16",
        ),
        (
            "surrogate.weights=imagenet",
            "surrogate.weights='imagenet': must be pretrained, package, fit, random or file:PATH",
        ),
        ("surrogate.args=3", "surrogate.args=3: must be a mapping, such as {key: value}"),
        ("data.name=a\0b", "data.name='a\\x00b': contains a control character; remove it"),
        (
            "generator.eps=16",
            "generator.eps=16: must be at most 1, which is white; write 16/255 for 16 of 255",
        ),
        ("evaluation.seeds=3", "evaluation.seeds=3: must be a list"),
        ("evaluation.seeds=[]", "evaluation.seeds=[]: must have at least 1 item"),
        ("batch=3", "batch=3: batch is a section; set one of its keys: effective, schedule, "),
        (
            "surrogate.model.x=3",
            "surrogate.model.x: surrogate.model is a value, not a section; "
            "set surrogate.model itself",
        ),
        (
            "batch.effective",
            "'batch.effective': not a setting; write key=value, such as batch.effective=4096",
        ),
        ("batch.effective=[", "batch.effective=[: not valid YAML; check quotes and brackets"),
    ],
)
def test_errors_name_the_key_and_say_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("digits", overrides=[override])
    assert str(error.value).startswith(message)
    if not message.endswith(", "):
        assert str(error.value) == message


HOW = "not a setting; write key=value, such as batch.effective=4096"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], f"'nothing': {HOW}"),
        (["a run"], f"'a run': {HOW}; the settings of that run are --config 'a run/config.yaml'"),
        (["photos"], f"'photos': {HOW}; for the images in it, data.name=folder:photos"),
        (["a.npz"], f"'a.npz': {HOW}; for the images in it, data.name=npz:a.npz"),
        (["mine.yaml"], f"'mine.yaml': {HOW}; for the settings in it, --config mine.yaml"),
        (
            ["seed=1", "data.name=folder:My", "Photos", "of", "cats", "seed=3"],
            f"'Photos': {HOW}; if it belongs to the word before it, put quotes around both: "
            "'data.name=folder:My Photos of cats'",
        ),
        (["seed=1", "2"], f"'2': {HOW}"),
    ],
)
def test_a_word_that_is_no_setting_says_what_was_probably_meant(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("a run").mkdir()
    for file in ("a run/config.yaml", "a.npz", "mine.yaml"):
        Path(file).touch()
    with pytest.raises(UserError) as error:
        load_config("small", overrides=words)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.name=folder:sets/batch #2", "folder:sets/batch #2"),
        ("data.name=npz:a: b.npz", "npz:a: b.npz"),
        ("data.title=1e3", "1e3"),
        ("data.title=null", None),
        ("output=20240501", Path("20240501")),
        ("output=no", Path("no")),
        ("output=null", None),
        ("data.root=~/x", Path.home() / "x"),
        ("seed=010", 10),
        ("optimizer.lr=1e-3", 0.001),
        ("generator.eps=8/255", 8 / 255),
        ("data.limit=null", None),
        ("surrogate.args={channels: [8, 8]}", {"channels": [8, 8]}),
    ],
)
def test_words_are_read_by_the_type_of_their_setting(word: str, value: Any) -> None:
    found: Any = load_config("small", overrides=[word])
    for key in word.partition("=")[0].split("."):
        found = getattr(found, key)
    assert found == value


def test_another_model_does_not_keep_the_arguments_of_the_old_one() -> None:
    assert load_config("small").surrogate.args
    layer = {"surrogate": {"model": "resnet50"}}
    for changed in (
        load_config("small", settings=[layer]),
        load_config("small", overrides=["surrogate.model=resnet50"]),
    ):
        assert changed.surrogate.args == {}
        assert changed.target.args == load_config("small").target.args
    same = load_config("small", overrides=["surrogate.model=resnet18"])
    assert same == load_config("small")
    own = load_config("small", overrides=["surrogate.model=vgg11", "surrogate.args.width=8"])
    assert own.surrogate.args == {"width": 8}


def test_naming_the_default_model_changes_nothing_and_another_one_does(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("surrogate: {args: {layers: [1, 1, 1, 1]}}")
    default = load_config().surrogate.model
    for layers in ({"overrides": [f"surrogate.model={default}"]}, {"overrides": []}):
        assert load_config(file=file, **layers).surrogate.args == {"layers": [1, 1, 1, 1]}
    assert load_config(file=file, overrides=["surrogate.model=resnet18"]).surrogate.args == {}


def test_a_sweep_with_another_model_does_not_keep_the_arguments_of_the_old_one(
    tmp_path: Path,
) -> None:
    file = write(tmp_path)
    before = load_sweep(file).settings
    changed = load_sweep(file, ["settings.target.model=vgg11"]).settings
    assert before["target"]["args"]
    assert changed["target"] == {"model": "vgg11", "fit": before["target"]["fit"]}
    assert changed["surrogate"] == before["surrogate"]


def test_a_fault_of_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("optimizer: {lrr: 1}")
    with pytest.raises(UserError, match=rf"^{file}: optimizer\.lrr: unknown key"):
        load_config(file=file)
    file.write_text("output: ~/runs/x")
    assert load_config(file=file).output == Path.home() / "runs" / "x"
    with pytest.raises(UserError, match=r"^seed=-1: "):
        load_config(file=file, overrides=["seed=-1"])


def test_several_errors_are_all_reported_each_once() -> None:
    content = {"datasets": [3], "budgets": ["hours"], "batches": {"from": 0}}
    with pytest.raises(UserError) as error:
        resolve(SweepSpec, content, ["seeds=[]"])
    assert str(error.value) == (
        "datasets=3: datasets is a section; set one of its keys: preset, config, settings; "
        "batches.from=0: must be greater than or equal to 1; "
        "seeds.run=[]: must have at least 1 item; "
        "budgets='hours': must be 'epochs' or 'steps'"
    )
    with pytest.raises(UserError, match=r"^datasets: missing; set it; batches: missing; set it$"):
        resolve(SweepSpec, {}, ())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"- 1", "contains a list instead of sections; write `section: {key: value}`"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=part) as error:
        load_config(file=file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_an_unknown_preset_and_two_sources_are_refused() -> None:
    with pytest.raises(UserError, match=r"^preset: unknown name 'digit'; allowed: small, digits, "):
        load_config("digit")
    with pytest.raises(UserError, match=r"^preset and config file: give one of them, not both$"):
        load_config("digits", Path("c.yaml"))


def test_an_evaluation_changes_no_setting_of_its_run() -> None:
    config = load_config("digits")
    revised = revise_evaluation(
        config, overrides=["target.model=x", "evaluation.seeds=[4]", "data.root=x"]
    )
    assert (revised.target.model, revised.evaluation.seeds) == ("x", (4,))
    with pytest.raises(UserError) as error:
        revise_evaluation(config, overrides=["target.model=x", "batch.effective=3"])
    assert str(error.value) == (
        "batch.effective=3: belongs to the run, so that an evaluation cannot change it; "
        "set only target.*, evaluation.*, tracking and data.root"
    )


@pytest.mark.parametrize(("kind", "idle"), [("epochs", "steps"), ("steps", "epochs")])
def test_a_budget_that_would_have_no_effect_is_refused(kind: str, idle: str) -> None:
    settings = [{"budget": {"kind": kind}}]
    message = f"budget.{idle}: has no effect with budget.kind={kind}; add budget.kind={idle}"
    with pytest.raises(UserError, match=message):
        load_config(settings=settings, overrides=[f"budget.{idle}=7"])
    load_config(settings=[{"budget": {"kind": kind, idle: 7}}])
    load_config(overrides=[f"budget.{idle}=7", f"budget.kind={kind}"])


@pytest.mark.parametrize("key", ["output", "data.root"])
def test_an_empty_path_is_not_the_current_folder(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}=.*: must name a path"):
        load_config(overrides=[f"{key}="])


def test_a_listed_schedule_brings_its_own_last_batch(tmp_path: Path) -> None:
    points = "batch.schedule=[[0, 64], [5, 1024]]"
    batch = load_config("digits", overrides=[points]).batch
    assert (batch.effective, batch.schedule) == (1024, ((0, 64), (5, 1024)))
    layer = {"batch": {"schedule": [[0, 2], [3, 9]]}}
    assert load_config("digits", settings=[layer]).batch.effective == 9
    ramp = load_config("digits", overrides=["batch.schedule={ramp_from: 4, ramp_steps: 5}"])
    assert ramp.batch.effective == 128, "a ramp ends with the preset's"
    with pytest.raises(UserError, match=r"=7: batch\.schedule ends with 1024"):
        load_config("digits", overrides=["batch.effective=7", points])
    for config in (ramp, load_config("digits", overrides=[points])):
        config.save(tmp_path / "config.yaml")
        assert load_config(file=tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("[[1, 64]]", "must have ascending steps, the first of them 0"),
        ("[[0, 64], [0, 5]]", "must have ascending steps, the first of them 0"),
        ("[]", "must have ascending steps, the first of them 0"),
        ("[[0, 64], [5, 0]]", "must be null, a list of step and B"),
        ("[64, 128]", "must be null, a list of step and B"),
        ("{ramp_from: 3}", "must be null, a list of step and B"),
    ],
)
def test_a_bad_schedule_is_one_clear_line(schedule: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("digits", overrides=[f"batch.schedule={schedule}"])
    assert str(error.value).startswith("batch.schedule=")
    assert problem in str(error.value)
    assert ";" not in str(error.value)


def test_digests_of_runs_without_a_schedule_are_as_before() -> None:
    assert set(load_config("digits").answer()["batch"]) == {"effective", "scope", "extend"}
