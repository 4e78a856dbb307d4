"""One verdict on a sweep file: what the check says of each is what building the local search does, and what W&B's rules say."""

import optuna
import pytest
import yaml

from ctkeras.cli import main
from ctkeras.cli.options import load_sound
from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.search import local, plan, sampling
from ctkeras.sweep import check
from ctkeras.sweep.file import capped as file_capped
from ctkeras.sweep.file import expand, load, with_flags, with_variables
from ctkeras.sweep.hyperband import bands

BASE = {
    "method": "random",
    "run_cap": "3",
    "metric": "{name: val_acc, goal: maximize}",
    "command": "['${env}', python, -m, ctkeras, train]",
    "parameters": "{lr: {values: [0.1, 0.2]}}",
}
SOUND, LOCAL, REFUSED = "sound", "refused by the local engine", "refused"
LACKING = "sound, but sweep run needs what is not in the file"


def with_(**keys):
    """The base with other texts for its keys; None leaves one out."""
    return "".join(f"{key}: {text}\n" for key, text in (BASE | keys).items() if text is not None)


def parameters(text, **keys):
    return with_(parameters=f"{{{text}}}", **keys)


def hyperband(text, **keys):
    return with_(early_terminate=f"{{type: hyperband, {text}}}", **keys)


def command(*words):
    return with_(command=yaml.safe_dump(["python", "-m", "ctkeras", "train", *words], default_flow_style=True).strip())


