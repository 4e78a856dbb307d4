"""A split's arrays: in order, rightly labelled, decoded once, and no other split touched."""

import os
import shutil
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from image_sets import write_images
from PIL import Image

from ctkeras.data import crop, decoded, images, layout, phantom, sources
from ctkeras.errors import UserError
from ctkeras.runtime import files

SIZE = 12  # pixels


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write_images(
        tmp_path / "set", classes=("left", "right"), counts={"train": 11, "valid": 2, "test": 1}, size=16
    )


@pytest.fixture
def source(folder):
    return sources.open_source(str(folder))


@pytest.fixture
def opened(monkeypatch):
    """The names of the images decoded so far."""
    names = []
    in_windows = images.in_windows

    def noted(content, wanted, *, name, **options):
        names.append(name.partition(" in ")[0])
        return in_windows(content, wanted, name=name, **options)

    monkeypatch.setattr(decoded, "in_windows", noted)
    return names


def test_images_labels_and_files_belong_together_in_the_order_of_names(folder, source):
    train = decoded.load_split(source, "train", SIZE, crop.WHOLE)
    listed = [path.relative_to(folder).as_posix() for path in folder.glob("train/*/*.png")]
    assert list(train.files) == sorted(listed)
    assert train.files[2] == "train/left/10.png"  # as text: between 1 and 2
    assert train.class_names == ("left", "right")
    assert (train.images.shape, train.images.dtype) == ((22, SIZE, SIZE), np.uint8)
    assert (train.labels.shape, train.labels.dtype) == ((22,), np.int32)
    for file, label, pixels in zip(train.files, train.labels, train.images, strict=True):
        assert file.split("/")[1] == train.class_names[label]
        np.testing.assert_array_equal(pixels, crop.prepare(np.asarray(Image.open(folder / file)), SIZE, crop.WHOLE))


def test_only_the_split_asked_for_is_opened(folder, source, own_cache, opened):
    for other in ("test", "valid"):
        for path in (folder / other).rglob("*.png"):
            path.unlink()
    train = decoded.load_split(source, "train", SIZE, crop.WHOLE)
    assert len(train.files) == 22
    assert sorted(opened) == sorted(train.files)
    assert sorted(path.name for path in (own_cache / "decoded").glob("*/*")) == [
        "train-thumbnails.npy",
        "train.json",
        "train.npy",
    ]


def test_a_split_is_decoded_once(source, own_cache, opened):
    first = decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    before = {path: path.stat().st_mtime_ns for path in (own_cache / "decoded").glob("*/*")}
    del opened[:]
    again = decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    assert opened == []
    assert before == {path: path.stat().st_mtime_ns for path in (own_cache / "decoded").glob("*/*")}
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.files, first.class_names) == (again.files, again.class_names)


def test_what_is_decoded_needs_its_source_no_longer(folder, source):
    first = decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    for path in folder.rglob("*.png"):
        path.unlink()
    np.testing.assert_array_equal(decoded.load_split(source, "valid", SIZE, crop.WHOLE).images, first.images)


def test_sizes_are_kept_apart(source):
    small, large = (decoded.load_split(source, "valid", size, crop.WHOLE) for size in (SIZE, 16))
    assert (small.images.shape[1:], large.images.shape[1:]) == ((SIZE, SIZE), (16, 16))
    assert decoded.load_split(source, "valid", SIZE, crop.WHOLE).images.shape == small.images.shape
    assert small.files == large.files


def test_a_changed_image_is_decoded_anew(folder, source):
    before = decoded.load_split(source, "valid", 16, crop.WHOLE)
    path = folder / "valid/right/1.png"
    inverted = 255 - np.asarray(Image.open(path))
    Image.fromarray(inverted).save(path)
    after = decoded.load_split(sources.open_source(str(folder)), "valid", 16, crop.WHOLE)
    changed = [file for file, a, b in zip(after.files, before.images, after.images, strict=True) if (a != b).any()]
    assert changed == ["valid/right/1.png"]
    np.testing.assert_array_equal(after.images[-1], inverted)


