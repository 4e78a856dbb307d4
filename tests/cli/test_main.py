"""The command line itself: exit codes, help, what `train` prints and which arguments it takes."""

import importlib
from pathlib import Path

import click
import pytest

from ctkeras.cli import main
from ctkeras.config import FIELDS
from ctkeras.errors import UserError
from ctkeras.training.train import RunResult

train = importlib.import_module("ctkeras.cli.train")  # in ctkeras.cli the name is the command

DONE = {
    "val_acc": 0.875,
    "val_loss": 0.25,
    "best_epoch": 3,
    "epochs": 5,
    "stopped_by": "max_epochs",
    "seconds_total": 61.6,
}


def test_the_result_is_two_lines_the_second_the_path(capsys, tmp_path):
    train._print_result(RunResult(tmp_path, DONE))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "val_acc 0.8750  val_loss 0.2500  best epoch 3 of 5  stopped by max_epochs  62 s"
    assert second == str(tmp_path / "model.keras")


@pytest.mark.parametrize("change", [{"best_epoch": 0}, {"val_acc": None}])
def test_a_run_that_stopped_at_once_has_no_model(capsys, tmp_path, change):
    train._print_result(RunResult(tmp_path, DONE | change))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"Stopped by max_epochs before the end of the first epoch, so there is no model. {tmp_path}"


def test_only_hyperparameters_and_wandbs_own_arguments_are_taken():
    train._refuse(("--_wandb=1", "--_x"))
    for word, reason in (("now", "unexpected argument 'now'"), ("--lrr=1", "did you mean lr"), ("-lr", "unexpected")):
        with pytest.raises(UserError, match=reason):
            train._refuse((word,))


def test_options_override_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("lr: 0.1\nseed: 3\n")
    flags = {"lr": "0.2", "dropout": None}
    assert train.read_config(str(tmp_path / "a.yaml"), flags) == {"lr": "0.2", "seed": 3}
    assert train.read_config(None, flags) == {"lr": "0.2"}


def test_every_hyperparameter_is_an_option_with_its_help():
    options = {option.name: option for option in train.train.params if isinstance(option, click.Option)}
    for name, field in FIELDS.items():
        assert options[name].opts == [f"--{name}"]
        assert options[name].help.startswith(field.metadata["help"])
    assert options["dropout"].help.endswith("[a number, 0 <= dropout < 1] (default 0.3)")
    assert options["pretrained"].help.endswith("[true or false] (default true)")
    assert "(default" not in options["weights_dir"].help


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a\n b"), 2, "Error: a b"),
        (click.UsageError("odd"), 2, "Error: odd"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (click.Abort(), 130, "Interrupted."),
        (KeyError("x"), 1, "Error: KeyError: 'x'. Run it with --debug to see where."),
        (type("TrainingFailed", (Exception,), {})("it diverged"), 1, "Error: it diverged"),
        (SystemExit(3), 3, ""),
        (SystemExit("text"), 1, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert main._explain(error) == code
    assert capsys.readouterr().err == (f"{line}\n" if line else "")


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["--help"], 0), ([], 2), (["cook"], 2)])
def test_exit_codes_of_the_program_itself(capsys, arguments, code):
    with pytest.raises(SystemExit) as end:
        main.main(arguments)
    assert end.value.code == code


def test_debug_is_taken_anywhere_and_prints_the_traceback(capsys):
    with pytest.raises(SystemExit):
        main.main(["train", "--lr", "fast", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["train", "--lr", "fast"])
    assert "Traceback" not in capsys.readouterr().err


def test_a_finished_run_is_not_resumed(capsys, tmp_path, monkeypatch):
    from ctkeras.config import RunConfig
    from ctkeras.runs import folder
    from ctkeras.training import train as training

    folder.write_json(tmp_path / "config.json", RunConfig.from_mapping({"data": "phantom:48"}).to_dict())
    folder.write_json(tmp_path / "metrics.json", DONE | {"stopped_by": sorted(folder.FINISHED)[0]})
    resumed = []
    monkeypatch.setattr(training, "train", lambda *_, resume, **__: resumed.append(resume) or RunResult(tmp_path, DONE))
    train._resume(Path(tmp_path), {})
    assert "has finished" in capsys.readouterr().err
    assert resumed == []
    folder.write_json(tmp_path / "metrics.json", DONE | {"stopped_by": "sigterm"})
    train._resume(Path(tmp_path), {})
    assert resumed == [tmp_path]


@pytest.mark.parametrize("backend", [None, "torch", "tensorflow"])
def test_training_needs_jax(monkeypatch, backend):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if backend:
        monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(UserError, match="set it to jax"):
        train._require_jax()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    train._require_jax()
