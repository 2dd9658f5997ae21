import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bigbatch_ue.evaluation.arms import Arm, load_arms, save_arms
from bigbatch_ue.evaluation.report.page import write_report
from bigbatch_ue.evaluation.report.terminal import arms_table, verdicts
from bigbatch_ue.runtime.errors import UserError
from tests.helpers.records import an_arm, clean, own

VISIBILITY: dict[str, Any] = {
    "images": 1000,
    "unchanged": 3,
    "linf": 16,
    "l2_mean": 1.234,
    "psnr_mean": 25.04,
    "psnr_min": 24.11,
    "ssim_mean": 0.9012,
    "lpips_mean": None,
}
MakeFolder = Callable[..., Path]


def an_evaluation(seeds: int = 3, **changed: Any) -> Iterator[Arm]:
    """Yield every kind of arm, with plausible accuracies."""
    for seed in range(seeds):
        rest: dict[str, Any] = {"seed": seed, **changed}
        shift = 0.012 * seed
        yield clean(0.94 + shift, **rest)
        yield an_arm(0.88 + shift, arm="random_noise", **rest)
        yield own(0.61 - shift, arm="shuffled", **rest)
        yield own(0.83 + shift, arm="random_surrogate", **rest)
        for fraction, with_it, without in ((0.5, 0.92, 0.91), (0.8, 0.85, 0.86)):
            yield own(with_it + shift, fraction=fraction, **rest)
            yield an_arm(without + shift, arm="unprotected", fraction=fraction, **rest)
        yield own(0.19 + shift, **rest)
        for countermeasure, got, kept in (("jpeg10", 0.55, 0.9), ("cluster_average", 0.9, 0.93)):
            yield own(got + shift, countermeasure=countermeasure, **rest)
            yield clean(kept + shift, countermeasure=countermeasure, **rest)
        yield own(0.45 + shift, labels="random:3", **rest | {"classes": 3})


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A PNG of noise, as large as the pictures of an evaluation."""
    noise = np.random.default_rng(0).integers(256, size=(66, 198, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "differences.png"
    Image.fromarray(noise).resize((1980, 660)).save(path)
    return path.read_bytes()


@pytest.fixture
def make_folder(tmp_path: Path, picture: bytes) -> MakeFolder:
    """Write an evaluation folder of these arms."""

    def make(arms: list[Arm], name: str = "evaluation", **about: Any) -> Path:
        folder = tmp_path / name
        save_arms(folder / "results.json", arms)
        metadata = {
            "dataset": arms[0].dataset if arms else "digits",
            "command": "bigbatch-ue evaluate runs/digits --target resnet18",
            "visibility": VISIBILITY,
            "measured_on": "the written files",
            "wanted": len(arms),
            "notes": [],
            "settings": {"data": {"name": "digits"}, "target": {"model": "resnet18"}},
            "versions": {"bigbatch_ue": "0.1.0", "torch": "2.11"},
        }
        (folder / "about.json").write_text(json.dumps(metadata | about))
        (folder / "differences.png").write_bytes(picture)
        return folder

    return make


class Page(HTMLParser):
    """A page as a browser sees it: its text, the rows of its tables, and its links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.rows: list[list[str]] = [[]]
        self.links: list[str] = []
        self.tags: list[str] = []
        self.in_cell = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if "style" in self.tags[-1:]:
            return
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, *start: str) -> list[str]:
        """Return the cells of the first row with this start."""
        return next(row for row in self.rows if row[: len(start)] == list(start))


def test_page_says_whether_learning_beats_the_controls(make_folder: MakeFolder) -> None:
    arms = list(an_evaluation())
    for seed, shift in enumerate((0.1, -0.1, 0.0)):
        arms.append(an_arm(0.25 + shift, arm="pattern", seed=seed))
    folder = make_folder(arms)
    page = Page(write_report([folder], folder))
    gained = "random noise: the learned perturbations protect better (+69.0 points [69.0 to 69.0])"
    assert gained in page.text
    assert "block pattern: no difference is shown (+4.8 points [" in page.text
    single = make_folder([arm for arm in arms if arm.seed == 0], "single")
    page = Page(write_report([single], single))
    assert "random noise: +69.0 points, one seed, so the difference may be chance" in page.text


def test_page_says_what_the_clusters_tell_of_the_labels(make_folder: MakeFolder) -> None:
    agreement = {"nmi": 0.3, "purity": 0.6, "homogeneity": 0.3, "table": [[7, 3], [2, 8]]}
    folder = make_folder(list(an_evaluation(1)), agreement=agreement, classes=["cat", "dog"])
    page = Page(write_report([folder], folder))
    assert page.row("cluster", "cat") == ["cluster", "cat", "dog"]
    assert "clusters tell 30 % of the label (NMI 0.30, purity 0.60): expect little" in page.text
    assert page.row("1", "2") == ["1", "2", "8"]