FILES = {
    # methods and run_cap
    "random": (SOUND, with_()),
    "grid": (SOUND, with_(method="grid")),
    "grid without cap": (SOUND, with_(method="grid", run_cap=None)),
    "bayes": (SOUND, with_(method="bayes")),
    "custom": (REFUSED, with_(method="custom")),
    "method in capitals": (REFUSED, with_(method="Random")),
    "method a list": (REFUSED, with_(method="[grid]")),
    "no method": (REFUSED, with_(method=None)),
    "random without cap": (LACKING, with_(run_cap=None)),
    "bayes without cap": (LACKING, with_(method="bayes", run_cap=None)),
    "cap of 0": (REFUSED, with_(run_cap="0")),
    "cap of true": (REFUSED, with_(run_cap="true")),
    "cap of text": (REFUSED, with_(run_cap="'3'")),
    "cap of 3.0": (SOUND, with_(run_cap="3.0")),
    "cap of 2.5": (REFUSED, with_(run_cap="2.5")),
    "cap of nothing": (REFUSED, with_(run_cap="")),
    # metric
    "no metric": (SOUND, with_(metric=None)),
    "bayes without metric": (REFUSED, with_(method="bayes", metric=None)),
    "hyperband without metric": (REFUSED, hyperband("min_iter: 2", metric=None)),
    "metric of nothing": (REFUSED, with_(metric="")),
    "metric text": (REFUSED, with_(metric="val_acc")),
    "metric without name": (REFUSED, with_(metric="{goal: maximize}")),
    "metric of a list": (REFUSED, with_(metric="{name: [val_acc], goal: maximize}")),
    "goal by default": (SOUND, with_(metric="{name: val_loss}")),
    "goal wrong way": (REFUSED, with_(metric="{name: val_loss, goal: maximize}")),
    "goal unknown": (REFUSED, with_(metric="{name: val_acc, goal: max}")),
    "metric of the test split": (REFUSED, with_(metric="{name: test/acc, goal: maximize}")),
    "metric with target": (LOCAL, with_(metric="{name: val_acc, goal: maximize, target: 0.9}")),
    "metric with target of text": (REFUSED, with_(metric="{name: val_acc, goal: maximize, target: '0.9'}")),
    "metric with impute": (LOCAL, with_(metric="{name: val_acc, goal: maximize, impute: worst}")),
    "metric with impute unknown": (REFUSED, with_(metric="{name: val_acc, goal: maximize, impute: mean}")),
    "metric while running": (LOCAL, with_(metric="{name: val_acc, goal: maximize, impute_while_running: best}")),
    # other keys
    "texts": (SOUND, with_(name="a", description="b", project="p", entity="e", program="ctkeras", kind="sweep")),
    "name of a number": (REFUSED, with_(name="7")),
    "name of a date": (REFUSED, with_(name="2026-01-02")),
    "description of nothing": (REFUSED, with_(description="~")),
    "project with a slash": (REFUSED, with_(project="a/b")),
    "kind": (REFUSED, with_(kind="job")),
    "controller": (LOCAL, with_(controller="{type: local}")),
    "controller unknown": (REFUSED, with_(controller="{type: mine}")),
    "scheduler": (LOCAL, with_(scheduler="{engine: wandb}")),
    "scheduler unknown": (REFUSED, with_(scheduler="{engine: optuna}")),
    "job": (LOCAL, with_(job="a/b/c:v0")),
    "metrics": (REFUSED, with_(metrics="[{name: val_acc}, {name: val_loss}]")),
    "prior runs": (REFUSED, with_(prior_runs="[a]")),
    "unknown key": (REFUSED, with_(run_caps="3")),
    "key of a number": (REFUSED, with_() + "3: 4\n"),
    "key of two lines": (REFUSED, with_() + '"a\\nb": 4\n'),
    "key twice": (REFUSED, with_() + "run_cap: 4\n"),
    "parameter twice": (REFUSED, parameters("lr: {value: 0.1}, seed: {values: [1, 2]}, lr: {value: 0.2}")),
    # command
    "no command": (REFUSED, with_(command=None)),
    "program only": (LOCAL, with_(command=None, program="train.py")),
    "another program": (LOCAL, with_(command="[python, other.py, '${args}']")),
    "a path with the word": (LOCAL, with_(command="[python, /opt/ctkeras/other.py]")),
    "a path to the command": (SOUND, with_(command="[/usr/bin/ctkeras, train]")),
    "another verb": (REFUSED, with_(command="[ctkeras, evaluate]")),
    "command of text": (REFUSED, with_(command="python -m ctkeras train")),
    "command of nothing": (REFUSED, with_(command="[]")),
    "command of lists": (REFUSED, with_(command="[[ctkeras, train]]")),
    "options": (SOUND, command("--dropout=0.4", "--max_epochs", 5, "--freeze_backbone", True, "${args}")),
    "option of a number": (SOUND, command("--max_epochs", 5)),
    "option out of range": (REFUSED, command("--max_epochs", 0)),
    "option of no number": (REFUSED, command("--max_epochs", 2.5)),
    "option unknown": (REFUSED, command("--drop_out=0.4")),
    "option without value": (REFUSED, command("--dropout")),
    "option before arguments": (REFUSED, command("--dropout", "${args}")),
    "option of a file": (LOCAL, command("--config", "a.yaml")),
    "debug": (SOUND, command("--debug", "${args}")),
    "words in json": (REFUSED, command("${args_json}")),
    "arguments without equals": (SOUND, command("${args_no_equals}")),
    "variable": (SOUND, command("--weights_dir=${envvar:CTKERAS_TEST_SET}")),
    "variable as a word": (SOUND, command("--weights_dir", "${envvar:CTKERAS_TEST_SET}", "${args}")),
    "variable that is not set": (LACKING, command("--weights_dir=${envvar:CTKERAS_TEST_UNSET}")),
    "variable out of range": (LOCAL, command("--lr=${envvar:CTKERAS_TEST_SET}")),
    # values
    "constant": (SOUND, parameters("lr: {values: [0.1, 0.2]}, dropout: {value: 0.3, distribution: constant}")),
    "a model without weights": (SOUND, parameters("model_name: {values: [small_cnn, resnet18]}")),
    "values of text": (SOUND, parameters("lr: {values: [1e-4, 1e-3]}")),
    "values of nothing": (REFUSED, parameters("lr: {values: []}")),
    "values of a number": (REFUSED, parameters("lr: {values: 0.1}")),
    "values that are not numbers": (REFUSED, parameters("lr: {values: [0.1, .nan]}")),
    "values of bools for a number": (REFUSED, parameters("lr: {values: [true, 0.1]}")),
    "value and values": (REFUSED, parameters("lr: {value: 0.1, values: [0.1, 0.2]}")),
    "value of a date": (REFUSED, parameters("lr: {values: [0.1, 2026-01-02]}")),
    "value of nothing": (REFUSED, parameters("lr: {value: }")),
    "whole number with a point": (SOUND, parameters("batch_size: {values: [8.0, 16]}")),
    "bools as numbers": (SOUND, parameters("freeze_backbone: {values: [0, 1]}")),
    "yes and no": (SOUND, parameters("freeze_backbone: {values: [yes, no]}")),
    "probabilities": (SOUND, parameters("lr: {values: [0.1, 0.2], probabilities: [0.3, 0.7]}")),
    "probabilities within W&B's tolerance": (
        SOUND,
        parameters("lr: {values: [0.1, 0.2], probabilities: [0.3, 0.700004]}"),
    ),
    "probabilities beyond it": (REFUSED, parameters("lr: {values: [0.1, 0.2], probabilities: [0.3, 0.70002]}")),
    "probabilities below 0": (REFUSED, parameters("lr: {values: [0.1, 0.2], probabilities: [-0.3, 1.3]}")),
    "probabilities of bools": (REFUSED, parameters("lr: {values: [0.1, 0.2], probabilities: [true, false]}")),
    "probabilities of one": (REFUSED, parameters("lr: {values: [0.1, 0.2], probabilities: [1]}")),
    "probabilities in a grid": (
        REFUSED,
        parameters("lr: {values: [0.1, 0.2], probabilities: [0.5, 0.5]}", method="grid"),
    ),
    "categorical with probabilities": (
        REFUSED,
        parameters("lr: {values: [0.1, 0.2], probabilities: [0.5, 0.5], distribution: categorical}"),
    ),
    "nothing to search": (LOCAL, parameters("lr: {value: 0.1}")),
    "one value of chance 1": (LOCAL, parameters("lr: {values: [0.1, 0.2], probabilities: [1, 0]}")),
    "one run": (SOUND, parameters("lr: {value: 0.1}", run_cap="1")),
    "grid of one": (SOUND, parameters("lr: {value: 0.1}", method="grid")),
    # ranges
    "whole bounds": (SOUND, parameters("batch_size: {min: 8, max: 64}")),
    "bounds with a point": (SOUND, parameters("lr: {min: 0.001, max: 1}")),
    "bounds of text": (REFUSED, parameters("lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}")),
    "bounds of bools": (REFUSED, parameters("lr: {min: false, max: true}")),
    "bounds of nothing": (REFUSED, parameters("lr: {min: , max: 1.0}")),
    "bounds the wrong way": (REFUSED, parameters("lr: {min: 0.2, max: 0.1}")),
    "bounds that are equal": (REFUSED, parameters("batch_size: {min: 8, max: 8}")),
    "bounds beyond a number": (REFUSED, parameters(f"warmup_epochs: {{min: 0, max: 1{'0' * 400}}}")),
    "bounds infinite": (REFUSED, parameters("weight_decay: {min: 0, max: .inf}")),
    "one bound": (REFUSED, parameters("lr: {min: 0.1}")),
    "int_uniform with a point": (REFUSED, parameters("batch_size: {distribution: int_uniform, min: 8.0, max: 64}")),
    "uniform of whole bounds": (SOUND, parameters("mixup_alpha: {distribution: uniform, min: 0, max: 1}")),
    "exponents": (SOUND, parameters("lr: {distribution: log_uniform, min: -9, max: -2}")),
    "exponents that look like values": (REFUSED, parameters("lr: {distribution: log_uniform, min: 0.0001, max: 0.1}")),
    "exponents too large": (REFUSED, parameters("mixup_alpha: {distribution: log_uniform, min: 0, max: 800}")),
    "inverse": (SOUND, parameters("lr: {distribution: inv_log_uniform_values, min: 0.001, max: 0.1}")),
    "normal": (SOUND, parameters("dropout: {distribution: normal, mu: 0.5, sigma: 0.01}")),
    "normal out of range": (REFUSED, parameters("dropout: {distribution: normal, mu: -5}")),
    "normal too wide": (REFUSED, parameters("weight_decay: {distribution: normal, mu: 1.0e+308, sigma: 1.0e+308}")),
    "beta": (SOUND, parameters("dropout: {distribution: beta, a: 2, b: 5}")),
    "beta of 0": (REFUSED, parameters("dropout: {distribution: beta, a: 0}")),
    "q": (SOUND, parameters("batch_size: {distribution: q_uniform, min: 8, max: 64, q: 8}")),
    "q of 0": (REFUSED, parameters("batch_size: {distribution: q_uniform, min: 8, max: 64, q: 0}")),
    "q too small": (REFUSED, parameters("lr: {distribution: q_uniform, min: 0.1, max: 0.5, q: 1.0e-300}")),
    "q too large": (REFUSED, parameters("batch_size: {distribution: q_uniform, min: 1, max: 4, q: 100}")),
    "q grid": (SOUND, parameters("batch_size: {distribution: q_uniform, min: 8, max: 64, q: 8}", method="grid")),
    "q grid off the steps": (
        SOUND,
        parameters("dropout: {distribution: q_uniform, min: 0.05, max: 0.5, q: 0.1}", method="grid"),
    ),
    "q grid of halves": (
        REFUSED,
        parameters("batch_size: {distribution: q_uniform, min: 8.5, max: 64, q: 8}", method="grid"),
    ),
    "q grid too fine": (
        REFUSED,
        parameters("dropout: {distribution: q_uniform, min: 0.0, max: 0.5, q: 1.0e-9}", method="grid"),
    ),
    "range in a grid": (REFUSED, parameters("lr: {min: 0.1, max: 0.2}", method="grid")),
    "distribution unknown": (REFUSED, parameters("lr: {distribution: loguniform, min: 0.1, max: 0.2}")),
    "distribution of nothing": (REFUSED, parameters("lr: {distribution: , min: 0.1, max: 0.2}")),
    "key of another distribution": (REFUSED, parameters("lr: {distribution: normal, min: 0.1, max: 0.2}")),
    "text by range": (REFUSED, parameters("model_name: {min: 1, max: 2}")),
    # parameters
    "no parameters": (REFUSED, with_(parameters=None)),
    "parameters of nothing": (REFUSED, with_(parameters="{}")),
    "parameters a list": (REFUSED, with_(parameters="[lr]")),
    "parameter a number": (REFUSED, parameters("lr: 0.1")),
    "parameter unknown": (REFUSED, parameters("learning_rate: {values: [0.1, 0.2]}")),
    "parameter key unknown": (REFUSED, parameters("lr: {valeus: [0.1, 0.2]}")),
    "nested": (
        SOUND,
        parameters("group: {parameters: {lr: {min: 0.1, max: 0.2}, more: {parameters: {seed: {value: 1}}}}}"),
    ),
    "nested beside": (REFUSED, parameters("group: {parameters: {lr: {value: 1}}, value: 2}")),
    "nested nothing": (REFUSED, parameters("group: {parameters: {}}")),
    "nested under a number": (REFUSED, parameters("3: {parameters: {lr: {values: [0.1, 0.2]}}}")),
    "nested under a hyperparameter": (REFUSED, parameters("dropout: {parameters: {lr: {values: [0.1, 0.2]}}}")),
    "nested under one name": (
        LOCAL,
        parameters("a: {parameters: {b: {parameters: {lr: {values: [1, 2]}}}}}, a.b: {parameters: {lr: {value: 1}}}"),
    ),
    "candidate": (SOUND, parameters("candidate: {values: [{lr: 0.1}, {lr: 0.2, dropout: 0.1}]}")),
    "candidate with unknown": (REFUSED, parameters("candidate: {values: [{lr: 0.1}, {droput: 0.1}]}")),
    "candidate out of range": (REFUSED, parameters("candidate: {values: [{lr: 0.1}, {lr: -1}]}")),
    "candidate of numbers": (REFUSED, parameters("candidate: {values: [0.1, 0.2]}")),
    "candidate by range": (REFUSED, parameters("candidate: {min: 1, max: 2}")),
    "warm-up too long": (REFUSED, parameters("warmup_epochs: {value: 9}, max_epochs: {values: [3, 9]}")),
    "warm-up too long by an option": (
        REFUSED,
        command("--max_epochs=3").replace("lr: {", "warmup_epochs: {value: 5}, lr: {"),
    ),
    "project of a run": (REFUSED, parameters("project: {value: a/b}, lr: {values: [0.1, 0.2]}")),
    # hyperband
    "min_iter": (SOUND, hyperband("min_iter: 5, eta: 3, strict: true")),
    "min_iter with a point": (SOUND, hyperband("min_iter: 5.0")),
    "min_iter and s": (SOUND, hyperband("min_iter: 2, s: 1, eta: 2")),
    "max_iter": (SOUND, hyperband("max_iter: 27, s: 2")),
    "max_iter and min_iter": (SOUND, hyperband("max_iter: 27, s: 2, min_iter: 3")),
    "max_iter without s": (REFUSED, hyperband("max_iter: 27")),
    "max_iter below eta": (REFUSED, hyperband("max_iter: 2, s: 1")),
    "s with a point": (REFUSED, hyperband("max_iter: 27, s: 2.0")),
    "late bands": (SOUND, hyperband("min_iter: 500")),
    "eta of 1": (REFUSED, hyperband("min_iter: 5, eta: 1")),
    "eta with a point": (SOUND, hyperband("min_iter: 5, eta: 1.5")),
    "strict of text": (REFUSED, hyperband("min_iter: 5, strict: 'yes'")),
    "hyperband key unknown": (REFUSED, hyperband("min_iter: 5, patience: 2")),
    "stopper unknown": (REFUSED, with_(early_terminate="{type: envelope, min_iter: 5}")),
    "stopper of nothing": (REFUSED, with_(early_terminate="")),
    # YAML
    "alias": (SOUND, with_(parameters="{lr: &a {values: [0.1, 0.2]}, dropout: *a}")),
    "alias of itself": (REFUSED, with_(parameters="&a {group: {parameters: *a}}")),
    "list of itself": (REFUSED, parameters("lr: {values: &a [0.1, *a]}")),
    "merge": (SOUND, with_(parameters="{lr: &a {values: [0.1, 0.2]}, dropout: {<<: *a}}")),
    "octal": (SOUND, parameters("seed: {values: [010, 0x10]}")),
    "sexagesimal": (SOUND, parameters("seed: {values: [1:30, 2]}")),
    "tag": (REFUSED, parameters("lr: {values: !!set {0.1, 0.2}}")),
    "binary": (REFUSED, parameters("data: {values: [!!binary aGVsbG8=, a]}")),
}


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("CTKERAS_TEST_SET", "weights")
    monkeypatch.delenv("CTKERAS_TEST_UNSET", raising=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def build(file):
    """What `sweep run` does before it trains: plans the search, and makes the configurations of its first trials."""
    content = load_sound(file, engine="local")
    planned = plan.plan(content, {"output_dir": str(file.parent), "data": "phantom:48"}, title="x")
    study = optuna.create_study(direction="maximize" if planned.maximize else "minimize")
    for number in range(min(planned.total, 8)):
        values = sampling.sample(study, trial := study.ask(), planned.content, study_seed=0)
        config = RunConfig.from_mapping(expand(values) | planned.places)
        if stopper := planned.content.get("early_terminate"):
            bands(stopper, config.max_epochs)
        study.tell(trial, number % 3)


@pytest.mark.parametrize("name", FILES)
def test_the_verdict_on_a_file_is_that_of_building_its_search(tmp_path, name):
    verdict, text = FILES[name]
    (tmp_path / "sweep.yaml").write_text(text)
    loaded = load(tmp_path / "sweep.yaml")
    errors = {
        engine: [finding for finding in check.check(loaded, engine=engine) if finding.error]
        for engine in ("local", "wandb", None)
    }
    assert bool(errors["local"]) == (verdict in (LOCAL, REFUSED)), errors
    assert bool(errors["wandb"]) == (verdict == REFUSED), errors
    assert bool(errors[None]) == (verdict in (LOCAL, REFUSED)), errors
    assert all("\n" not in str(finding) for finding in errors[None])
    assert all("the local engine" in finding.text for finding in errors["local"] if finding.engine)
    if verdict == SOUND:
        build(tmp_path / "sweep.yaml")
        return
    with pytest.raises(UserError):
        build(tmp_path / "sweep.yaml")


@pytest.mark.parametrize("name", ["grid", "method in capitals", "metric with target"])
@pytest.mark.parametrize("engine", ["local", "wandb", "any"])
def test_the_command_says_whose_verdict_it_is(tmp_path, name, engine, capsys):
    verdict, text = FILES[name]
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    refused = verdict == REFUSED or (verdict == LOCAL and engine != "wandb")
    with pytest.raises(SystemExit) as exit_:
        main.main(["sweep", "check", str(file), "--engine", engine])
    shown = capsys.readouterr()
    assert exit_.value.code == (2 if refused else 0)
    assert ("is valid" in shown.out) != refused
    if verdict == LOCAL and engine == "any":
        assert "is refused by the local engine (sweep run), and valid for W&B" in shown.err


@pytest.mark.parametrize("name", ["metric with target", "late bands", "another verb", "key twice"])
def test_run_refuses_what_check_refuses_with_the_same_words(tmp_path, name, capsys, monkeypatch):
    def built(*_, **__):
        raise UserError("the search was built")

    monkeypatch.setattr(local, "run", built)
    verdict, text = FILES[name]
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as checked:
        main.main(["sweep", "check", str(file)])
    said = capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["sweep", "run", str(file), "--data", "phantom:48", "--output_dir", str(tmp_path / "out")])
    reason = capsys.readouterr().err.strip().splitlines()[-1]
    assert ("the search was built" in reason) == (checked.value.code == 0) == (verdict == SOUND)
    if verdict != SOUND:
        assert reason.removeprefix("Error: ").split(" (and ")[0] in said


