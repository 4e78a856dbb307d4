"""Every file of a data set is accounted for, and every layout that people have is understood or refused in one line."""

import itertools
import json
import os

import pytest
from click.testing import CliRunner
from image_sets import as_jpeg, write_images

from ctkeras.cli.main import cli
from ctkeras.data import catalog, sources
from ctkeras.data.accounts import Account
from ctkeras.data.layout import SPLITS
from ctkeras.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))


def write(root, names, content=b"x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


SET = [f"{split}/{name}/{i}.png" for split in SPLITS for name in "ab" for i in range(2)]
OUTSIDE = {
    "ending in .heic": ["train/a/1.heic", "train/a/2.heic"],
    "ending in .txt": ["notes.txt"],
    "hidden": ["train/a/._1.png", "__MACOSX/train/a/1.png", "train/a/Thumbs.db"],
    "in a folder that is not a split": ["dev/a/1.png", "unsorted/1.png"],
    "outside a class folder": ["train/loose.png", "top.png"],
    "without an image inside": ["train/a/LICENSE"],
    "neither DICOM nor NIfTI inside": ["train/b/0.dcm"],
}


def test_every_file_is_read_or_counted_with_an_example(tmp_path):
    write(tmp_path / "set", [*SET, *itertools.chain.from_iterable(OUTSIDE.values())])
    source = sources.open_source(str(tmp_path / "set"))
    assert {row.reason: row.files for row in source.left_out} == {reason: len(own) for reason, own in OUTSIDE.items()}
    assert all(row.example in OUTSIDE[row.reason] for row in source.left_out)
    on_disk = sum(len(names) for *_, names in os.walk(tmp_path / "set"))
    assert source.images + sum(row.files for row in source.left_out) == on_disk


def test_a_folder_that_cannot_be_read_is_counted_with_its_error(tmp_path, monkeypatch):
    write(tmp_path / "set", SET)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    account = Account()
    catalog.list_folder(tmp_path / "set", account)
    assert account.left_out() == (("in a folder that cannot be read (Permission denied)", 1, "train/b"),)


def test_images_are_known_by_their_content(tmp_path):
    names = [name.replace(".png", ending) for name, ending in zip(SET, itertools.cycle([".dcm", "", ".jfif", ".jpe"]))]
    write(tmp_path / "set", names, as_jpeg(1))
    source = sources.open_source(str(tmp_path / "set"))
    assert (source.images, source.left_out) == (len(SET), ())


def test_the_verbs_say_what_was_left_out(tmp_path, monkeypatch):
    root = write_images(tmp_path / "set", classes=("left", "right"), counts=dict.fromkeys(SPLITS, 2), size=32)
    write(root, ["train/left/1.heic", "train/left/._2.png"])
    (root / "test/left/broken.png").write_bytes(b"<html>")
    checked = CliRunner().invoke(cli, ["data", "check", "--json", "--data", str(root)])
    found = json.loads(checked.stdout)
    assert found["images"] == 12
    assert {row["reason"]: row["files"] for row in found["left_out"]} == {
        "ending in .heic": 1,
        "hidden": 1,
        "unreadable images": 1,
    }
    told = CliRunner().invoke(cli, ["data", "describe", "--data", str(root)]).output
    assert "2 files left out: 1 ending in .heic (such as train/left/1.heic)" in told
    described = CliRunner().invoke(cli, ["data", "describe", "--json", "--data", str(root)])
    assert json.loads(described.stdout)["splits"]["train"] == {"left": 2, "right": 2}


LAYOUTS = {
    "usual names": (["Training/a/1.png", "Training/b/1.png", "Testing/a/1.png", "Testing/b/1.png"], "no valid split"),
    "sets": ([f"{split}_set/{name}/1.png" for split in SPLITS for name in "ab"], ""),
    "dev": ([f"{split}/{name}/1.png" for split in ("train", "dev", "test") for name in "ab"], ""),
    "two of a kind": ([*SET, "val/a/9.png"], "val and valid are both read as valid"),
    "classes outside": ([f"{name}/{split}/1.png" for split in SPLITS for name in "ab"], "CLASS/SPLIT/IMAGE"),
    "case": ([*SET, "train/A/9.png", "train/b /9.png"], "read as one class, 'b'"),
    "no splits": ([f"root/{name}/{i}.png" for name in "ab" for i in range(5)], "The data has no splits"),
    "training only": ([f"train/{name}/{i}.png" for name in "ab" for i in range(5)], "The data has no splits"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_understood_and_said(tmp_path, name):
    files, words = LAYOUTS[name]
    # Divided training images need several groups; pages that cannot be read are groups of their own.
    more = [file.replace("/1.png", f"/more{i}.png") for file in files if "raining" in file for i in range(4)]
    source = sources.open_source(str(write(tmp_path / "set", [*files, *more])))
    assert source.class_names == ("a", "b")
    assert {entry.split for entry in source.entries} == set(SPLITS)
    assert source.images == len(files) + len(more)
    assert words in " ".join(source.notes)
    assert sources.open_source(str(tmp_path / "set")) == source


def test_folders_inside_a_class_stay_together(tmp_path):
    names = [f"{name}/P{patient}/{i}.png" for name in "ab" for patient in range(6) for i in range(3)]
    source = sources.open_source(str(write(tmp_path / "set", names)))
    splits = {}
    for entry in source.entries:
        splits.setdefault(entry.file.rpartition("/")[0], set()).add(entry.split)
    assert all(len(own) == 1 for own in splits.values())


def test_patients_are_not_taken_for_classes(tmp_path):
    write(tmp_path / "set", [f"P{i:03d}/{k}.png" for i in range(14) for k in range(2)])
    with pytest.raises(UserError, match="named like patients") as caught:
        sources.open_source(str(tmp_path / "set"))
    assert "\n" not in str(caught.value)
    rows = "\n".join(f"P{i:03d},{'ab'[i % 2]}" for i in range(14))
    (tmp_path / "set/labels.csv").write_text(f"patient,label\n{rows}\n")
    source = sources.open_source(str(tmp_path / "set"))
    assert (source.images, len({entry.patient for entry in source.entries})) == (28, 14)
    assert "P00" not in repr([entry.patient for entry in source.entries])


def test_an_odd_file_is_refused_in_one_line(tmp_path):
    write(tmp_path / "set", SET)
    os.mkfifo(tmp_path / "set/train/a/pipe.png")  # reading it would wait for ever
    with pytest.raises(UserError, match="is a pipe"):
        sources.open_source(str(tmp_path / "set"))
    (tmp_path / "set/train/a/pipe.png").unlink()
    (tmp_path / "set/train/a/link.png").symlink_to("/nowhere/x.png")
    with pytest.raises(UserError, match="a link that leads nowhere"):
        sources.open_source(str(tmp_path / "set"))
