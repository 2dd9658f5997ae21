"""Decoded data sets: shared, complete, and decoded again only if their source has changed."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from bigbatch_ue.config.schema import Config
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import DataSet, dataset_of_run, prepare_dataset
from bigbatch_ue.data.decoding import resize
from bigbatch_ue.files.formats import read_json, write_json
from bigbatch_ue.runs.folder import Run
from bigbatch_ue.runs.identity import DataIdentity, answer_digest
from bigbatch_ue.runtime.errors import UserError
from bigbatch_ue.runtime.processes import process_count
from tests.conftest import MakeNpz
from tests.helpers.images import make_images


def prepared(path: Path, root: Path, size: int = 10, limit: int | None = None) -> DataSet:
    return prepare_dataset(DataConfig(name=f"npz:{path}", root=root, size=size, limit=limit))


def entries(root: Path) -> list[Path]:
    return sorted(path for path in (root / "decoded").iterdir() if path.is_dir())


def test_set_is_a_read_only_map_with_labels_and_names(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz(channels=(3,))
    data = prepared(path, tmp_path, size=8)
    assert data.name == f"npz:{path}"
    assert data.classes == ["0", "1", "2"]
    for images, count in ((data.train, 12), (data.test, 6)):
        assert isinstance(images.images, np.memmap)
        assert (images.images.shape, images.images.dtype) == ((count, 3, 8, 8), np.uint8)
        assert images.labels.dtype == np.int64
        assert images.labels.tolist() == [i % 3 for i in range(count)]
        assert images.names == [f"{i:05d}" for i in range(count)]
        assert len(images) == count
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0


def test_images_of_the_right_size_are_not_touched(make_npz: MakeNpz, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(12, 10, 10), dtype=np.uint8)
    data = prepared(make_npz(train_images=pixels), tmp_path)
    np.testing.assert_array_equal(data.train.images[:, 0], pixels)
    assert data.test.images.shape == (6, 1, 10, 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_squashes_the_whole_image(channels: int) -> None:
    image = np.zeros((channels, 40, 20), np.uint8)
    image[-1, :, 10:] = 200
    image[-1, :20] += 50
    small = resize(image, 8)
    assert (small.shape, small.dtype) == ((channels, 8, 8), np.uint8)
    quarters = small[-1][np.ix_([1, 6], [1, 6])].tolist()
    assert quarters == [[50, 250], [0, 200]]
    assert not small[:-1].any()


def test_folder_of_photographs(tmp_path: Path, shared_data: Path) -> None:
    for part in ("train", "test"):
        for cls in ("daisy", "tulips"):
            (tmp_path / part / cls).mkdir(parents=True)
            for file in sorted((shared_data / "flowers5" / part / cls).iterdir())[:4]:
                shutil.copy(file, tmp_path / part / cls)
    data = prepare_dataset(DataConfig(name=f"folder:{tmp_path}", root=tmp_path / "root", size=32))
    file = tmp_path / "test" / data.test.names[5]
    expected = Image.open(file).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(data.test.images[5], np.asarray(expected).transpose(2, 0, 1))
    assert (data.classes[data.test.labels[5]], file.parent.name) == ("tulips", "tulips")


def test_second_run_reads_no_source(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_npz()
    first = prepared(path, tmp_path)
    pixels = first.train.images.copy()
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = prepared(path, tmp_path)
    assert second.identity == first.identity
    np.testing.assert_array_equal(second.train.images, pixels)
    assert "changed" not in capsys.readouterr().err


def test_changed_source_is_decoded_again(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_npz()
    first = prepared(path, tmp_path)
    other_size = prepared(path, tmp_path, size=9)
    (old,) = [entry for entry in entries(tmp_path) if "-10-" in entry.name]
    capsys.readouterr()
    make_npz(train_images=np.full((12, 10, 10), 7, np.uint8))
    os.utime(path, (time.time() + 5, time.time() + 5))
    second = prepared(path, tmp_path)
    assert (
        capsys.readouterr().err.strip() == f"npz:{path}: source or decoder changed; decoding again"
    )
    assert second.identity not in (first.identity, other_size.identity)
    assert (second.train.images == 7).all()
    assert not old.exists()
    assert len(entries(tmp_path)) == 2


def test_times_decide_what_is_decoded_again_and_contents_what_a_set_is(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_npz()
    first = prepared(path, tmp_path)
    os.utime(path, (1, 1))
    touched = prepared(path, tmp_path)
    assert "decoding again" in capsys.readouterr().err
    assert touched.identity == first.identity
    assert touched.identities[1] != first.identities[1]


def test_a_copy_elsewhere_is_the_same_data_set(tmp_path: Path) -> None:
    def known_as(place: str) -> DataIdentity:
        config = DataConfig(name=f"folder:{tmp_path / place}", root=tmp_path, size=8)
        return prepare_dataset(config).identity

    make_images(tmp_path / "here", [(8, 8), (9, 12)])
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    here = known_as("here")
    assert known_as("there") == here
    assert here.name is None
    for part in ("train", "test"):
        folder = tmp_path / "there" / part
        (folder / "dog").rename(folder / "wolf")
    assert known_as("there") != here


def test_sets_of_the_same_file_name_stay_apart(make_npz: MakeNpz, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        prepared(make_npz(f"{folder}/own.npz"), tmp_path)
    assert len(entries(tmp_path)) == 2


def test_limit_takes_a_share_of_each_class(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_npz()
    whole = prepared(path, tmp_path)
    assert whole.beyond_limit == []
    part = prepared(path, tmp_path, limit=5)
    assert "5 train and 6 test images" in (said := capsys.readouterr().err)
    assert "7 train images beyond data.limit=5" in said
    positions = part.train.positions
    np.testing.assert_array_equal(part.train.images, whole.train.images[positions])
    np.testing.assert_array_equal(part.train.labels, whole.train.labels[positions])
    assert part.train.names == [whole.train.names[index] for index in positions]
    assert len(part.test) == len(whole.test)
    assert isinstance(part.train.images, np.memmap)
    assert part.identity != whole.identity
    assert prepared(path, tmp_path, limit=4).identity != part.identity
    more = prepared(path, tmp_path, limit=13)
    assert (len(more.train), more.identity) == (12, whole.identity)
    assert len(entries(tmp_path)) == 1


def test_only_the_first_command_lists_what_is_left_out(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(data=DataConfig(name=f"npz:{make_npz()}", root=tmp_path, size=10, limit=5))
    with pytest.raises(UserError, match="has changed since this run; train again"):
        dataset_of_run(config, Run(tmp_path, "another"))
    assert "left out" not in capsys.readouterr().err
    data = prepare_dataset(config.data)
    assert "7 train images beyond data.limit=5" in capsys.readouterr().err
    run = Run(tmp_path, answer_digest(config, data.identity))
    assert dataset_of_run(config, run).identity == data.identity


def test_names_in_either_form_of_unicode_are_kept_in_one(tmp_path: Path) -> None:
    """A set that an earlier version decoded has the names of the folders as they were."""
    folder = make_images(tmp_path / "set", [(8, 8)])
    nfd, nfc = (unicodedata.normalize(form, "Blüten") for form in ("NFD", "NFC"))
    for part in ("train", "test"):
        (folder / part / "cat").rename(folder / part / nfd)
    config = DataConfig(name=f"folder:{folder}", root=tmp_path, size=8)
    data = prepare_dataset(config)
    assert (data.classes, data.train.names[0]) == ([nfc, "dog"], f"{nfd}/image0.png")
    (entry,) = entries(tmp_path)
    meta = read_json(entry / "meta.json", dict)
    write_json(entry / "meta.json", {**meta, "classes": [nfd, "dog"]})
    again = prepare_dataset(config)
    assert (again.classes, again.identity) == (data.classes, data.identity)


def test_a_limit_below_one_image_of_each_class_is_refused(
    make_npz: MakeNpz, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"data\.limit=2: too few .* of 3 classes; use at least 3"):
        prepared(make_npz(), tmp_path, limit=2)


def test_classes_without_a_train_image_are_said(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = 1 + np.arange(12, dtype=np.uint8)[:, None] % 2
    prepared(make_npz(train_labels=labels), tmp_path)
    assert "1 of 3 classes without a train image, such as 0" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on_with_the_first_images(
    make_npz: MakeNpz, tmp_path: Path
) -> None:
    path, config = make_npz(), Config()
    whole, part = (prepared(path, tmp_path, limit=limit) for limit in (None, 5))
    now, former = (Run(tmp_path, answer_digest(config, known)) for known in part.identities)
    assert part.as_trained_on(config, now) is part
    first = part.as_trained_on(config, former).train
    np.testing.assert_array_equal(first.images, whole.train.images[:5])
    with pytest.raises(UserError, match="has changed since this run; train again"):
        part.as_trained_on(config, Run(tmp_path, "another"))


def rank(barrier: Barrier, path: Path, root: Path, result: "Queue[tuple[int, int]]") -> None:
    barrier.wait()
    data = prepared(path, root, size=64)
    stat = Path(str(data.train.images.filename)).stat()  # type: ignore[attr-defined]
    result.put((stat.st_ino, stat.st_mtime_ns))


def test_two_processes_decode_once(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz(
        train_images=np.zeros((8000, 10, 10), np.uint8), train_labels=np.zeros(8000, np.uint8)
    )
    context = multiprocessing.get_context("spawn")
    barrier, result = context.Barrier(2), context.Queue()
    ranks = [context.Process(target=rank, args=(barrier, path, tmp_path, result)) for _ in "ab"]
    for process in ranks:
        process.start()
    maps = {result.get(timeout=60) for _ in ranks}
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    assert len(maps) == 1
    assert len(entries(tmp_path)) == 1


def test_progress_is_shown_by_the_rank_that_decodes(
    make_npz: MakeNpz,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = make_npz()
    monkeypatch.setenv("RANK", "1")
    prepared(path, tmp_path, size=11)
    out, err = capsys.readouterr()
    assert (out, "decoding" in err) == ("", True)
    monkeypatch.setenv("RANK", "0")
    prepared(path, tmp_path, size=11)
    assert capsys.readouterr() == ("", "")


def test_broken_source_leaves_no_entry(make_npz: MakeNpz, tmp_path: Path) -> None:
    path = make_npz(test_labels=None)
    with pytest.raises(UserError, match="contains no array 'test_labels'"):
        prepared(path, tmp_path)
    assert entries(tmp_path) == []
    path.unlink()
    with pytest.raises(UserError, match=rf"{path}: no such file"):
        prepared(path, tmp_path)


def test_vanished_image_is_named(tmp_path: Path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    (base / "images").mkdir()
    for part in ("trainval", "test"):
        (base / "annotations" / f"{part}.txt").write_text("Beagle_1 1 2 1\n")
    with pytest.raises(UserError, match=r"images/Beagle_1\.jpg: no such file"):
        prepare_dataset(DataConfig(name="pets", root=tmp_path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "meta.json").write_text("{"),
        lambda entry: (entry / "meta.json").write_text("[]"),
        lambda entry: (entry / "meta.json").unlink(),
        lambda entry: (entry / "train_images.npy").write_bytes(b""),
        lambda entry: os.truncate(entry / "train_images-5.npy", 200),
        lambda entry: os.truncate(entry / "train_images.npy", 500),
        lambda entry: (entry / "test_images.npy").unlink(),
        lambda entry: np.save(entry / "test_images.npy", np.zeros((6, 1, 9, 10), np.uint8)),
        lambda entry: np.save(entry / "train_labels.npy", np.zeros(3, int)),
        lambda entry: (entry / "train_labels.npy").write_bytes(b"no array"),
    ],
)
def test_damaged_entry(make_npz: MakeNpz, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = make_npz()
    prepared(path, tmp_path, limit=5)
    (entry,) = entries(tmp_path)
    damage(entry)
    with pytest.raises(UserError, match=rf"{entry}: damaged .*; delete that folder"):
        prepared(path, tmp_path, limit=5)
    shutil.rmtree(entry)
    prepared(path, tmp_path, limit=5)


@pytest.mark.parametrize("seconds_ago", [0, 3600])
def test_killed_run_is_swept_up(
    make_npz: MakeNpz, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds_ago: int
) -> None:
    path = make_npz()
    prepared(path, tmp_path)
    (entry,) = entries(tmp_path)
    left = entry.rename(entry.with_name(f".{entry.name}.k1ll3d"))
    os.utime(left, (time.time() - seconds_ago,) * 2)
    capsys.readouterr()
    prepared(path, tmp_path)
    assert entries(tmp_path) == [entry]
    assert "changed" not in capsys.readouterr().err


FULL_DISK = """
import resource, sys
from pathlib import Path
from bigbatch_ue.config.sections import DataConfig
from bigbatch_ue.data.decoded import prepare_dataset
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    prepare_dataset(DataConfig(root=Path(sys.argv[1]), size=64))
except OSError as error:
    print(type(error).__name__)
