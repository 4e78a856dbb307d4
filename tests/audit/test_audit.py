"""What counts as a copy, a leak and a conflict, counted again in another way; and what training leaves out."""

import io
import itertools
import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict

import numpy as np
import pytest
from image_sets import SIZE, as_jpeg, clean_set, write_set
from PIL import Image

from ctkeras.audit import audit, cleaning, groups
from ctkeras.data import crop, decoded, layout, sources
from ctkeras.errors import UserError
from ctkeras.runtime.files import folder_bytes
from ctkeras.training import folds


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def leaks_of(audited):
    """Leaks as (from, to, files, distinct, exact)."""
    return [(leak.split, leak.into, len(leak.files), leak.distinct, leak.exact) for leak in audited.leaks()]


def test_a_set_without_faults_has_none(tmp_path):
    audited = audit.examine(write_set(tmp_path / "set", clean_set()))
    assert (audited.leaks(), audited.conflicts(), audited.groups(), audited.unreadable) == ([], [], [], {})
    assert audited.pairs == ()
    assert (
        len(set(audited.twins().values())) == len(set(audited.twins(near=True).values())) == len(audited.images) == 10
    )


def test_one_picture_in_three_modes_is_one_image(tmp_path):
    modes = {f"train/a/{mode}.png": (20, mode) for mode in ("RGBA", "RGB", "L")}
    audited = audit.examine(write_set(tmp_path / "set", clean_set() | modes))
    (group,) = audited.groups()
    assert {image.file: image.mode for image in group} == {name: mode for name, (_, mode) in modes.items()}
    assert {(image.format, image.width, image.height) for image in group} == {("PNG", SIZE, SIZE)}


def test_saved_as_jpeg_is_near_and_not_exact(tmp_path):
    files = clean_set() | {"test/a/copy.jpg": as_jpeg(0)}  # 0 is in train
    audited = audit.examine(write_set(tmp_path / "set", files))
    assert leaks_of(audited) == [("test", "train", 1, 1, False)]
    assert [pair[:2] for pair in audited.pairs] == [("train/a/0.png", "test/a/copy.jpg")]
    exact, near = audited.twins(), audited.twins(near=True)
    assert exact["train/a/0.png"] != exact["test/a/copy.jpg"]
    assert near["train/a/0.png"] == near["test/a/copy.jpg"]
    assert [[image.file for image in group] for group in audited.groups(near=True)] == [
        ["test/a/copy.jpg", "train/a/0.png"]
    ]


def test_what_hangs_together_by_pairs_is_one_group():
    assert groups.connected(6, []).tolist() == [0, 1, 2, 3, 4, 5]
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = [(int(i), int(j), 1.0) for i, j in rng.integers(0, 12, (8, 2))]
        numbers = groups.connected(12, pairs).tolist()
        reach = np.eye(12, dtype=bool)
        for i, j, _ in pairs:
            reach[i, j] = reach[j, i] = True
        for _ in range(12):
            reach = reach @ reach
        assert numbers == [int(row.argmax()) for row in reach]


def test_a_near_twin_beside_an_exact_one_is_not_counted_again(tmp_path):
    files = clean_set() | {"train/a/copy.jpg": as_jpeg(0), "test/a/same.png": 0, "test/a/again.png": 0}
    audited = audit.examine(write_set(tmp_path / "set", files))
    assert leaks_of(audited) == [("test", "train", 2, 1, True)]