def test_the_arrays_are_mapped_and_can_not_be_written_to(source):
    split = decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    assert isinstance(split.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_an_image_that_fails_leaves_no_split_behind(source, own_cache, monkeypatch):
    in_windows = images.in_windows

    def fail(content, wanted, *, name, **options):
        if name.startswith("valid/right/1.png"):
            raise UserError(f"{name} is a damaged image")
        return in_windows(content, wanted, name=name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "in_windows", fail)
        with pytest.raises(UserError, match=r"valid/right/1\.png"):
            decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    assert [path for path in (own_cache / "decoded").rglob("*.*") if path.suffix != ".lock"] == []
    assert len(decoded.load_split(source, "valid", SIZE, crop.WHOLE).files) == 4


def test_arrays_without_their_table_count_for_nothing(source, own_cache):
    # The table is written last, so a process killed in between leaves the arrays alone, whole or not.
    whole = np.array(decoded.load_split(source, "valid", SIZE, crop.WHOLE).images)
    (folder,) = (own_cache / "decoded").glob("*/")
    (folder / "valid.json").unlink()
    (folder / "valid.npy").write_bytes(b"half")
    np.testing.assert_array_equal(decoded.load_split(source, "valid", SIZE, crop.WHOLE).images, whole)


def test_the_cache_is_bounded_and_what_is_used_stays(source, own_cache, monkeypatch):
    for size in (16, 17, 18):
        decoded.load_split(source, "valid", size, crop.WHOLE)
        os.utime(
            decoded.split_folder(source, size, crop.WHOLE), (size, size)
        )  # seconds; clocks are too coarse to tell them apart
    decoded.load_split(source, "valid", 16, crop.WHOLE)  # used last
    one = files.folder_bytes(next((own_cache / "decoded").glob("*-18-*[!k]")))
    monkeypatch.setattr(decoded, "CACHE_BYTES", int(2.5 * one))
    decoded.load_split(source, "valid", 15, crop.WHOLE)
    assert {path.name.split("-")[-7] for path in (own_cache / "decoded").glob("*/")} == {"15", "16"}


def test_two_that_decode_at_once_get_the_same(source, opened):
    splits, failures, meet = [], [], threading.Barrier(2)

    def work():
        try:
            meet.wait(30)
            splits.append(decoded.load_split(source, "train", SIZE, crop.WHOLE))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(opened) == 22  # by one of them
    np.testing.assert_array_equal(splits[0].images, splits[1].images)
    assert splits[0].files == splits[1].files


def test_a_zip_gives_what_its_folder_gives(folder, source, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    own = decoded.load_split(source, "train", SIZE, crop.WHOLE)
    shutil.rmtree(files.cache_dir())
    other = decoded.load_split(sources.open_source(str(path)), "train", SIZE, crop.WHOLE)
    assert own.files == other.files
    np.testing.assert_array_equal(own.images, other.images)
    np.testing.assert_array_equal(own.labels, other.labels)


def seen(source, split):
    """Looks as something to compare."""
    return [(*look[:-3], *(array.tobytes() for array in look[-3:])) for look in decoded.looks(source, split)]


@pytest.mark.parametrize("spec", ["phantom:20", None])
def test_looks_kept_while_decoding_are_those_made_alone(source, opened, spec):
    source = sources.open_source(spec) if spec else source
    alone = {split: seen(source, split) for split in layout.SPLITS}
    assert not files.cache_dir("looks").exists()
    for split in ("train", "valid"):
        decoded.load_split(source, split, SIZE, crop.WHOLE)
    del opened[:]
    assert {split: seen(source, split) for split in ("train", "valid")} == {s: alone[s] for s in ("train", "valid")}
    assert opened == []
    assert seen(source, "test") == alone["test"]
    assert len(opened) == len(alone["test"])  # for test is not kept


def test_a_look_is_of_the_pixels_and_tells_the_file(folder, source):
    gray = np.asarray(Image.open(folder / "valid/left/0.png"))
    Image.fromarray(gray).convert("RGBA").save(folder / "valid/left/0.png")
    Image.fromarray(gray).save(folder / "valid/left/1.png")
    looks = list(decoded.looks(sources.open_source(str(folder)), "valid"))
    assert [(look.file, look.class_name) for look in looks] == [
        (f"valid/{name}/{i}.png", name) for name in ("left", "right") for i in (0, 1)
    ]
    assert looks[0].pixels == looks[1].pixels != looks[2].pixels
    assert [look.header for look in looks[:2]] == [("PNG", "RGBA", 16, 16), ("PNG", "L", 16, 16)]
    for look in looks[:2]:
        np.testing.assert_array_equal(look.thumbnail, images.thumbnail(gray))


def test_what_can_not_be_looked_at_is_told_in_its_place(folder, source):
    (folder / "valid/left/0.png").write_bytes(b"no image")
    (folder / "valid/right/1.png").unlink()
    looks = list(decoded.looks(source, "valid"))
    assert [isinstance(look, decoded.Look) for look in looks] == [False, True, True, False]
    assert [(looks[i][0], looks[i][0] in str(looks[i][1])) for i in (0, 3)] == [
        ("valid/left/0.png", True),
        ("valid/right/1.png", True),
    ]


def test_decoding_loads_no_tensorflow(folder, tmp_path):
    code = f"""if True:
        import sys
        from ctkeras.data import crop, decoded, sources
        print(len(decoded.load_split(sources.open_source({str(folder)!r}), "train", 12, crop.WHOLE).files), *sys.modules)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert count == "22"
    assert not {"tensorflow", "tensorflow_datasets", "jax", "keras"} & set(modules)


def test_a_full_disk_is_told(source, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device"):
        decoded.load_split(source, "train", SIZE, crop.WHOLE)


def test_the_looks_are_bounded_too(source, monkeypatch):
    decoded.load_split(source, "valid", SIZE, crop.WHOLE)
    old = decoded.looks_folder(source)
    os.utime(old, (1, 1))
    monkeypatch.setattr(decoded, "LOOKS_BYTES", 1)
    decoded.load_split(sources.open_source("phantom:12"), "valid", 32, crop.WHOLE)
    assert not old.exists()
    assert decoded.looks_folder(sources.open_source("phantom:12")).exists()


def test_versions_of_what_is_drawn_are_cached_apart(monkeypatch):
    folders = []
    for version in ("1.0.0", "1.0.1"):
        monkeypatch.setattr(phantom, "VERSION", version)
        source = sources.open_source("phantom:999999")
        folders.append((decoded.split_folder(source, SIZE, crop.WHOLE), decoded.looks_folder(source)))
    assert len({path for pair in folders for path in pair}) == 4


def test_unreadable_images_of_all_splits_are_named_at_once(folder):
    first, last = sorted((folder / "train" / "left").iterdir())[0], next((folder / "test" / "right").iterdir())
    first.write_bytes(first.read_bytes()[:-30])
    last.write_bytes(b"")
    source = sources.open_source(str(folder))
    with pytest.raises(
        UserError, match=f"2 of {source.images} images in .*{first.name} is a damaged .*{last.name} is empty"
    ):
        decoded.load_split(source, "train", SIZE, crop.WHOLE)
    assert [*decoded.unreadable(source)] == [path.relative_to(folder).as_posix() for path in (first, last)]


def test_at_most_ten_unreadable_images_are_named():
    from ctkeras.data import accounts

    reasons = {f"{i}.png": f"{i}.png is empty; remove it or download it again" for i in range(12)}
    words = str(accounts.refusal(reasons, images=40, path="set"))
    assert words.startswith("12 of 40 images in set cannot be read: 0.png is empty; 1.png is empty;")
    assert "9.png is empty; and 2 more; remove these files" in words