def test_page_has_means_intervals_and_what_a_countermeasure_recovers(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder(list(an_evaluation()))
    before = (folder / "results.json").read_bytes()
    path = write_report([folder], folder)
    page = Page(path)
    assert path == folder / "report.html"
    assert (folder / "results.json").read_bytes() == before
    assert "protected images classifies 20.2 % [17.2 – 23.2] of the clean test images" in page.text
    assert (
        "clean images 95.2 %, on images with random noise of the same strength 89.2 %" in page.text
    )
    assert (
        "Guessing gets 10.0 %. Protection works: 12 % of what clean images teach beyond guessing "
        "is still learnt. Means of 3 seeds."
    ) in page.text
    assert page.row("protected", "1,024")[2:5] == ["3", "20.2 ± 1.2", "17.2 – 23.2"]
    assert page.row("clean", "–")[3] == "95.2 ± 1.2"
    jpeg = page.row("JPEG, quality 10")
    assert jpeg[1:] == ["protected", "56.2 [53.2 – 59.2]", "+36.0", "91.2 [88.2 – 94.2]"]
    assert page.row("3 random superclasses")[-2:] == ["43.2 – 49.2", "33.3"]
    assert page.row("1,000", "3")[2:] == ["16/255", "1.23", "25.04", "24.11", "0.9012"]
    assert "so far" not in page.text


def test_page_lists_controls_first_then_partial_protection(make_folder: MakeFolder) -> None:
    folder = make_folder(list(reversed(list(an_evaluation(1)))))
    page = Page(write_report([folder], folder))
    heading = next(i for i, row in enumerate(page.rows) if row[:2] == ["train images", "B"])
    names = [" ".join(row[0].split()) for row in page.rows[heading + 1 : heading + 10]]
    assert names == [
        "clean",
        "random noise",
        "shuffled clusters",
        "random surrogate",
        "unprotected part, 50 %",
        "protected, 50 %",
        "unprotected part, 20 %",
        "protected, 80 %",
        "protected",
    ]


def test_page_needs_nothing_but_itself_and_stays_small(make_folder: MakeFolder) -> None:
    names = ("digits", "pets", "bloodmnist", "pathmnist")
    folders = [make_folder(list(an_evaluation(dataset=n, epochs=100)), n) for n in names]
    path = write_report(folders, folders[0].parent / "report")
    page = Page(path)
    assert path.stat().st_size < 1_000_000
    assert page.links
    assert all(link.startswith(("data:image/webp;base64,", "#data-")) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", page.source)
    assert page.tags.count("img") == 3 * len(names)
    for name in names:
        assert f"{name}: A network" in page.text


def test_whatever_comes_from_outside_is_escaped(make_folder: MakeFolder) -> None:
    evil = "<script>alert(1)</script>"
    arms = [own(dataset=evil, target=evil, labels=labels) for labels in ("own", f"map:{evil}.csv")]
    about = {"command": evil, "notes": [evil], "measured_on": evil, "versions": {evil: evil}}
    folder = make_folder(arms, settings={evil: evil}, **about)
    page = Page(write_report([folder], folder))
    assert "script" not in page.tags
    assert "<script" not in page.source
    assert page.text.count("alert(1)") >= 8


def test_unfinished_evaluation_says_how_many_arms_are_finished(make_folder: MakeFolder) -> None:
    folder = make_folder([clean(), clean(countermeasure="jpeg10")], wanted=21, notes=["grey: no"])
    page = Page(write_report([folder], folder))
    assert "No network has been trained on protected images yet. 2 of 21 arms so far." in page.text
    assert "Left out: grey: no." in page.text
    assert page.row("JPEG, quality 10")[1:4] == ["–", "–", "–"]
    nothing = make_folder([], "nothing", wanted=21)
    assert "0 of 21 arms so far" in Page(write_report([nothing], nothing)).text


def test_a_single_seed_has_no_interval(make_folder: MakeFolder) -> None:
    folder = make_folder(list(an_evaluation(1)))
    page = Page(write_report([folder], folder))
    assert "classifies 19.0 % of the clean test images correctly" in page.text
    assert "A single seed." in page.text
    assert page.row("protected", "1,024")[2:5] == ["1", "19.0", "–"]
    assert 'class="interval"' not in page.source


def test_lpips_of_earlier_versions_is_shown(make_folder: MakeFolder) -> None:
    folder = make_folder([own()], visibility=VISIBILITY | {"lpips_mean": 0.0321})
    page = Page(write_report([folder], folder))
    assert page.row("1,000", "3")[-2:] == ["0.9012", "0.0321"]


def test_confusion_matrices_only_of_few_classes(make_folder: MakeFolder) -> None:
    few, many = (
        Page(write_report([folder], folder))
        for n in (20, 21)
        if (folder := make_folder([own(classes=n), clean(classes=n)], f"c{n}"))
    )
    assert "Confusion matrix, protected" in few.source
    assert "Confusion matrix, protected" not in many.source
    assert "21 classes are too many" in many.text


def test_folders_of_one_data_set_are_pooled_and_share_their_controls(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    control = clean(inputs="same")
    other = make_folder([clean(dataset="pets"), own(dataset="pets")], "pets")
    folders = [
        make_folder([control, own(final, run_seed=run)], f"run{run}")
        for run, final in enumerate((0.2, 0.3))
    ]
    page = Page(write_report([*folders, other], tmp_path / "both"))
    merged = load_arms(tmp_path / "both" / "results.json")
    assert [(arm.dataset, arm.arm, arm.run_seed) for arm in merged] == [
        ("digits", "clean", None),
        ("digits", "uc", 0),
        ("digits", "uc", 1),
        ("pets", "clean", None),
        ("pets", "uc", 0),
    ]
    assert page.row("clean", "–")[2:5] == ["1", "95.0", "–"]
    assert page.row("protected", "1,024")[2:4] == ["2", "25.0 ± 7.1"]
    assert page.tags.count("h2") == 3


def test_effective_batches_and_targets_are_distinguished(make_folder: MakeFolder) -> None:
    arms = [
        clean(),
        an_arm(0.9, arm="random_noise"),
        *(own(0.3, effective_batch=b) for b in (64, 1024)),
        own(0.4, target="vit_small"),
    ]
    folder = make_folder(arms)
    page = Page(write_report([folder], folder))
    for words in ("(effective batch 64)", "(effective batch 1,024)", "A network (vit_small)"):
        assert words in page.text
    capped = make_folder([own(0.3, effective_batch=28, smallest_batch=25)])
    assert "(effective batch 25 to 28)" in Page(write_report([capped], capped)).text
    assert "protected, B 64" in page.text
    assert "Protected, B 64, against the controls" in page.text
    assert "Accuracy on clean test images, vit_small" in page.text


@pytest.mark.parametrize("name", ["results.json", "about.json", "differences.png"])
@pytest.mark.parametrize("content", [None, b"[{"])
def test_missing_or_torn_files_are_a_user_error(
    name: str, content: bytes | None, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder([own()])
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_picture_that_a_sweep_has_not_drawn_is_to_be_drawn(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder([own()])
    (folder / "differences.png").unlink()
    with pytest.raises(UserError, match=r"png: not drawn, as by a sweep; run `bigbatch-ue eval"):
        write_report([folder], tmp_path / "out")


def test_about_of_another_kind_is_a_user_error(make_folder: MakeFolder) -> None:
    folder = make_folder([own()], wanted="many")
    with pytest.raises(UserError, match=r"about\.json.*wanted"):
        write_report([folder], folder)


def test_a_run_stands_for_its_evaluation(make_folder: MakeFolder) -> None:
    folder = make_folder(list(an_evaluation(1)), "run/evaluation")
    page = write_report([folder.parent], folder.parent.parent / "report")
    assert "A network (resnet18) trained on" in Page(page).text


def test_different_images_of_one_name_are_not_pooled(make_folder: MakeFolder) -> None:
    def evaluated(folder: str, place: str, images: str = "") -> Path:
        about = {"images": images, "settings": {"data": {"name": f"folder:{place}"}}}
        return make_folder(list(an_evaluation(1, dataset="images")), folder, **about)

    def sections(*folders: Path) -> list[str]:
        page = write_report(folders, folders[0].parent / "report")
        arms = load_arms(page.parent / "results.json")
        return list(dict.fromkeys(arm.dataset for arm in arms))

    first = evaluated("a", "clinic_a/images", "1a")
    assert sections(first, evaluated("b", "clinic_b/images", "2b")) == [
        "clinic_a-images",
        "clinic_b-images",
    ]
    assert sections(first, evaluated("c", "clinic_a/images", "3c")) == ["images-1a", "images-3c"]
    copied = evaluated("d", "scratch/images", "1a")
    earlier = evaluated("e", "clinic_a/images")
    assert sections(first, copied, earlier) == ["images"]


def test_results_of_one_of_several_folders_are_not_overwritten(make_folder: MakeFolder) -> None:
    folders = [make_folder([own()], name) for name in "ab"]
    with pytest.raises(UserError, match="overwritten"):
        write_report(folders, folders[0])
    with pytest.raises(UserError, match="no evaluation folders"):
        write_report([], folders[0])


def printed(arms: list[Arm]) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(arms_table(arms))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    return " ".join(text.split())


def test_the_terminal_says_in_words_what_the_table_shows() -> None:
    lines = verdicts(an_evaluation())
    assert lines[:2] == [
        "protected: 20.2 % instead of 95.2 %; guessing gets 10.0 %",
        "protection works: 12 % of what clean images teach beyond guessing is still learnt",
    ]
    gained = "random noise: the learned perturbations protect better (+69.0 points [69.0 to 69.0])"
    assert f"protected, against {gained}" in lines
    assert verdicts([arm for arm in an_evaluation() if arm.arm == "clean"]) == []


def test_nothing_is_compared_where_clean_images_teach_nothing() -> None:
    arms = [
        dataclasses.replace(arm, final_accuracy=0.11) if arm.arm == "clean" else arm
        for arm in an_evaluation()
    ]
    lines = verdicts(arms)
    assert any(line.startswith("nothing is shown") for line in lines)
    assert not any(", against " in line for line in lines)


def test_table_is_readable_in_80_columns() -> None:
    arms = [replace(arm, effective_batch=131072) for arm in an_evaluation() if arm.arm == "uc"]
    text = printed([*an_evaluation(), *arms])
    assert "digits, resnet18" in text
    for row in (
        "clean - - 3 95.2 92.2-98.2 95.2 0.953",
        "protected - 131,072 3 20.2 17.2-23.2",
        "protected jpeg10 1,024 3 56.2 53.2-59.2",
        "clean cluster_average - 3 94.2 91.2-97.2",
        "random surrogate - 1,024 3 84.2",
    ):
        assert row in text


def test_table_leaves_out_what_no_arm_has() -> None:
    text = printed([clean(), an_arm(0.9, arm="random_noise")])
    assert "clean 1 95.0 - 95.0 0.952" in text
    assert "countermeasure" not in text


def test_table_distinguishes_data_sets_and_targets() -> None:
    long = clean(dataset="pneumoniamnist", target="vit_small_patch16_224")
    text = printed([own(), long, replace(long, countermeasure="cluster_average")])
    assert text.index("digits, resnet18 protected") < text.index("pneumoniamnist,")


def test_intervals_stay_within_what_is_possible() -> None:
    text = printed(
        [
            arm(x, seed=n)
            for arm, low in ((clean, 0.9), (own, 0.0))
            for n, x in enumerate((low, low + 0.1))
        ]
    )
    assert "31.5-100.0" in text
    assert "0.0-68.5" in text


def test_recipes_stand_apart_on_the_page_and_in_the_terminal(make_folder: MakeFolder) -> None:
    recipes = [{"target": {"model": "resnet18", "fit": {"epochs": n}}} for n in (12, 60)]
    arms = [
        one(final, seed=seed, recipe=recipe)
        for recipe, seed, final in zip(recipes, (0, 1), (0.2, 0.5), strict=True)
        for one in (clean, own)
    ]
    folder = make_folder(arms)
    page = Page(write_report([folder], folder))
    for epochs, accuracy in ((12, "20.0"), (60, "50.0")):
        title = f"resnet18, target.fit.epochs={epochs}"
        assert f"A network ({title}) trained on the protected images classifies {accuracy} %" in (
            page.text
        )
        assert f"digits, {title}" in printed(arms)
        assert f"Training of {title}" in page.text


def test_perturbations_of_other_settings_have_sections_of_their_own(
    make_folder: MakeFolder,
) -> None:
    """Runs at two bounds are not seeds of one row."""
    folders = [
        make_folder([own(accuracy, seed=seed)], str(eps), origin={"generator": {"eps": eps}})
        for seed, (eps, accuracy) in enumerate([(0.03, 0.6), (0.06, 0.2)])
    ]
    out = folders[0].parent / "both"
    page = Page(write_report(folders, out))
    assert "digits, generator.eps=0.03: A network (resnet18)" in page.text
    assert "digits, generator.eps=0.06: A network (resnet18)" in page.text
    datasets = [arm.dataset for arm in load_arms(out / "results.json")]
    assert datasets == ["digits, generator.eps=0.03", "digits, generator.eps=0.06"]