"""


def test_full_disk_is_an_os_error_that_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "OSError\n"
    assert entries(tmp_path) == []


def test_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare_dataset(DataConfig(root=tmp_path / "file"))


# -- several processes ---------------------------------------------------------------------------


def many(folder: Path) -> Path:
    """A folder of 300 images of many sizes, enough for several processes."""
    return make_images(folder, [(8 + i % 5, 8 + i % 7) for i in range(75)])


def decoded_bytes(root: Path) -> dict[str, bytes]:
    (entry,) = entries(root)
    return {path.name: path.read_bytes() for path in entry.iterdir()}


def test_several_processes_decode_the_same_bytes_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = many(tmp_path / "source")
    prepare_dataset(DataConfig(name=f"folder:{source}", root=tmp_path / "several", size=9))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    prepare_dataset(DataConfig(name=f"folder:{source}", root=tmp_path / "one", size=9))
    assert decoded_bytes(tmp_path / "several") == decoded_bytes(tmp_path / "one")


def test_unreadable_images_are_named_by_several_processes_as_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images that are cut: their headers are whole."""
    source = many(tmp_path / "source")
    for name in ("cat/image3", "dog/image70"):
        path = source / "train" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        UserError, match=r"2 image files are damaged or unreadable: cat/image3\.png"
    ):
        prepare_dataset(DataConfig(name=f"folder:{source}", root=tmp_path / "root", size=9))
    assert capsys.readouterr().err.count("looking for others") == 1
    assert entries(tmp_path / "root") == []
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(process_count(300) == 1, reason="a single process decodes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_and_leaves_nothing_half_written(
    tmp_path: Path, number: signal.Signals
) -> None:
    source, root = many(tmp_path / "source"), tmp_path / "root"
    settings = [f"data.name=folder:{source}", f"data.root={root}", "data.size=1024"]
    command = [sys.executable, "-m", "bigbatch_ue", "plan", "--preset", "small", *settings]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        while not (children := parent.children()) or not any(root.rglob("train_images.npy")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130}[number], said
    assert len(said.splitlines()) == 1, said
    assert entries(root) == []
    assert not any(child.is_running() for child in children)