def counted(source):
    """Distinct images, exact leaks and conflicts, by comparing every file with every other."""
    pixels = {}
    for split in layout.SPLITS:
        for entry, content in sources.read(source, split):
            pixels[entry] = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    alike = defaultdict(set)
    for one, other in itertools.combinations(pixels, 2):
        if pixels[one].shape == pixels[other].shape and (pixels[one] == pixels[other]).all():
            alike[one].add(other)
            alike[other].add(one)
    distinct, seen = 0, set()
    for entry in pixels:
        distinct += entry not in seen
        seen |= {entry, *alike[entry]}
    leaks = []
    for split, into in (("test", "train"), ("valid", "train"), ("test", "valid")):
        files = [e for e in pixels if e.split == split and any(other.split == into for other in alike[e])]
        kinds = {pixels[e].tobytes() for e in files}
        if files:
            leaks.append((split, into, len(files), len(kinds), True))
    conflicts = {
        frozenset((e.file, other.file)) for e in pixels for other in alike[e] if e.class_name != other.class_name
    }
    return distinct, leaks, conflicts


@pytest.mark.parametrize("seed", range(4))
def test_counts_agree_with_counting_each_against_each(tmp_path, seed):
    rng = np.random.default_rng(seed)
    files = clean_set()
    for i in range(30):
        place = f"{rng.choice(layout.SPLITS)}/{rng.choice(['a', 'b'])}/{i + 10}.png"
        files[place] = (int(rng.integers(0, 20)), str(rng.choice(["L", "RGB", "RGBA"])))
    source = write_set(tmp_path / "set", files)
    audited = audit.examine(source)
    distinct, leaks, conflicts = counted(source)
    assert len(set(audited.twins().values())) == distinct < len(audited.images)
    assert leaks_of(audited) == leaks
    assert {frozenset(pair) for pair in audited.conflicts()} == conflicts
    assert leaks
    assert conflicts


@pytest.mark.slow
def test_the_real_set_agrees_with_counting_each_against_each(real_data):
    source = sources.open_source(real_data)
    audited = audit.examine(source)
    distinct, leaks, conflicts = counted(source)
    assert len(set(audited.twins().values())) == distinct
    assert [leak for leak in leaks_of(audited) if leak[-1]] == leaks
    assert {frozenset(pair) for pair in audited.conflicts()} == conflicts
    assert audited.unreadable == {}
    # Near leaks, from the pairs alone: no chain of pairs makes one.
    twins = audited.twins()
    near = defaultdict(set)
    for first, second, _ in audited.pairs:
        near[twins[first]].add(twins[second])
        near[twins[second]].add(twins[first])
    for leak in audited.leaks():
        there = {image.exact for image in audited.images if image.split == leak.into}
        own = [image for image in audited.images if image.split == leak.split and image.exact not in there]
        if not leak.exact:
            assert set(leak.files) == {image.file for image in own if near[image.exact] & there}


