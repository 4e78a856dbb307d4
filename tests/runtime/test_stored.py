"""What is kept between runs comes back as it was written or not at all, and a cache can never end a command."""

import json
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from ctkeras.audit import audit
from ctkeras.config import RunConfig
from ctkeras.data import decoded, pseudonyms, sources
from ctkeras.errors import CannotWrite
from ctkeras.runtime import caches, files, programs, stored
from ctkeras.training import inputs

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.linspace(0, 1, 7, dtype=np.float32),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(folder):
    """One file of each kind, with the function that reads it and what it holds."""
    stored.write_array(folder / "a.npy", ARRAYS[0])
    stored.write_json(folder / "b.json", {"files": ["ä.png"], "labels": [1, 0]})
    stored.write_bytes(folder / "c", b"bytes")
    return {
        folder / "a.npy": (lambda path: stored.read_array(path).tolist(), ARRAYS[0].tolist()),
        folder / "b.json": (stored.read_json, {"files": ["ä.png"], "labels": [1, 0]}),
        folder / "c": (stored.read_bytes, b"bytes"),
    }


@pytest.mark.parametrize("array", ARRAYS)
def test_an_array_comes_back_and_numpy_reads_it_too(array, tmp_path):
    stored.write_array(tmp_path / "a.npy", array)
    for back in (stored.read_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")):
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype


def test_json_and_bytes_come_back(tmp_path):
    for path, (read, content) in written(tmp_path).items():
        assert read(path) == content
        stored.check(path)
    assert json.loads((tmp_path / "b.json").read_text())["content"]["labels"] == [1, 0]  # other programs can read it


def test_a_flipped_bit_in_any_byte_and_every_cut_is_noticed(tmp_path):
    for path, (read, _) in written(tmp_path).items():
        whole = path.read_bytes()
        changes = [whole[:end] for end in range(len(whole))] + [whole + b"\0"]
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            changes.append(bytes(flipped))
        for changed in changes:
            path.write_bytes(changed)
            with pytest.raises(stored.Damaged):
                read(path)
            with pytest.raises(stored.Damaged):
                stored.check(path)


def test_what_is_damaged_moves_to_quarantine_and_is_made_again(tmp_path, cache, capsys):
    path, made = cache / "part" / "x.json", []

    def make():
        made.append(1)
        stored.write_json(path, "content")

    def get():
        return stored.reuse(lambda: stored.read_json(path), make, lock=path.with_suffix(".lock"))

    assert (get(), get(), len(made)) == ("content", "content", 1)
    assert capsys.readouterr().err == ""
    path.write_text("{")
    assert (get(), get(), len(made)) == ("content", "content", 2)
    [line] = capsys.readouterr().err.splitlines()
    [moved] = (cache / stored.QUARANTINE).iterdir()
    assert str(path) in line and str(moved) in line
    assert moved.read_text() == "{"


def test_one_process_makes_it_and_others_wait(cache):
    path, made, answers = cache / "x.json", [], []

    def make():
        made.append(1)
        stored.write_json(path, 7)

    def get():
        answers.append(stored.reuse(lambda: stored.read_json(path), make, lock=path.with_suffix(".lock")))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (answers, made) == ([7] * 8, [1])


def test_the_quarantine_is_bounded(cache, monkeypatch, capsys):
    monkeypatch.setattr(stored, "QUARANTINE_BYTES", 25)
    for number in range(4):
        (cache / "part").mkdir(parents=True, exist_ok=True)
        (cache / f"part/{number}").write_bytes(bytes(10))
        stored.quarantine(stored.Damaged(cache / f"part/{number}", "why"))
    assert files.folder_bytes(cache / stored.QUARANTINE) == 20


def test_a_page_for_other_programs_is_vouched_for(tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("<p>0.93</p>")
    assert not stored.is_whole(page)
    stored.vouch(page)
    assert stored.is_whole(page)
    page.write_text("<p>0.98</p>")
    assert not stored.is_whole(page)
    assert not page.exists()


def test_a_damaged_program_is_a_missing_one(tmp_path, capsys):
    cache = programs.Cache(tmp_path)
    cache.put("key", b"program")
    assert cache.get("key") == b"program"
    assert cache.get("other") is None
    [path] = tmp_path.glob("key*")
    path.write_bytes(path.read_bytes().replace(b"r", b"s", 1))
    assert cache.get("key") is None
    assert "was damaged" in capsys.readouterr().err
    cache.put("key", b"program")
    assert cache.get("key") == b"program"


def test_jax_uses_the_cache_with_checksums(tmp_path):
    from jax._src import compilation_cache

    assert isinstance(compilation_cache.get_file_cache(str(tmp_path))[0], programs.Cache)


TRAIN = ["--data", "phantom:48", "--model_name", "small_cnn", "--pretrained", "false", "--freeze_backbone", "false"]
TRAIN += ["--image_size", "32", "--max_epochs", "1", "--augmentation", "0", "--folds", "0", "--batch_size", "8"]
FEATURES = ["--data", "phantom:48", "--model_name", "small_cnn", "--pretrained", "false", "--image_size", "32"]
COMMANDS = {
    "pixels": ["train", *TRAIN],
    "features": ["train", *FEATURES],
    "audit": ["data", "check", "--data", "phantom:48"],
}


def numbers(place, command, cache):
    """What a command computes, with the messages that it prints."""
    import os

    output = ["--output_dir", str(place)] if command[0] == "train" else ["--json"]
    environment = {**os.environ, "CTKERAS_CACHE_DIR": str(cache)}
    ended = subprocess.run(
        [sys.executable, "-m", "ctkeras", *command, *output],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    if command[0] != "train":
        return json.loads(ended.stdout), ended.stderr
    [metrics] = place.glob("*/metrics.json")
    found = json.loads(metrics.read_text())
    kept = ("val_acc", "val_loss", "train_loss", "best_epoch", "auc")
    predictions = next(place.glob("*/predictions.csv"), None)
    return [found.get(name) for name in kept] + [predictions and predictions.read_text()], ended.stderr


def damage(path, rng):
    """Flips a bit, cuts the file, or empties it; returns which."""
    whole = path.read_bytes()
    kind = rng.choice(["flip", "flip", "flip", "cut", "empty"])
    if kind == "flip":
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    else:
        changed = whole[: rng.randrange(len(whole))] if kind == "cut" else b""
    path.write_bytes(bytes(changed))
    return kind


def test_ten_damaged_files_change_no_number(cache, tmp_path, capsys):
    """The same as below, within this process, which keeps its compiled programs."""
    config = RunConfig.from_mapping(
        {"data": "phantom:48", "model_name": "small_cnn", "pretrained": False, "image_size": 32}
    )
    rng = random.Random(0)

    def run():
        audit.load(sources.open_source("phantom:48"))
        inputs._loaded.cache_clear()  # as in another process
        data = inputs.load_data(sources.open_source(config.data), config)
        features = np.arange(12.0).reshape(3, 4)
        path = cache / "features" / f"{'0' * 64}.npy"
        kept = stored.reuse(
            lambda: stored.read_array(path), lambda: stored.write_array(path, features), lock=path.with_suffix(".lock")
        )
        held = [data.train.images, data.train.labels, data.valid.thumbnails, data.train.groups, kept]
        return [np.array(each).tobytes() for each in held], data.train.files, pseudonyms.pseudonyms(["A"])

    first = run()
    paths = sorted(path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    chosen = rng.sample(paths, 10)
    for path in chosen:
        damage(path, rng)
    capsys.readouterr()
    assert run() == first
    assert capsys.readouterr().err.count("was damaged") >= 1
    caches.repair()
    assert "none is damaged" in caches.repair()
    assert run() == first


def test_repair_moves_what_is_damaged(cache, capsys):
    audit.load(sources.open_source("phantom:12"))
    assert "none is damaged" in caches.repair()
    path = next(cache.glob("audit/*/training.json"))
    path.write_bytes(path.read_bytes().replace(b"train", b"valid", 1))
    assert "1 damaged, now in" in caches.repair()
    assert not path.exists()
    assert "training.json was damaged" in capsys.readouterr().err


def test_sets_whose_fingerprints_begin_alike_share_nothing():
    one, other = (sources.Source("phantom", "", (), f"phantom-1000-1.0.{number}") for number in (0, 1))
    assert audit.folder(one) != audit.folder(other)
    assert decoded.looks_folder(one) != decoded.looks_folder(other)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_damage_to_any_file_of_the_cache_changes_a_number(name, tmp_path, request):
    """For every file of the cache in turn, again and again, until all were damaged several times."""
    cache, rng, command = tmp_path / "kept", random.Random(0), COMMANDS[name]
    first, _ = numbers(tmp_path / "first", command, cache)
    done = 0
    while done < 134:
        paths = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
        paths = [path for path in paths if stored.QUARANTINE not in path.parts]
        chosen = rng.sample(paths, min(len(paths), 12))
        kinds = {str(path.relative_to(cache)): damage(path, rng) for path in chosen}
        again, _ = numbers(tmp_path / f"run{done}", command, cache)
        assert again == first, kinds
        done += len(chosen)
    print(f"{name}: {done} damaged files")


def test_a_file_and_its_folder_are_flushed_before_atomic_returns(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush", lambda path: flushed.append((path.is_dir(), (tmp_path / "a").exists())))
    with files.atomic(tmp_path / "a") as partial:
        partial.write_text("x")
    assert flushed == [(False, False), (True, True)]  # the file before it has its name, the folder after


@pytest.mark.parametrize("number", [28, 27, 122, 30])
def test_a_refused_write_names_the_file_and_what_to_change(number, cache, tmp_path):
    for path, option in ((cache / "a", "CTKERAS_CACHE_DIR"), (tmp_path / "runs" / "a", "--output_dir")):

        def write(path=path):
            with files.atomic(path) as partial:
                partial.write_text("half")
                raise OSError(number, "no")

        with pytest.raises(CannotWrite, match=option) as error:
            write()
        assert str(path) in str(error.value)
        assert list(path.parent.iterdir()) == []


def test_other_errors_pass_through_atomic(tmp_path):
    for error in (OSError(2, "missing"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), files.atomic(tmp_path / "a"):
            raise error