@pytest.mark.parametrize(
    ("name", "word"), [("bayes without cap", "--count 45"), ("variable that is not set", "variable CTKERAS_TEST_UNSET")]
)
def test_run_says_what_a_sound_file_lacks(tmp_path, name, word, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text(FILES[name][1])
    with pytest.raises(SystemExit) as checked:
        main.main(["sweep", "check", str(file)])
    said = capsys.readouterr()
    assert checked.value.code == 0
    assert word in said.err
    with pytest.raises(SystemExit) as ran:
        main.main(["sweep", "run", str(file), "--data", "phantom:48", "--output_dir", str(tmp_path / "out")])
    assert ran.value.code == 2
    assert word in capsys.readouterr().err.strip().splitlines()[-1]


def test_count_caps_a_search_without_run_cap(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(with_(run_cap=None))
    capped = file_capped(load(file), 2)
    assert not any(finding.error for finding in check.check(capped, engine="local"))
    planned = plan.plan(capped.content, {"output_dir": str(tmp_path), "data": "phantom:48"}, title="x")
    assert planned.total == 2
    file.write_text(with_(run_cap="3"))
    assert file_capped(load(file), 2).content["run_cap"] == 2
    assert file_capped(load(file), 9).content["run_cap"] == 3


def test_variables_are_filled_in_as_by_an_agent(monkeypatch):
    sweep = yaml.safe_load(FILES["variable as a word"][1])
    assert with_flags(sweep)["parameters"]["weights_dir"] == {"value": "weights"}
    monkeypatch.delenv("CTKERAS_TEST_SET")
    assert with_variables("a-${envvar:CTKERAS_TEST_SET}/b") == "a-CTKERAS_TEST_SET/b"  # W&B leaves the name
