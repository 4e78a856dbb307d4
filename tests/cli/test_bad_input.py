"""A user's mistake, of whatever kind, costs one line and exit code 2, and leaves nothing behind."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from image_sets import write_images
from PIL import Image

from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.data import sources
from ctkeras.runs.checkpoint import Checkpoint, save_checkpoint
from ctkeras.runs.folder import FORMAT, write_json

# What is said before a wait. All else on standard error must be the one line.
PROGRESS = re.compile(
    r"Solving heads on frozen backbones, .*|"
    r"(Preparing|Decoding|Building|Computing|Downloading) .*…|  done in [\d.]+ s|Warning: pretrained .*"
)
HEARD = (UserWarning, RuntimeWarning, SyntaxWarning)  # what Python shows a user by itself


def run(arguments, capfd):
    """Runs the command line here; returns exit code, standard output, and the lines of standard error but progress."""
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as end:
            main.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line and not PROGRESS.fullmatch(line)]
    return end.value.code, out, lines + [str(w.message) for w in caught if issubclass(w.category, HEARD)]


def snapshot(folder):
    """Every file's content under a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(arguments, capfd, mention, *, untouched):
    """Runs a mistake and checks all that is promised of mistakes."""
    before = snapshot(untouched)
    folders = {path for path in untouched.rglob("*") if path.is_dir()}
    code, out, lines = run(arguments, capfd)
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert code == 2
    assert mention in lines[0]
    assert "Traceback" not in out + lines[0]
    assert out == ""
    assert snapshot(untouched) == before
    assert {path for path in untouched.rglob("*") if path.is_dir()} == folders


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data good and bad, run folders and models, by name."""
    root = tmp_path_factory.mktemp("place")
    good = write_images(root / "good", classes=("left", "right"), counts={"train": 3, "valid": 2, "test": 2}, size=32)
    at = SimpleNamespace(
        root=root, out=root / "out", good=good, image=good / "train/left/0.png", missing=root / "missing"
    )
    make_data(at)
    make_yaml(at)
    make_weights(at)
    make_models(at)
    make_runs(at)
    return at


def make_data(at):
    at.empty = at.root / "empty"
    at.empty.mkdir()
    at.text = at.root / "notes.txt"
    at.text.write_text("no data set, no model, no image")
    at.no_train = shutil.copytree(at.good, at.root / "no_train", ignore=lambda *_: ["train"])
    at.one_class = shutil.copytree(at.good, at.root / "one_class", ignore=lambda *_: ["right"])
    at.damaged = shutil.copytree(at.good, at.root / "damaged")
    (at.damaged / "test/right/1.png").write_bytes(at.image.read_bytes()[:200])
    at.zip, at.climbing = at.root / "whole.zip", at.root / "climbing.zip"
    for path in (at.zip, at.climbing):
        with zipfile.ZipFile(path, "w") as archive:
            for file in at.good.rglob("*.png"):
                archive.write(file, file.relative_to(at.good).as_posix())
            if path == at.climbing:
                archive.writestr("../../etc/passwd.png", b"x")
    content = at.zip.read_bytes()
    at.half_zip, at.encrypted = at.root / "half.zip", at.root / "encrypted.zip"
    at.half_zip.write_bytes(content[: len(content) // 2])
    flags = content.index(b"PK\x01\x02") + 8
    at.encrypted.write_bytes(content[:flags] + b"\x01" + content[flags + 1 :])


YAML = {
    "broken": b"lr: [1",
    "list": b"- lr: 1",
    "unknown": b"learning_rate: 1\ndrop_out: 1",
    "value": b"lr: fast",
    "sweep": b"method: grid\ncommand: [ctkeras, train]\nparameters: {lr: {values: [0.1, 0.2]}}",
    "twice": b"lr: 0.1\nseed: 1\nlr: 0.2",
    "bytes": b"\xff\xfe\x00",
    "nested": b"lr: {value: 1}",
    "no day": b"seed: 2026-02-30",
    "huge": b"batch_size: 1" + b"0" * 400,
}


def make_yaml(at):
    at.yaml = {}
    for name, content in YAML.items():
        at.yaml[name] = at.root / f"{name}.yaml"
        at.yaml[name].write_bytes(content)


def make_weights(at):
    import keras

    names = ("text_weights", "other_weights", "no_weights", "timm_half", "timm_bad")
    for name in names:
        folder = at.root / name
        folder.mkdir()
        setattr(at, name, folder)
    (at.text_weights / "mobilenet_v2.weights.h5").write_text("hello")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.save_weights(at.other_weights / "mobilenet_v2.weights.h5")
    for folder in (at.timm_half, at.timm_bad):
        (folder / "resnet18.a1_in1k").mkdir()
        (folder / "resnet18.a1_in1k/config.json").write_text("{}")
    (at.timm_bad / "resnet18.a1_in1k/model.safetensors").write_text("hello")


def make_models(at):
    import keras

    def model(shape, *layers):
        image = keras.Input(shape)
        output = image
        for layer in layers:
            output = layer(output)
        return keras.Model(image, output)

    def head(units=2):
        return keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(units, activation="softmax")

    at.models = at.root / "models"
    at.models.mkdir()
    (at.models / "contract.json").write_text(json.dumps({"class_names": ["left", "right"]}))
    model((32, 32, 3), *head()).save(at.models / "good.keras")
    model((32, 32, 3), keras.layers.Lambda(lambda x: x * 2), *head()).save(at.models / "lambda.keras")
    model((32, 32, 1), *head()).save(at.models / "gray.keras")
    model((32, 48, 3), *head()).save(at.models / "oblong.keras")
    model((None, None, 3), *head()).save(at.models / "any_size.keras")
    model((4,), keras.layers.Dense(2)).save(at.models / "vector.keras")
    model((32, 32, 3), keras.layers.Conv2D(2, 1)).save(at.models / "segmentation.keras")
    image = keras.Input((32, 32, 3))
    keras.Model(image, [image, image]).save(at.models / "two_outputs.keras")
    content = (at.models / "good.keras").read_bytes()
    (at.models / "half.keras").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (at.models / "flipped.keras").write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    (at.models / "empty.keras").write_bytes(b"")
    (at.models / "text.keras").write_text("hello")
    with zipfile.ZipFile(at.models / "zip.keras", "w") as archive:
        archive.writestr("a.txt", "b")


CONTRACTS = {
    "half_contract": b'{"class_names": ["le',
    "list_contract": b'["left", "right"]',
    "empty_contract": b"",
    "nameless_contract": b'{"class_names": [1, 2]}',
    "bytes_contract": b"\xff\x00",
}


def make_runs(at):
    at.fingerprint = sources.open_source(str(at.good)).fingerprint
    own = RunConfig(
        data=str(at.good), model_name="mobilenet_v2", image_size=32, pretrained=False, max_epochs=1, optimizer="adamw"
    )
    at.runs = at.root / "runs"

    def make(name, *, config=None, metrics=None, model="good", classes=("left", "right"), **values):
        folder = at.runs / name
        folder.mkdir(parents=True)
        stored = {"format": FORMAT, **own.to_dict(), "output_dir": str(at.out), **values}
        write_json(folder / "config.json", stored)
        if config is not None:
            (folder / "config.json").write_text(config)
        ended = {"data_fingerprint": at.fingerprint, "stopped_by": "sigterm"}
        (folder / "metrics.json").write_text(json.dumps(ended) if metrics is None else metrics)
        if model:
            shutil.copy(at.models / f"{model}.keras", folder / "model.keras")
            (folder / "contract.json").write_text(json.dumps({"class_names": classes}))
        return folder

    make("good")
    make("damaged_config", config='{"lr": 0.1')
    make("list_config", config="[]")
    make("foreign_config", config='{"learning_rate": 0.1, "arch": "vit"}')
    make("bad_value", config='{"dropout": 7}')
    make("damaged_metrics", metrics="{")
    make("no_model", model=None)
    make("half_model", model="half")
    make("text_model", model="text")
    make("other_classes", classes=("a", "b"))
    make("three_classes", classes=("a", "b", "c"))
    for name, contract in CONTRACTS.items():
        (make(name) / "contract.json").write_bytes(contract)
    make("data_gone", data=str(at.missing))
    make("weights_gone", pretrained=True, weights_dir=str(at.missing))
    (make("no_config") / "config.json").unlink()
    (make("no_metrics") / "metrics.json").unlink()
    (make("spoilt_predictions") / "predictions.csv").write_text("file;split\na;valid\n")
    facts = {"cut": "head", "epoch": 1, "plateau": {}, "start": ["other images", "other weights"]}
    save_checkpoint(make("other_data"), Checkpoint({"best": [np.ones(3)]}, facts))


TRAIN = ("--model_name", "mobilenet_v2", "--image_size", "32", "--max_epochs", "1", "--optimizer", "adamw")


def train(*arguments):
    """A training run, good but for `arguments`, which come last and so win."""
    return lambda at: (
        "train", "--data", at.good, "--output_dir", at.out, "--pretrained", "false", *TRAIN,
        *(argument(at) if callable(argument) else argument for argument in arguments),
    )  # fmt: skip


def trained_on(data):
    return train("--data", data)


def with_weights(name, model_name="mobilenet_v2"):
    return train("--pretrained", "true", "--model_name", model_name, "--weights_dir", lambda at: getattr(at, name))


def with_yaml(name):
    return lambda at: ("train", "--data", at.good, "--output_dir", at.out, "--config", at.yaml[name])


def resumed(name, *more):
    return lambda at: ("train", "--resume", at.runs / name, *more)


def searched(*arguments):
    """A search, good but for `arguments`, which come last and so win."""
    return lambda at: (
        "sweep", "run", at.yaml["sweep"], "--data", at.good, "--output_dir", at.out,
        *(argument(at) if callable(argument) else argument for argument in arguments),
    )  # fmt: skip


def evaluated(name, *more):
    return lambda at: ("evaluate", at.runs / name, *(m(at) if callable(m) else m for m in more))


def predicted(name, *more):
    return lambda at: ("predict", at.models / name, *more, at.image)


def by_contract(verb, name):
    return {f"{verb} by {name}": (lambda at: (verb, at.runs / name, at.image, *OUT[verb](at)), f"{name}/contract.json")}


OUT = {"predict": lambda at: (), "explain": lambda at: ("--out", at.out)}


# What is wrong, the command line, and what the one line must mention. Commands that get as far as reading data stand last.
MISTAKES = {
    "unknown verb": (lambda at: ["trian"], "trian"),
    "unknown verb of data": (lambda at: ["data", "cook"], "cook"),
    "unknown flag": (train("--learning_rate", "1"), "learning_rate"),
    "misspelt flag": (train("--drop_out", "0.1"), "dropout"),
    "flag of no verb": (lambda at: ["--fast", "train"], "--fast"),
    "flag without a value": (train("--lr"), "--lr"),
    "stray argument": (train("now"), "now"),
    "text for a number": (train("--lr", "fast"), "lr must be a number, 0 < lr, or auto; got 'fast'"),
    "not a number": (train("--lr=nan"), "got 'nan'"),
    "lr 0": (train("--lr", "0"), "0 < lr"),
    "negative decay": (train("--weight_decay=-1"), "0 <= weight_decay"),
    "dropout 1": (train("--dropout", "1"), "dropout < 1"),
    "label smoothing 2": (train("--label_smoothing", "2"), "label_smoothing < 1"),
    "batch of 0": (train("--batch_size", "0"), "1 <= batch_size"),
    "half an image": (train("--batch_size", "1.5"), "a whole number"),
    "tiny images": (train("--image_size", "16"), "32 <= image_size <= 512"),
    "negative seed": (train("--seed=-1"), "0 <= seed"),
    "no epochs": (train("--max_epochs", "0"), "1 <= max_epochs"),
    "warm-up without end": (train("--warmup_epochs", "1"), "warmup_epochs must be below max_epochs"),
    "unknown model": (train("--model_name", "resnet101"), "resnet18, resnet34, resnet50"),
    "misspelt model": (train("--model_name", "resnet19"), "did you mean resnet18?"),
    "unknown optimizer": (train("--optimizer", "lion"), "adam, adamw, sgd"),
    "neither true nor false": (train("--pretrained", "maybe"), "true or false"),
    "YAML missing": (train("--config", lambda at: at.missing), "cannot read"),
    "YAML a folder": (train("--config", lambda at: at.good), "cannot read"),
    "YAML broken": (with_yaml("broken"), "broken.yaml is not YAML"),
    "YAML a list": (with_yaml("list"), "must hold a mapping"),
    "YAML of unknown names": (with_yaml("unknown"), "learning_rate"),
    "YAML of a wrong value": (
        with_yaml("value"),
        "value.yaml, line 1: lr must be a number, 0 < lr, or auto; got 'fast'",
    ),
    "YAML of a name twice": (with_yaml("twice"), "twice.yaml, line 3: lr occurs twice"),
    "YAML no text": (with_yaml("bytes"), "bytes.yaml"),
    "YAML nested": (with_yaml("nested"), "lr must be a number"),
    "YAML with a day that is none": (with_yaml("no day"), "no day.yaml"),
    "YAML with a huge number": (with_yaml("huge"), "batch_size"),
    "no data": (trained_on(""), "no data given"),
    "data missing": (trained_on("no/such.zip"), "no/such.zip is not a file or folder"),
    "data of too long a name": (trained_on("x" * 300), "is not a file or folder"),
    "data a text": (trained_on(lambda at: at.text), "is not a zip file"),
    "data half a zip": (trained_on(lambda at: at.half_zip), "is not a zip file"),
    "data encrypted": (trained_on(lambda at: at.encrypted), "encrypted"),
    "data climbing": (trained_on(lambda at: at.climbing), "points outside its folder"),
    "data a folder with nothing": (trained_on(lambda at: at.empty), "no images in the layout"),
    "data without train": (trained_on(lambda at: at.no_train), "no images in train/"),
    "data of one class": (trained_on(lambda at: at.one_class), "one class, 'left'"),
    "data an image": (trained_on(lambda at: at.image), "is not a zip file"),
    "phantoms of no number": (trained_on("phantom:x"), "got 'phantom:x'"),
    "too few phantoms": (trained_on("phantom:3"), "at least 12"),
    "prepare nothing": (lambda at: ("data", "prepare"), "no data given"),
    "prepare what is missing": (lambda at: ("data", "prepare", "--data", at.missing), "is not a file or folder"),
    "prepare a climbing zip": (lambda at: ("data", "prepare", "--data", at.climbing), "points outside its folder"),
    "resume nothing": (lambda at: ("train", "--resume", at.missing), "missing is not a run folder"),
    "resume a file": (lambda at: ("train", "--resume", at.text), "notes.txt is not a run folder"),
    "resume images": (lambda at: ("train", "--resume", at.good), "config.json (No such file"),
    "resume with flags": (resumed("good", "--lr", "1"), "leave out lr"),
    "resume without a config": (resumed("no_config"), "config.json (No such file"),
    "resume a damaged config": (resumed("damaged_config"), "config.json is not JSON"),
    "resume a config that is a list": (resumed("list_config"), "is not a JSON object"),
    "resume another program's config": (resumed("foreign_config"), "unknown hyperparameter 'learning_rate'"),
    "resume a bad value": (resumed("bad_value"), "dropout must be"),
    "resume damaged metrics": (resumed("damaged_metrics"), "metrics.json is not JSON"),
    "resume without its data": (resumed("data_gone"), "is not a file or folder"),
    "resume without its weights": (resumed("weights_gone"), "is not a folder"),
    "evaluate nothing": (lambda at: ["evaluate"], "RUN_FOLDER"),
    "evaluate what is missing": (lambda at: ("evaluate", at.missing), "missing is not a run folder"),
    "evaluate too long a name": (lambda at: ("evaluate", "x" * 300), "is not a run folder"),
    "evaluate images": (lambda at: ("evaluate", at.good), "config.json (No such file"),
    "evaluate a file": (lambda at: ("evaluate", at.models / "good.keras"), "is not a run folder"),
    "evaluate an unknown split": (evaluated("good", "--split", "val"), "'train', 'valid', 'test'"),
    "evaluate on missing data": (evaluated("good", "--data", "nowhere"), "nowhere is not a file or folder"),
    "evaluate without its data": (evaluated("data_gone"), "is not a file or folder"),
    "evaluate on other classes": (evaluated("good", "--data", "phantom:12"), "has the classes left, right"),
    "evaluate a damaged config": (evaluated("damaged_config"), "config.json is not JSON"),
    "evaluate another program's config": (evaluated("foreign_config"), "learning_rate"),
    "evaluate without metrics": (evaluated("no_metrics"), "metrics.json (No such file"),
    "evaluate damaged metrics": (evaluated("damaged_metrics"), "metrics.json is not JSON"),
    "evaluate without a model": (evaluated("no_model"), "model.keras does not exist"),
    "evaluate half a model": (evaluated("half_model"), "model.keras is not a Keras model"),
    "evaluate a text": (evaluated("text_model"), "model.keras is not a Keras model"),
    "evaluate another contract": (evaluated("other_classes"), "has the classes a, b"),
    "predict nothing": (lambda at: ["predict"], "MODEL"),
    "predict no image": (lambda at: ("predict", at.models / "good.keras"), "PATHS"),
    "predict by what is missing": (predicted("missing.keras"), "missing.keras does not exist"),
    "predict by too long a name": (predicted("x" * 300), "does not exist"),
    "predict by a folder": (lambda at: ("predict", at.good, at.image), "model.keras does not exist"),
    "predict by a text": (lambda at: ("predict", at.text, at.image), "notes.txt is not a Keras model"),
    "predict by a text of that name": (predicted("text.keras"), "text.keras is not a Keras model"),
    "predict by an image": (lambda at: ("predict", at.image, at.image), "0.png is not a Keras model"),
    "predict by nothing": (predicted("empty.keras"), "empty.keras is not a Keras model"),
    "predict by half a model": (predicted("half.keras"), "half.keras is not a Keras model"),
    "predict by a flipped byte": (predicted("flipped.keras"), "flipped.keras cannot be opened as a Keras model"),
    "predict by another zip": (predicted("zip.keras"), "zip.keras cannot be opened as a Keras model"),
    "predict by code": (predicted("lambda.keras"), "lambda.keras holds Lambda, which runs code"),
    "predict by a model of gray": (predicted("gray.keras"), "square RGB images"),
    "predict by a model of oblongs": (predicted("oblong.keras"), "square RGB images"),
    "predict by a model of any size": (predicted("any_size.keras"), "square RGB images"),
    "predict by a model of vectors": (predicted("vector.keras"), "vector.keras"),
    "predict by a model of two": (predicted("two_outputs.keras"), "two_outputs.keras"),
    "predict by a segmentation": (predicted("segmentation.keras"), "segmentation.keras"),
    "predict a missing image": (lambda at: ("predict", at.models / "good.keras", at.missing), "missing does not exist"),
    "predict too long a name": (lambda at: ("predict", at.models / "good.keras", "x" * 300), "does not exist"),
    "predict a folder of nothing": (lambda at: ("predict", at.models / "good.keras", at.empty), "no images in"),
    "predict by none at once": (predicted("good.keras", "--batch_size", "0"), "--batch_size"),
    "weights_dir missing": (with_weights("missing"), "missing is not a folder"),
    "weights_dir a file": (with_weights("text"), "notes.txt is not a folder"),
    "timm folder without its weights": (with_weights("timm_half", "resnet18"), "lacks model.safetensors"),
    "data with a damaged image": (trained_on(lambda at: at.damaged), "test/right/1.png"),
    "prepare a damaged image": (lambda at: ("data", "prepare", "--data", at.damaged), "test/right/1.png"),
    "output_dir a file": (train("--output_dir", lambda at: at.text), "notes.txt"),
    "output_dir in a file": (train("--output_dir", lambda at: at.text / "runs"), "notes.txt"),
    "search into a file": (searched("--output_dir", lambda at: at.text), "notes.txt is a file"),
    "search into what is below a file": (searched("--output_dir", lambda at: at.text / "runs"), "notes.txt is a file"),
    "trials kept below a file": (searched("--storage", lambda at: at.text / "study.db"), "notes.txt is a file"),
    "study into a file": (lambda at: ("study", "--data", at.good, "--output_dir", at.text), "notes.txt is a file"),
    "study of trials kept below a file": (
        lambda at: ("study", "--data", at.good, "--output_dir", at.out, "--storage", at.text / "a" / "study.db"),
        "notes.txt is a file",
    ),
    **{k: v for verb in ("predict", "explain") for name in CONTRACTS for k, v in by_contract(verb, name).items()},
    "predict by a contract of three": (lambda at: ("predict", at.runs / "three_classes", at.image), "names 3"),
    "evaluate beside spoilt predictions": (evaluated("spoilt_predictions"), "predictions.csv"),
    "weights a text": (with_weights("text_weights"), "does not hold weights of mobilenet_v2"),
    "weights of another model": (with_weights("other_weights"), "does not hold weights of mobilenet_v2"),
    "timm folder of other files": (with_weights("timm_bad", "resnet18"), "does not hold weights of resnet18"),
    "resume on other images": (resumed("other_data"), "was started on other images"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(place, capfd, monkeypatch, tmp_path, mistake):
    monkeypatch.chdir(tmp_path)  # a default of output_dir would show there
    arguments, mention = MISTAKES[mistake]
    shutil.rmtree(place.out, ignore_errors=True)
    check(arguments(place), capfd, mention, untouched=place.root)
    assert not place.out.exists()
    assert list(tmp_path.iterdir()) == []


def test_mistakes_leave_nothing_half_made_in_the_cache(place, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    check(("data", "prepare", "--data", place.damaged), capfd, "test/right/1.png", untouched=place.root)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    left = [path for path in left if path.parent.name != "listings"]
    assert {path.stem.partition("-")[0] for path in left} == {"train", "valid"}  # the splits without a fault, whole
    assert all(path.with_suffix(".json").exists() for path in left if "-" not in path.stem)


def test_the_fixtures_are_right_where_they_should_be(place, capfd):
    # Else every mistake above might be refused for another reason than its own.
    code, out, lines = run(("predict", place.models / "good.keras", place.image), capfd)
    assert (code, lines) == (0, [])
    assert out.startswith(str(place.image))
    code, _, lines = run(("evaluate", place.runs / "good"), capfd)
    assert (code, lines) == (0, [])
    code, out, lines = run(("data", "prepare", "--data", place.zip), capfd)
    assert code == 0 and all(line.endswith("…") or "done in" in line for line in lines)
    assert re.search(r"left +3 +2 +2\nright +3 +2 +2\nall +6 +4 +4\n", out)


def test_an_option_without_effect_is_told_in_a_line_and_no_more(place, capfd):
    idle = "weights_dir has no effect because pretrained is false"
    nowhere = ("--data", "nowhere", "--output_dir", place.out)  # ends right behind what is told
    for more, told in (
        (("--weights_dir", "w", "--pretrained", "false"), [idle]),
        (("--weights_dir", "w"), []),
        (("--head_epochs", "2"), ["head_epochs has no effect because only the head is trained"]),
    ):
        code, _, lines = run(("train", *nowhere, *more), capfd)
        assert (code, lines[:-1]) == (2, told)
        assert lines[-1].startswith("Error: nowhere")
    kept = ("--storage", place.text)
    code, _, lines = run(searched("--pretrained", "false", "--weights_dir", "w", *kept)(place), capfd)
    assert (code, lines[:-1]) == (2, [idle])
    both = place.root / "both.yaml"
    both.write_text(YAML["sweep"].decode().replace("lr: {", "pretrained: {values: [true, false]}, lr: {"))
    code, _, lines = run(("sweep", "run", both, *searched("--weights_dir", "w", *kept)(place)[3:]), capfd)
    assert (code, lines[:-1]) == (2, [])  # some of its runs start from ImageNet's weights


@pytest.mark.parametrize("verb", OUT)
def test_without_a_contract_class_names_are_said_to_be_unknown(place, capfd, tmp_path, verb):
    shutil.copy(place.models / "good.keras", tmp_path)
    out = ["--out", tmp_path / "out"] if verb == "explain" else []
    code, out, lines = run((verb, tmp_path / "good.keras", place.image, *out), capfd)
    assert code == 0
    assert "class_" in out
    assert "class names are unknown" in lines[0]
    assert not [line for line in lines if "unknown" in line][1:]


@pytest.mark.parametrize("backend", ["tensorflow", "torch", ""])
@pytest.mark.parametrize("arguments", [train(), resumed("good")])
def test_training_on_another_backend_is_refused(place, capfd, monkeypatch, backend, arguments):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    check(arguments(place), capfd, "ctkeras trains on jax", untouched=place.root)


def test_data_from_kaggle_without_a_key(place, capfd, monkeypatch, tmp_path):
    pytest.importorskip("kagglehub")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    check(trained_on("kaggle")(place), capfd, "kaggle.json", untouched=place.root)


def test_images_that_can_not_be_read_are_told_and_the_others_classified(place, capfd, tmp_path):
    for i in range(3):
        shutil.copy(place.image, tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(place.image.read_bytes()[:100])
    Image.new("RGB", (2, 2)).save(tmp_path / "3.png")
    code, out, lines = run(("predict", place.models / "good.keras", tmp_path, "--json"), capfd)
    assert code == 1
    assert [line.partition(" is ")[0] for line in lines] == [f"Skipped: {tmp_path / '1.png'}"]
    found = [json.loads(line) for line in out.splitlines()]
    assert [set(row) for row in found] == [
        {"file", "error"} if i == 1 else {"file", "predicted", "probabilities"} for i in range(4)
    ]
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in found if "error" not in row)


def test_debug_shows_where_a_mistake_was_found(place, capfd):
    code, _, lines = run(("train", "--debug", "--lr", "fast"), capfd)
    assert code == 2
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "Error: lr must be a number, 0 < lr, or auto; got 'fast'"


@pytest.mark.parametrize("words", [[], ["data"], ["sweep"]])
def test_a_verb_left_out_shows_what_there_is_on_standard_error(capfd, words):
    code, out, lines = run(words, capfd)
    assert (code, out) == (2, "")
    assert lines[0].startswith("Usage: ctkeras")
    shown, out, _ = run([*words, "--help"], capfd)
    assert shown == 0
    assert out.splitlines()[0] == lines[0]


def test_a_failure_that_is_no_mistake_is_one_line_and_1(place, capfd, monkeypatch):
    def fail(spec, **_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(sources, "open_source", fail)
    code, out, lines = run(("data", "prepare", "--data", "phantom"), capfd)
    assert (code, out) == (1, "")
    assert lines == ["Error: RuntimeError: first line second line. Run it with --debug to see where."]


@pytest.mark.slow
def test_a_process_of_its_own_says_no_more(place):
    # Here TensorFlow and Keras are loaded by the verb itself, with all that they write while loading.
    arguments = ["predict", str(place.models / "lambda.keras"), str(place.image)]
    done = subprocess.run([sys.executable, "-m", "ctkeras", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: .*lambda\.keras cannot be opened as a Keras model .*\n", done.stderr)


@pytest.fixture
def no_weights_here(monkeypatch, tmp_path):
    """A machine that has downloaded nothing yet; its way out is the proxy at `address`."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first call

    def through(address):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")

    return through


@pytest.mark.parametrize(
    ("model_name", "files"),
    [
        (
            "mobilenet_v2",
            ("mobilenet_v2.weights.h5", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
        ),
        ("resnet18", ("resnet18.weights.h5", "resnet18.a1_in1k/", "config.json", "model.safetensors")),
    ],
)
def test_weights_without_a_way_out_name_the_file_to_put(place, capfd, no_weights_here, model_name, files):
    no_weights_here("http://127.0.0.1:9")  # nobody listens there
    arguments = with_weights("no_weights", model_name)(place)
    shutil.rmtree(place.out, ignore_errors=True)
    check(arguments, capfd, str(place.no_weights), untouched=place.root)
    assert not place.out.exists()
    _, _, lines = run(arguments, capfd)
    assert all(file in lines[0] for file in files)


@pytest.mark.slow
def test_weights_from_a_network_that_does_not_answer_give_up_in_time(place, capfd, no_weights_here):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the call and says nothing, as a firewall may
        no_weights_here(f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.perf_counter()
        check(with_weights("no_weights")(place), capfd, "mobilenet_v2.weights.h5", untouched=place.root)
        assert 1 < time.perf_counter() - start < 30  # seconds; it did wait, and not for long