def test_every_unreadable_image_is_listed_with_its_reason(tmp_path):
    good = as_jpeg(0)
    bad = {"train/a/cut.jpg": good[: len(good) // 2], "valid/b/text.png": b"no image", "test/b/empty.png": b""}
    audited = audit.examine(write_set(tmp_path / "set", clean_set() | bad))
    assert set(audited.unreadable) == set(bad)
    assert all(file in reason for file, reason in audited.unreadable.items())
    assert len(audited.images) == 10


def test_a_damaged_member_of_a_zip_is_listed_and_the_rest_read(tmp_path):
    write_set(tmp_path / "set", clean_set())
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted((tmp_path / "set").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "set").as_posix())
    content = bytearray(path.read_bytes())
    content[content.index(b"train/a/1.png") + 200] ^= 1
    path.write_bytes(content)
    audited = audit.examine(sources.open_source(str(path)))
    assert list(audited.unreadable) == ["train/a/1.png"]
    assert len(audited.images) == 9


def test_what_is_kept_is_what_was_found(tmp_path, own_cache, capsys):
    files = clean_set() | {"test/a/copy.jpg": as_jpeg(0), "valid/a/1.png": (1, "RGB"), "train/b/9.png": 1}
    source = write_set(tmp_path / "set", files)
    examined = audit.examine(source)
    loaded = audit.load(source)
    assert loaded == examined
    assert "Preparing the audit" in capsys.readouterr().err
    for path in (tmp_path / "set").rglob("*.*"):
        path.unlink()
    assert audit.load(source) == examined  # without its source
    assert capsys.readouterr().err == ""


def test_an_unreadable_image_is_refused_where_all_are_needed(tmp_path, own_cache):
    bad = {"test/a/bad.png": b"x", "test/b/bad.png": b"y"}
    source = write_set(tmp_path / "set", clean_set() | bad)
    with pytest.raises(UserError, match=r"2 of 12 images in .*: test/a/bad\.png .*; test/b/bad\.png "):
        audit.load(source)
    assert not [path for path in own_cache.rglob("*.json") if path.parent.name != "listings"]


def test_phantoms_have_no_copies():
    audited = audit.examine(sources.open_source("phantom:60"))
    assert len(audited.images) == 60
    assert audited.groups() == audited.groups(near=True) == audited.leaks() == audited.conflicts() == []


# What training leaves out


def training(source):
    return decoded.load_split(source, "train", 32, crop.WHOLE)


def test_nothing_to_leave_out_leaves_the_arrays_as_they_are(tmp_path):
    source = write_set(tmp_path / "set", clean_set())
    train = training(source)
    for leaks in ("drop", "keep"):
        left, cleaned = cleaning.clean(train, source, leaks=leaks)
        assert left is train
        assert cleaned == cleaning.Cleaned(leaks, 6, 0, 0)


def test_what_stands_elsewhere_and_what_has_two_labels_is_left_out(tmp_path):
    more = {
        "test/b/same.png": (0, "RGB"),
        "valid/a/near.jpg": as_jpeg(1),
        "train/a/torn.png": 20,
        "train/b/torn.png": 20,
    }
    source = write_set(tmp_path / "set", clean_set() | more)
    train = training(source)
    left, cleaned = cleaning.clean(train, source, leaks="drop")
    out = {"train/a/0.png", "train/a/1.png", "train/a/torn.png", "train/b/torn.png"}
    assert set(left.files) == set(train.files) - out
    assert cleaned == cleaning.Cleaned("drop", 4, 2, 2)
    where = [train.files.index(file) for file in left.files]
    assert where == sorted(where)
    np.testing.assert_array_equal(left.images, train.images[where])
    np.testing.assert_array_equal(left.labels, train.labels[where])
    assert left.class_names == train.class_names
    kept, cleaned = cleaning.clean(train, source, leaks="keep")
    assert kept is train
    assert cleaned == cleaning.Cleaned("keep", 8, 0, 0)


def test_copies_within_training_stay(tmp_path):
    source = write_set(tmp_path / "set", clean_set(train__a__copy=0, valid__a__copy=6))
    assert cleaning.clean(training(source), source, leaks="drop")[1] == cleaning.Cleaned("drop", 7, 0, 0)


def test_no_label_of_another_split_says_what_training_leaves_out(tmp_path):
    lists = []
    for name in "ab":
        source = write_set(tmp_path / name, clean_set() | {f"test/{name}/same.png": 0, f"valid/{name}/same.png": 4})
        audit.load(source)
        lists.append(audit.training_list(source))
    in_test = [each.pop("in_test") for each in lists]  # for folds, of the test split's pixels, never of its labels
    assert in_test == [["train/a/0.png"], ["train/a/0.png"]]
    numbers = [
        {file: (each["near"][file], each["group"][file]) for file in each["group"] if file.startswith("train/")}
        for each in lists
    ]
    assert numbers[0] == numbers[1]
    assert [(each["leaks"], each["conflicts"]) for each in lists] == [(["train/a/0.png", "train/b/1.png"], [])] * 2


def test_training_needs_no_more_than_its_own_list(tmp_path):
    source = write_set(tmp_path / "set", clean_set(test__a__same=0))
    audit.load(source)
    train = training(source)
    (audit.folder(source) / "audit.json").unlink()
    for path in (tmp_path / "set").rglob("*.png"):
        path.unlink()
    assert cleaning.clean(train, source, leaks="drop")[1].train_images_dropped == 1
    assert cleaning.grouped(train, source).groups.shape == (len(train.files),)
    names = audit.training_list(source)
    assert set(names["group"]) == set(names["near"]) > set(train.files)
    assert not any(file.startswith("test/") for files in names.values() for file in files)


def test_a_patterns_patient_in_train_and_valid_is_one_group_and_stays_in_one_fold(tmp_path):
    """Numbered in each split by itself, patient 2 of train and patient 1 of valid would be joined, and patient 2 parted."""
    patients = {"train": [1, 1, 2, 2, 3, 3, 5, 5], "valid": [2, 2, 4, 4], "test": [6, 6]}
    rows = [(split, whose, at) for split, own in patients.items() for at, whose in enumerate(own)]
    names = [f"{split}/{'ab'[at % 2]}/p{whose}-{at}.png" for split, whose, at in rows]
    source = write_set(tmp_path / "set", {name: number for number, name in enumerate(names)})
    pattern = r"p(\d+)-"
    parts = [
        cleaning.grouped(decoded.load_split(source, split, 32, crop.Preparation()), source, group_pattern=pattern)
        for split in ("train", "valid")
    ]
    pooled, _ = folds.pool(*parts)
    whose = [re.search(pattern, file)[1] for file in pooled.files]
    assert len(set(zip(whose, pooled.groups, strict=True))) == len(set(whose)) == len(set(pooled.groups)) == 5
    fold_of = folds.divide(pooled, 3, seed=0)
    assert len(set(zip(whose, fold_of, strict=True))) == 5


def test_a_class_that_would_be_empty_is_named(tmp_path):
    source = write_set(tmp_path / "set", clean_set(test__a__x=3, test__b__y=4, valid__b__z=5))
    with pytest.raises(UserError, match=r"every training image of 'b' .* --leaks keep"):
        cleaning.clean(training(source), source, leaks="drop")
    assert cleaning.clean(training(source), source, leaks="keep")[1].train_images == 6


def test_leaving_out_loads_no_tensorflow(tmp_path):
    source = write_set(tmp_path / "set", clean_set(test__a__same=0))
    audit.load(source)
    code = f"""if True:
        import sys
        import numpy as np
        from ctkeras.audit import cleaning
        from ctkeras.data import decoded, sources
        source = sources.open_source({str(tmp_path / "set")!r})
        files = tuple(entry.file for entry in source.entries if entry.split == "train")
        train = decoded.Split(np.zeros((6, 8, 8), np.uint8), np.arange(6) // 3, files, ("a", "b"))
        print(cleaning.clean(train, source, leaks="drop")[1].train_images_dropped, *sys.modules)
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dropped, *modules = done.stdout.split()
    assert dropped == "1"
    assert not {"tensorflow", "jax", "keras", "sklearn"} & set(modules)


def test_the_cache_is_bounded_and_what_is_used_stays(tmp_path, own_cache, monkeypatch):
    specs = ("phantom:12", "phantom:13", "phantom:14")
    for age, spec in enumerate(specs[:2]):
        audit.load(sources.open_source(spec))
        os.utime(audit.folder(sources.open_source(spec)), (age, age))
    audit.load(sources.open_source(specs[0]))  # used last
    one = folder_bytes(audit.folder(sources.open_source(specs[0])))
    monkeypatch.setattr(audit, "CACHE_BYTES", int(2.5 * one))
    audit.load(sources.open_source(specs[2]))
    assert [audit.folder(sources.open_source(spec)).exists() for spec in specs] == [True, False, True]


def test_agreement_has_three_decimals(tmp_path):
    audited = audit.examine(write_set(tmp_path / "set", clean_set() | {"test/a/copy.jpg": as_jpeg(0)}))
    ((_, _, agreement),) = audited.pairs
    assert 0.9 < agreement < 1
    assert agreement == round(agreement, 3) != round(agreement, 2)
