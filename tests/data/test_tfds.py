"""tfds.load gives every data set as it is: images, labels, names; prepared once, and again only after a change."""

import io
import pathlib
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
from image_sets import write_images
from PIL import Image

from ctkeras.data import crop, layout, phantom, sources
from ctkeras.data.tfds import ImageSplits
from ctkeras.data.tfds import tfds as tfds_tfds
from ctkeras.errors import UserError

tfds = tfds_tfds


@pytest.fixture
def folder(tmp_path):
    return write_images(
        tmp_path / "set", classes=("left", "right"), counts={"train": 3, "valid": 2, "test": 1}, size=16
    )


@pytest.fixture
def load(tmp_path):
    """Loads a data set by tfds.load; returns {split: {file: (label name, gray)}} and its info."""

    def load(data, name="image_splits"):
        options = {"builder_kwargs": {"data": str(data)}, "data_dir": str(tmp_path / "tfds")}
        loaded, info = tfds.load(name, with_info=True, **options)
        names = info.features["label"].names
        rows = {
            split: {
                row["file"].decode(): (names[row["label"]], row["image"][..., 0])
                for row in examples.as_numpy_iterator()
            }
            for split, examples in loaded.items()
        }
        return rows, info

    return load


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def files_with_times(folder):
    return {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_folder_and_its_zip_load_as_they_are(folder, tmp_path, load, form):
    rows, info = load(folder if form == "folder" else zipped(folder, tmp_path / "set.zip"))
    assert info.features["label"].names == ["left", "right"]
    assert {split: len(files) for split, files in rows.items()} == {"train": 6, "valid": 4, "test": 2}
    for split, files in rows.items():
        assert info.splits[split].num_examples == len(files)
        for file, (label, gray) in files.items():
            assert file.split("/")[:2] == [split, label]
            np.testing.assert_array_equal(gray, np.asarray(Image.open(folder / file)))


def test_a_generated_set_loads_as_it_is_drawn(load):
    rows, info = load("phantom:20")
    assert tuple(info.features["label"].names) == phantom.CLASSES
    for split, size in phantom.split_sizes(20).items():
        assert len(rows[split]) == size
        for file, seed, label in phantom.split_items(20, split):
            assert rows[split][file][0] == phantom.CLASSES[label]
            np.testing.assert_array_equal(rows[split][file][1], phantom.phantom_slice(seed, label))


def test_pairs_of_image_and_label_for_keras(folder, tmp_path):
    options = {"builder_kwargs": {"data": str(folder)}, "data_dir": str(tmp_path / "tfds")}
    pairs = list(tfds.load("image_splits", split="train", as_supervised=True, **options).as_numpy_iterator())
    assert Counter(int(label) for _, label in pairs) == {0: 3, 1: 3}
    assert {(image.shape, image.dtype.name) for image, _ in pairs} == {((16, 16, 1), "uint8")}


def test_every_image_is_stored_gray_whatever_its_mode(folder, load, tmp_path):
    path = folder / "train/left/0.png"
    gray = np.asarray(Image.open(path))
    Image.fromarray(gray).convert("RGBA").save(path)
    rows, _ = load(folder)
    np.testing.assert_array_equal(rows["train"]["train/left/0.png"][1], gray)
    builder = ImageSplits(data=str(folder), data_dir=str(tmp_path / "tfds"))
    encoded = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()}).as_numpy_iterator()
    assert {Image.open(io.BytesIO(row["image"])).mode for row in encoded} == {"L"}


def test_a_set_and_its_copies_are_prepared_once(folder, tmp_path, load):
    _, info = load(folder)
    before = files_with_times(info.data_dir)
    assert before
    copy = shutil.copytree(folder, tmp_path / "copy")
    for data in (folder, copy, zipped(folder, tmp_path / "set.zip")):
        assert load(data)[1].data_dir == info.data_dir
    assert files_with_times(info.data_dir) == before


def test_a_changed_image_is_prepared_again(folder, load):
    first, info = load(folder)
    path = folder / "valid/left/0.png"
    other = 255 - np.asarray(Image.open(path))
    Image.fromarray(other).save(path)
    second, changed = load(folder)
    assert changed.data_dir != info.data_dir
    np.testing.assert_array_equal(second["valid"]["valid/left/0.png"][1], other)
    np.testing.assert_array_equal(first["valid"]["valid/left/0.png"][1], 255 - other)


def test_a_damaged_image_is_named_and_nothing_half_prepared_stays(folder, load, tmp_path):
    path = folder / "test/right/0.png"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    for _ in range(2):  # the second time is no different
        with pytest.raises(UserError, match=r"test/right/0\.png .*damaged image"):
            load(folder)
        assert not [found for found in (tmp_path / "tfds").rglob("*") if found.is_file()]
    path.write_bytes(good)
    assert len(load(folder)[0]["test"]) == 2


@pytest.mark.parametrize("names", [("größe 3", "肺"), ("a, b", "a"), ("x" * 100, " y")])
def test_class_names_survive(tmp_path, load, names):
    folder = write_images(tmp_path / "named", classes=names, counts=dict.fromkeys(layout.SPLITS, 1), size=16)
    rows, info = load(folder)
    assert info.features["label"].names == sorted(name.strip() for name in names)
    assert {label: file.split("/")[1] for file, (label, _) in rows["train"].items()} == {
        name.strip(): name for name in names
    }


def test_the_kaggle_set_has_a_name_of_its_own(tmp_path, load):
    names = ("adenocarcinoma_x", "large.cell.carcinoma", "normal", "squamous.cell.carcinoma")
    write_images(tmp_path / "Data", classes=names, counts=dict.fromkeys(layout.SPLITS, 1), size=16)
    rows, info = load(tmp_path / "Data", "chest_ct")
    assert info.name == "chest_ct"
    for file, (label, _) in rows["train"].items():
        assert file.startswith("train/" + label.split("_")[0])


def test_what_it_holds_is_what_training_decodes(folder, load):
    from ctkeras.data import decoded

    rows, _ = load(folder)
    source = sources.open_source(str(folder))
    for split in layout.SPLITS:
        own = decoded.load_split(source, split, 12, crop.WHOLE)
        assert set(rows[split]) == set(own.files)
        for file, label, pixels in zip(own.files, own.labels, own.images, strict=True):
            assert rows[split][file][0] == own.class_names[label]
            np.testing.assert_array_equal(crop.prepare(rows[split][file][1], 12, crop.WHOLE), pixels)


def test_a_bad_name_is_refused_before_a_folder_is_made(tmp_path, load):
    with pytest.raises(UserError, match="at least 12 images"):
        load("phantom:11")
    assert not (tmp_path / "tfds").exists()


@pytest.mark.slow
def test_the_real_set_loads_whole(real_data, load):
    rows, info = load(real_data, "chest_ct")
    assert {split: len(files) for split, files in rows.items()} == {"train": 613, "valid": 72, "test": 315}
    assert info.features["label"].names == ["adenocarcinoma", "large_cell", "normal", "squamous_cell"]
