"""A source is prepared once, whole or not at all, and again only when it has changed."""

import io
import os
import pathlib
import shutil
import threading
import zipfile
from collections import Counter

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from ctkeras import dataset, images, runtime, sources
from ctkeras.config import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write_images(
        tmp_path / "set", classes=("left", "right"), counts={"train": 3, "valid": 2, "test": 1}, size=16
    )


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def open_and_prepare(place):
    return dataset.prepare(sources.open_source(str(place)))


def rows(builder, split):
    """file to (label name, gray) of a split."""
    names = builder.info.features["label"].names
    found = {}
    for row in builder.as_dataset(split=split, decoders=dataset.undecoded()).as_numpy_iterator():
        file = row["file"].decode()
        found[file] = names[row["label"]], images.decode_gray(row["image"], name=file)
    return found


def outcome(place):
    """The rows of a prepared training split, or the message that refuses it."""
    try:
        return rows(open_and_prepare(place), "train")
    except UserError as error:
        return str(error)


def files_with_times(folder):
    return {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*") if path.is_file()}


def leftovers(cache):
    """What under data/ is neither a lock nor an empty folder."""
    return [path for path in (cache / "data").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_what_is_prepared_is_what_was_there(folder):
    source = sources.open_source(str(folder))
    builder = dataset.prepare(source)
    assert builder.info.features["label"].names == ["left", "right"]
    for split, count in {"train": 3, "valid": 2, "test": 1}.items():
        found = rows(builder, split)
        assert len(found) == 2 * count
        for file, (label, gray) in found.items():
            assert file.split("/")[:2] == [split, label]
            np.testing.assert_array_equal(gray, np.asarray(Image.open(folder / file)))
    listed = Counter((entry.split, entry.class_name) for entry in source.entries)
    counts = dataset.class_counts(builder)
    assert {(s, c): n for s, by_class in counts.items() for c, n in by_class.items()} == dict(listed)


def test_every_image_is_stored_gray_whatever_its_mode(folder):
    path = folder / "train/left/0.png"
    gray = np.asarray(Image.open(path))
    Image.fromarray(gray).convert("RGBA").save(path)
    stored = {}
    builder = open_and_prepare(folder)
    for row in builder.as_dataset(split="train", decoders=dataset.undecoded()).as_numpy_iterator():
        stored[row["file"].decode()] = row["image"]
    modes = {Image.open(io.BytesIO(content)).mode for content in stored.values()}
    assert modes == {"L"}
    np.testing.assert_array_equal(images.decode_gray(stored["train/left/0.png"], name="x"), gray)


def test_a_second_prepare_does_nothing(folder, own_cache, capsys):
    first = open_and_prepare(folder)
    assert f"Preparing 12 images from {folder}" in capsys.readouterr().err
    before = files_with_times(first.data_path)
    second = open_and_prepare(folder)
    assert capsys.readouterr() == ("", "")
    assert before == files_with_times(second.data_path)
    assert before
    assert rows(second, "valid").keys() == rows(first, "valid").keys()


def test_a_copy_and_a_zip_of_the_set_share_one_preparation(folder, tmp_path, capsys):
    first = open_and_prepare(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    capsys.readouterr()
    for place in (copy, zipped(folder, tmp_path / "set.zip")):
        assert open_and_prepare(place).data_path == first.data_path
    assert "Preparing" not in capsys.readouterr().err


def test_a_changed_source_is_prepared_anew(folder, capsys):
    first = open_and_prepare(folder)
    path = folder / "valid/left/0.png"
    stat = path.stat()
    other = 255 - np.asarray(Image.open(path))
    Image.fromarray(other).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    capsys.readouterr()
    second = open_and_prepare(folder)
    assert "Preparing 12 images" in capsys.readouterr().err
    assert second.data_path != first.data_path
    np.testing.assert_array_equal(rows(second, "valid")["valid/left/0.png"][1], other)
    np.testing.assert_array_equal(rows(first, "valid")["valid/left/0.png"][1], 255 - other)


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("file", ["train/left/0.png", "test/right/0.png"])
def test_a_damaged_image_is_named_and_nothing_half_prepared_stays(folder, tmp_path, own_cache, capsys, file, form):
    def place():
        return zipped(folder, tmp_path / "set.zip") if form == "zip" else folder

    good = (folder / file).read_bytes()
    (folder / file).write_bytes(good[: len(good) // 2])
    for _ in range(2):  # no better the second time
        with pytest.raises(UserError, match="damaged image") as caught:
            open_and_prepare(place())
        assert file in str(caught.value)
        assert str(place()) in str(caught.value)
        assert leftovers(own_cache) == []
        assert not [path for path in own_cache.rglob("*") if "incomplete" in path.name]
    (folder / file).write_bytes(good)
    builder = open_and_prepare(place())
    assert {split: len(rows(builder, split)) for split in sources.SPLITS} == {"train": 6, "valid": 4, "test": 2}
    assert "download" not in capsys.readouterr().out.lower()


def test_an_image_that_goes_meanwhile_is_named(folder, own_cache):
    source = sources.open_source(str(folder))
    (folder / "valid/left/0.png").unlink()
    with pytest.raises(UserError, match=r"valid/left/0\.png can't be read"):
        dataset.prepare(source)
    assert leftovers(own_cache) == []


def test_a_disk_that_fails_is_told(folder, own_cache, monkeypatch):
    def fail(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.ImageSplits, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"can't be prepared under .*No space left on device") as caught:
        open_and_prepare(folder)
    assert str(own_cache) in str(caught.value)


def test_a_zip_that_holds_a_name_twice_is_refused_by_name_or_prepared(folder, tmp_path):
    path = zipped(folder, tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.write(folder / "train/left/0.png", "train/left/0.png")
    found = outcome(path)
    assert "train/left/0.png" in found if isinstance(found, str) else len(found) == 6


def test_a_name_that_is_no_unicode_is_refused_by_name_or_prepared(folder):
    # As unzipping an archive made on Windows leaves them.
    other = os.fsencode(folder / "train/left") + b"/gro\xdf.png"
    try:
        os.rename(folder / "train/left/0.png", other)
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    found = outcome(folder)
    assert "train/left/gro" in found if isinstance(found, str) else len(found) == 6


@pytest.mark.parametrize("names", [("größe 3", "肺"), ("a, b", "a"), ("x" * 100, " y")])
def test_class_names_survive(tmp_path, names):
    folder = write_images(tmp_path / "named", classes=names, counts=dict.fromkeys(sources.SPLITS, 1), size=16)
    builder = open_and_prepare(folder)
    assert builder.info.features["label"].names == sorted(names)
    assert {label: file.split("/")[1] for file, (label, _) in rows(builder, "train").items()} == {n: n for n in names}
    assert dataset.class_counts(builder)["test"] == dict.fromkeys(sorted(names), 1)


def test_the_four_known_classes_are_prepared_as_chest_ct(tmp_path):
    names = ("adenocarcinoma_x", "large.cell.carcinoma", "normal", "squamous.cell.carcinoma")
    folder = write_images(tmp_path / "Data", classes=names, counts=dict.fromkeys(sources.SPLITS, 1), size=16)
    builder = open_and_prepare(tmp_path)
    assert builder.name == "chest_ct"
    for file, (label, _) in rows(builder, "train").items():
        assert file.startswith("Data/train/" + label.split("_")[0])
    assert folder.name == "Data"


def test_phantoms_are_prepared_once(capsys):
    first = open_and_prepare("phantom:12")
    counts = dataset.class_counts(first)
    assert {split: sum(by_class.values()) for split, by_class in counts.items()} == {"train": 4, "valid": 4, "test": 4}
    assert tuple(counts["train"]) == sources.open_source("phantom:12").class_names
    assert "Preparing 12 images from phantom:12" in capsys.readouterr().err
    assert open_and_prepare("phantom:12").data_path == first.data_path
    assert capsys.readouterr().err == ""
    assert open_and_prepare("phantom:16").data_path != first.data_path


def test_two_that_prepare_at_once_both_succeed_and_one_does_the_work(folder, own_cache, monkeypatch):
    runtime.configure_tensorflow()
    said, built, failures, meet = [], [], [], threading.Barrier(2)
    monkeypatch.setattr(runtime, "note", said.append)
    source = sources.open_source(str(folder))

    def work():
        try:
            meet.wait(30)
            built.append(dataset.prepare(source))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len([text for text in said if text.startswith("Preparing")]) == 1
    assert [len(rows(builder, "train")) for builder in built] == [6, 6]
    assert not [path for path in own_cache.rglob("*") if "incomplete" in path.name]


@pytest.mark.slow
def test_the_real_set_is_prepared_whole(real_data):
    builder = open_and_prepare(real_data)
    counts = dataset.class_counts(builder)
    assert {split: sum(by_class.values()) for split, by_class in counts.items()} == {
        "train": 613,
        "valid": 72,
        "test": 315,
    }
