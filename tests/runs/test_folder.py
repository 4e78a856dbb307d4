"""What a run leaves behind can be read back exactly, or is called damaged."""

import csv
import io
import json
import math
import random
import re
import zipfile

import numpy as np
import pytest

from ctkeras.config import EPOCH_METRICS, RunConfig
from ctkeras.errors import UserError
from ctkeras.runs import folder
from ctkeras.runs.checkpoint import CHECKPOINT, TRAINED, Checkpoint, drop_checkpoint, load_checkpoint, save_checkpoint
from ctkeras.runs.history import by_epoch, read_history, write_history
from ctkeras.runs.predictions import prediction_rows, read_predictions, worst_errors, write_predictions
from ctkeras.runs.result import Result, best_first


def test_ids_are_distinct_and_sort_by_time(monkeypatch):
    ids = [folder.new_id("resnet18") for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(re.fullmatch(r"\d{8}-\d{6}-resnet18-[0-9a-f]{6}", run_id) for run_id in ids)
    stamps = iter(["20260101-235959", "20260102-000000", "20261002-000000"])
    monkeypatch.setattr(folder.time, "strftime", lambda form: next(stamps))
    later = [folder.new_id(name) for name in ("resnet50", "densenet121", "a")]
    assert later == sorted(later)


def test_a_place_for_files_is_a_folder_or_can_be_made_one(tmp_path, capfd):
    file, new = tmp_path / "file", tmp_path / "some" / "new" / "place"
    file.write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for wrong in (file, file / "below", file / "far" / "below", tmp_path / "lost", tmp_path / "lost" / "below"):
        with pytest.raises(UserError, match=r"--out .*(file|lost) is a file"):
            folder.require_folder(wrong, "--out")
    for announce in (False, True):
        folder.require_folder(tmp_path, "--out", announce=announce)
        folder.require_folder(new, "--out", announce=announce)
        said = capfd.readouterr().err
        assert (str(new) in said) == announce
        assert said.count("\n") == announce
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lost"]  # nothing is made here


def strict(text):
    """Parses JSON as its standard has it, without NaN and Infinity."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_where_a_number_has_no_word(tmp_path):
    values = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf, "nan")], "c": {"d": math.nan, "e": None}, "f": 0.1 + 0.2}
    folder.write_json(tmp_path / "m.json", values)
    expected = {"a": None, "b": [None, 1.5, [None, "nan"]], "c": {"d": None, "e": None}, "f": 0.1 + 0.2}
    assert strict((tmp_path / "m.json").read_text()) == expected == folder.read_json(tmp_path / "m.json")


def test_json_keeps_letters_of_any_language(tmp_path):
    folder.write_json(tmp_path / "m.json", {"größe": "肺"})
    assert folder.read_json(tmp_path / "m.json") == {"größe": "肺"}


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    folder.write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(TypeError):
        folder.write_json(tmp_path / "m.json", {"a": object()})
    assert folder.read_json(tmp_path / "m.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"null", b'{"a": \xff}', b"\x00\x01", b"{'a': 1}"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.json") as caught:
        folder.read_json(tmp_path / "metrics.json")
    assert str(tmp_path) in str(caught.value)


def test_a_config_is_read_back(tmp_path):
    config = RunConfig(data="phantom:12", lr=1e-5, freeze_backbone=False, model_name="resnet18", seed=7)
    folder.write_json(tmp_path / "config.json", config.to_dict())
    assert folder.read_config(tmp_path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .*config\.json .*; a run folder has config\.json"),
        ("{", r"config\.json is not JSON"),
        ("[]", r"config\.json is not a JSON object"),
        ('{"lrr": 1}', "unknown hyperparameter 'lrr'; did you mean lr"),
        ('{"lr": -1}', "lr must be a number, 0 < lr, or auto; got -1"),
        ('{"lr": NaN}', "lr must be a number, 0 < lr, or auto; got nan"),
        ('{"lr": null}', "lr must be a number, 0 < lr, or auto; got None"),
        ('{"max_epochs": 1, "warmup_epochs": 2}', "warmup_epochs must be below max_epochs"),
    ],
)
def test_a_faulty_config_is_told(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        folder.read_config(tmp_path)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_run_folder_is_told(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{name} is not a run folder"):
        folder.read_config(tmp_path / name)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_history_has_a_row_an_epoch_and_loses_no_digit(tmp_path):
    rng = np.random.default_rng(0)
    history = [dict(zip(EPOCH_METRICS, rng.random(len(EPOCH_METRICS)).tolist(), strict=True)) for _ in range(3)]
    for done in range(1, 4):
        write_history(tmp_path, history[:done])
    assert [{name: float(value) for name, value in row.items()} for row in rows_of(tmp_path / "history.csv")] == history
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def predictions(split, count, *, share):
    names = {"file": f'{split}/a, "b"/{{}}.png', "split": split, "label": "größe", "predicted": "b"}
    chances = {"p_größe": f"{share:.6f}", "p_b": f"{1 - share:.6f}"}
    return [names | {"file": names["file"].format(i)} | chances for i in range(count)]


def test_predictions_replace_their_own_split_alone(tmp_path):
    valid, test, again = (
        predictions("valid", 3, share=0.1),
        predictions("test", 4, share=0.2),
        predictions("valid", 2, share=0.3),
    )
    write_predictions(tmp_path, valid, split="valid")
    write_predictions(tmp_path, test, split="test")
    assert rows_of(tmp_path / "predictions.csv") == valid + test
    write_predictions(tmp_path, again, split="valid")
    assert rows_of(tmp_path / "predictions.csv") == test + again


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"file;split\na;test\n", id="saved by a spreadsheet"),
        pytest.param(b"file,split,x\na,test,1\n", id="other columns"),
        pytest.param(b"file,split,label,predicted,p_b\na,test,b,b,1,2,3\n", id="a longer row"),
        pytest.param(b"\xff\xfe\x00", id="other bytes"),
    ],
)
def test_predictions_that_were_tampered_with_are_named_and_left(tmp_path, content):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.csv"):
        write_predictions(tmp_path, predictions("valid", 1, share=0.5), split="valid")
    assert path.read_bytes() == content


def arrays(count, *, seed=0):
    """Arrays of the kinds a run holds, NaN, infinities and negative zero among them."""
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal((i % 3 + 1, 2)).astype(np.float32) for i in range(count - 4)]
    special = np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45], np.float32)
    return [*made, special, np.array(3, np.int64), np.zeros((0, 4), np.float32), np.array([True, False])]


FACTS = {
    "epoch": 3,
    "best_acc": 0.1 + 0.2,
    "best_loss": math.inf,
    "cut": "head",
    "start": ["a", "größe"],
    "history": [],
}


def test_a_checkpoint_comes_back_bit_for_bit_and_in_order(tmp_path):
    saved = Checkpoint({"trainable": arrays(25), "best": arrays(13, seed=1)}, FACTS)
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert loaded.facts == FACTS
    assert list(loaded.arrays) == ["trainable", "best"]
    for key, expected in saved.arrays.items():
        assert len(loaded.arrays[key]) == len(expected)
        for got, wanted in zip(loaded.arrays[key], expected, strict=True):
            assert (got.dtype, got.shape, got.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def test_a_checkpoint_replaces_the_one_before(tmp_path):
    save_checkpoint(tmp_path, Checkpoint({"best": arrays(12)}, {"epoch": 1}))
    save_checkpoint(tmp_path, Checkpoint({"best": arrays(5)}, {"epoch": 2}))
    loaded = load_checkpoint(tmp_path)
    assert (loaded.facts, len(loaded.arrays["best"])) == ({"epoch": 2}, 5)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path):
    save_checkpoint(tmp_path, Checkpoint({"best": arrays(5)}, {"epoch": 1}))
    with pytest.raises(ValueError, match="Object arrays"):
        save_checkpoint(tmp_path, Checkpoint({"best": [np.array([object()])]}, {"epoch": 2}))
    assert load_checkpoint(tmp_path).facts == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_run_without_a_checkpoint_has_none_and_can_drop_it(tmp_path):
    assert load_checkpoint(tmp_path) is None
    drop_checkpoint(tmp_path)
    save_checkpoint(tmp_path, Checkpoint({}, {}))
    assert load_checkpoint(tmp_path) == Checkpoint({}, {})
    drop_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


sprung = []


def spring():
    sprung.append(1)


class Trap:
    """Calls a function when it is unpickled."""

    def __reduce__(self):
        return (spring, ())


def saved(save, *args, **named):
    content = io.BytesIO()
    save(content, *args, **named)
    return content.getvalue()


def whole():
    facts = np.frombuffer(json.dumps(FACTS).encode(), np.uint8)
    return saved(np.savez, **{"best/0": np.arange(6.0)}, facts=facts)


def with_byte(content, signature, offset, value):
    changed = bytearray(content)
    changed[changed.index(signature) + offset] = value
    return bytes(changed)


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "half": whole()[: len(whole()) // 2],
    "without its end": whole()[:-10],
    "without facts": saved(np.savez, a=np.ones(3)),
    "facts that are no JSON": saved(np.savez, facts=np.frombuffer(b"{", np.uint8)),
    "a single array": saved(np.save, np.ones(3)),
    "pickled arrays": saved(np.savez, facts=np.array([Trap()], dtype=object)),
    "a pickle": saved(lambda file: np.save(file, np.array([Trap()], dtype=object))),
    "a zip of something else": saved(lambda file: zipfile.ZipFile(file, "w").writestr("facts", "{}")),
    "a changed byte": with_byte(whole(), b"NUMPY", 130, 0x55),
    "an unknown compression": with_byte(whole(), b"PK\x01\x02", 10, 99),
    "another compression": with_byte(whole(), b"PK\x01\x02", 10, 8),
    "an encryption flag": with_byte(whole(), b"PK\x01\x02", 8, 1),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_set_aside_with_a_line(tmp_path, damage, capsys):
    (tmp_path / CHECKPOINT).write_bytes(DAMAGED[damage])
    assert load_checkpoint(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint.npz was damaged" in line and "starts from its beginning" in line
    assert [path.name for path in tmp_path.iterdir()] == [f"{CHECKPOINT}.damaged"]
    assert (tmp_path / f"{CHECKPOINT}.damaged").read_bytes() == DAMAGED[damage]
    assert load_checkpoint(tmp_path) is None and capsys.readouterr().err == ""
    assert sprung == []


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_trained_weights_are_named(tmp_path, damage):
    """Nothing can make them again, so nobody moves them."""
    (tmp_path / TRAINED).write_bytes(DAMAGED[damage])
    with pytest.raises(UserError, match=r"trained\.npz is damaged .*start a new one"):
        load_checkpoint(tmp_path, name=TRAINED)
    assert sprung == [] and (tmp_path / TRAINED).exists()


def test_a_checkpoint_that_cannot_be_opened_stays(tmp_path):
    (tmp_path / CHECKPOINT).mkdir()
    with pytest.raises(UserError, match="cannot read"):
        load_checkpoint(tmp_path)
    assert (tmp_path / CHECKPOINT).exists()


def test_a_checkpoint_with_flipped_bits_is_whole_or_called_damaged(tmp_path):
    good, rng, damaged = whole(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(good)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / CHECKPOINT).write_bytes(content)
        loaded = load_checkpoint(tmp_path)
        if loaded is None:
            damaged += 1
        else:
            assert loaded.facts == FACTS
            for arrays_of_key in loaded.arrays.values():
                np.testing.assert_array_equal(arrays_of_key, [np.arange(6.0)])
    assert damaged > 150


# The files of a run folder as version 0.1.0 wrote them, before the format was written down; config.json without two
# hyperparameters that came later.
OLD = {
    "config.json": '{"data": "phantom:12", "model_name": "resnet18", "lr": 0.001, "max_epochs": 2, "seed": 4}\n',
    "metrics.json": '{"val_acc": 0.5, "val_loss": null, "best_epoch": 2, "epochs": 2, "stopped_by": "max_epochs"}\n',
    "history.csv": "epoch,train_acc,train_loss,val_acc,val_loss,lr,epoch_seconds\r\n"
    "1,0.25,1.5,0.25,nan,0.001,2.5\r\n"
    "2,0.5,1.25,0.5,1.0,0.0005,2.5\r\n",
    "predictions.csv": "file,split,label,predicted,p_a,p_b\r\n"
    "valid/1.png,valid,a,a,0.75,0.25\r\n"
    "valid/2.png,valid,b,a,0.5,0.5\r\n"
    "test/1.png,test,b,b,0.125,0.875\r\n",
    "contract.json": '{"class_names": ["a", "b"], "input_shape": [224, 224, 3]}',
}


@pytest.fixture
def old(tmp_path):
    """A run folder of before the format."""
    for name, text in OLD.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_a_folder_from_before_the_format_still_opens(old):
    folder.make_folder(old)  # resuming in it is allowed
    config = folder.read_config(old)
    assert (config.model_name, config.lr, config.max_epochs, config.seed) == ("resnet18", 0.001, 2, 4)
    assert folder.read_metrics(old) == json.loads(OLD["metrics.json"])
    assert folder.class_names(old) == folder.class_names(old / "model.keras") == ["a", "b"]
    first, second = read_history(old)
    assert math.isnan(first.pop("val_loss"))
    assert first == {
        "epoch": 1,
        "train_acc": 0.25,
        "train_loss": 1.5,
        "val_acc": 0.25,
        "lr": 0.001,
        "epoch_seconds": 2.5,
    }
    assert (second["epoch"], second["val_loss"]) == (2, 1.0)
    valid, test = (read_predictions(old, split) for split in ("valid", "test"))
    assert valid.files == ("valid/1.png", "valid/2.png")
    assert (valid.labels.tolist(), valid.class_names) == ([0, 1], ("a", "b"))
    assert valid.probabilities.tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert test.files == ("test/1.png",)
    assert read_predictions(old, "train") is None


def test_the_format_is_written_and_not_among_the_values(tmp_path):
    config = RunConfig(data="phantom:12", seed=7)
    folder.write_config(tmp_path, config)
    folder.write_metrics(tmp_path, {"val_acc": 0.5, "val_loss": math.nan})
    for name in ("config.json", "metrics.json"):
        assert json.loads((tmp_path / name).read_text())["format"] == folder.FORMAT == 1
    assert folder.read_config(tmp_path) == config
    assert folder.read_config_values(tmp_path) == config.to_dict()
    assert folder.read_metrics(tmp_path) == {"val_acc": 0.5, "val_loss": None}


VERBS = {
    "evaluate": ("evaluate", "{run}", "--split", "valid"),
    "report": ("report", "{run}", "--out", "{run}/report.html"),
    "compare": ("compare", "{run}", "{run}"),
    "resume": ("train", "--resume", "{run}"),
    "predict": ("predict", "{run}", "{image}"),
    "explain": ("explain", "{run}", "{image}", "--out", "{run}/heat"),
}


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_a_newer_format_is_refused_in_a_line(old, image_folder, capfd, monkeypatch, verb, name):
    from ctkeras.cli import main

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    (old / name).write_text(json.dumps(json.loads(OLD[name]) | {"format": 2}))
    before = sorted(path.name for path in old.iterdir())
    image = next(image_folder.rglob("*.png"))
    with pytest.raises(SystemExit) as caught:
        main.main([word.format(run=old, image=image) for word in VERBS[verb]])
    said = capfd.readouterr()
    assert caught.value.code == 2
    (line,) = said.err.splitlines()
    assert f"{name} has format 2, and ctkeras " in line
    assert line.endswith("reads formats up to 1; upgrade ctkeras") or verb == "report"
    assert sorted(path.name for path in old.iterdir()) == before


@pytest.mark.parametrize("value", ["1", 1.0, True, -1, None])
def test_a_format_that_is_no_whole_number_is_refused(old, value):
    (old / "metrics.json").write_text(json.dumps({"format": value}))
    with pytest.raises(UserError, match=r"metrics\.json has format .*; a whole number from 0 to 1 is allowed"):
        folder.read_metrics(old)


def test_a_run_folder_is_created_once_and_a_newer_one_left_alone(tmp_path):
    folder.make_folder(tmp_path / "some" / "run")
    folder.make_folder(tmp_path / "some" / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create run folder .*file/run .*pass another --output_dir"):
        folder.make_folder(tmp_path / "file" / "run")
    (tmp_path / "config.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="has format 2"):
        folder.make_folder(tmp_path)


def test_what_ends_a_run_for_good():
    assert set(folder.FINISHED) == {
        "solved",
        "max_epochs",
        "early_stopping",
        "hyperband",
    }  # a stop or a NaN can be resumed


def test_predictions_are_read_as_written(tmp_path):
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3), 9).astype(np.float32)
    labels, files, names = rng.integers(3, size=9), [f"{i}.png" for i in range(9)], ("b", "a", "c d")
    rows = prediction_rows(files, labels, chances, class_names=names, split="valid")
    assert [row["predicted"] for row in rows] == [names[i] for i in chances.argmax(-1)]
    assert read_predictions(tmp_path, "valid") is None
    write_predictions(tmp_path, rows, split="valid")
    read = read_predictions(tmp_path, "valid")
    assert (read.files, read.class_names) == (tuple(files), names)
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(read.probabilities.astype(np.float32), chances)


def test_the_most_confident_errors_come_first():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.3, 0.7], [0.4, 0.6]])
    assert worst_errors(np.array([0, 0, 0, 1, 0]), probabilities).tolist() == [2, 1, 4]
    assert worst_errors(np.array([0, 1, 1, 1, 1]), probabilities).tolist() == []


def test_results_are_ordered_by_accuracy_then_loss_then_name():
    results = [
        Result(*facts) for facts in (("d", {}, 0.5, 0.1), ("c", {}, 0.9, 0.5), ("b", {}, 0.9, 0.4), ("a", {}, 0.9, 0.5))
    ]
    assert [result.name for result in best_first(results)] == ["b", "a", "c", "d"]


def test_history_is_read_by_epoch_as_numbers():
    rows = [{"epoch": "2", "val_acc": "0.5"}, {"epoch": "", "val_acc": "1"}, {"epoch": 1, "val_acc": None}]
    first, second = by_epoch(rows)
    assert first["epoch"] == 1
    assert math.isnan(first["val_acc"])
    assert second == {"epoch": 2.0, "val_acc": 0.5}


def test_a_run_without_a_history_has_no_rows(tmp_path):
    assert read_history(tmp_path) == []
    write_history(tmp_path, [dict(zip(EPOCH_METRICS, range(1, 9), strict=True))])
    assert read_history(tmp_path) == [dict(zip(EPOCH_METRICS, map(float, range(1, 9)), strict=True))]
