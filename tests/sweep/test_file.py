"""Sweep files: the shipped ones are sound, faults are named by key and line, candidates expand, phases follow from results."""

import itertools
import pathlib
import textwrap

import pytest
import yaml

from ctkeras.cli import main
from ctkeras.config import FIELDS, RunConfig
from ctkeras.errors import UserError
from ctkeras.runs.result import Result
from ctkeras.sweep import check, file, phases

SHIPPED = sorted((pathlib.Path(__file__).parent.parent.parent / "sweep_yaml").glob("*.yaml"))
SOUND = """\
method: bayes
metric: {name: val_acc, goal: maximize}
run_cap: 4
early_terminate: {type: hyperband, min_iter: 5, eta: 3}
command: ["${env}", python, -m, ctkeras, train, "${args}"]
parameters:
  lr: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  dropout: {values: [0.2, 0.4], probabilities: [0.5, 0.5]}
  freeze_backbone: {value: true}
  max_epochs: {value: 30}
  candidate: {values: [{model_name: resnet18, weight_decay: 1e-4}, {model_name: resnet34}]}
"""


def written(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def errors(tmp_path, text):
    return [finding for finding in check.check(file.load(written(tmp_path, text))) if finding.error]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_sound_and_say_how_to_run_them(path):
    assert check.check(file.load(path)) == []
    assert f"python -m ctkeras sweep create sweep_yaml/{path.name}" in path.read_text()


def test_phase1_is_as_planned():
    (path,) = (path for path in SHIPPED if path.stem == "phase1")
    content = yaml.safe_load(path.read_text())
    assert content["run_cap"] == 45
    assert content["early_terminate"] == {"type": "hyperband", "min_iter": 5, "eta": 3}
    assert (content["parameters"]["lr"]["min"], content["parameters"]["lr"]["max"]) == (1e-5, 1e-2)


def test_smoke_needs_no_variable_account_or_download():
    (path,) = (path for path in SHIPPED if path.stem == "smoke")
    parameters = yaml.safe_load(path.read_text())["parameters"]
    assert parameters["data"]["value"].startswith("phantom")
    assert parameters["pretrained"]["value"] is False
    lengths = [len(spec.get("values", [0])) for spec in parameters.values()]
    assert 4 <= len(list(itertools.product(*map(range, lengths)))) <= 8


def test_a_sound_file_has_no_finding(tmp_path):
    assert errors(tmp_path, SOUND) == []


# (what is replaced, by what) in SOUND; the key and the line of the one finding; a word of what would be right
FAULTS = {
    "unknown top key": ("run_cap: 4", "run_cap: 4\nrun_caps: 4", "run_caps", 4, "run_cap"),
    "method": ("method: bayes", "method: baies", "method", 1, "bayes"),
    "goal": ("goal: maximize", "goal: max", "metric.goal", 2, "maximize"),
    "goal left out": (", goal: maximize", "", "metric.goal", 2, "maximize"),
    "metric left out": ("metric: {name: val_acc, goal: maximize}\n", "", "metric", 1, "val_acc"),
    "metric on test": ("name: val_acc", "name: test_acc", "metric.name", 2, "test split"),
    "metric never logged": ("name: val_acc", "name: accuracy", "metric.name", 2, "val_acc"),
    "cap of text": ("run_cap: 4", "run_cap: four", "run_cap", 3, "whole number"),
    "distribution": ("log_uniform_values", "loguniform", "parameters.lr.distribution", 7, "log_uniform"),
    "exponents": (
        "log_uniform_values, min: 0.0001",
        "log_uniform, min: 0.0001",
        "parameters.lr.distribution",
        7,
        "log_uniform_values",
    ),
    "min above max": ("min: 0.0001", "min: 0.1", "parameters.lr.min", 7, "below max"),
    "out of range": ("[0.2, 0.4]", "[0.2, 1.4]", "parameters.dropout.values", 8, "dropout < 1"),
    "wrong type": ("[0.2, 0.4]", "[0.2, high]", "parameters.dropout.values", 8, "number"),
    "probabilities": ("[0.5, 0.5]", "[0.5, 0.6]", "parameters.dropout.probabilities", 8, "the sum 1"),
    "unknown parameter": ("  dropout:", "  droput:", "parameters.droput", 8, "dropout"),
    "unknown parameter key": ("{value: true}", "{valu: true}", "parameters.freeze_backbone.valu", 9, "value"),
    "min_iter": ("min_iter: 5", "min_iter: 0", "early_terminate.min_iter", 4, "whole number from 1"),
    "bound of text": ("min: 0.0001", "min: 1e-4", "parameters.lr.min", 7, "write 0.0001"),
    "bound of text, small": ("min: 0.0001", "min: 1e-5", "parameters.lr.min", 7, "write 1.0e-05"),
    "no value": ("run_cap: 4", "run_cap:", "run_cap", 3, "no value"),
    "name of a number": ("run_cap: 4", "run_cap: 4\nname: 7", "name", 4, "must be text"),
    "eta": ("eta: 3", "eta: 1", "early_terminate.eta", 4, "above 1"),
    "another stopper": ("type: hyperband", "type: median", "early_terminate", 4, "hyperband"),
    "flag of another tool": (
        "train,",
        'train, "--learning_rate=1",',
        "command.5",
        5,
        "is not an option of the train verb",
    ),
    "flag out of range": ("train,", 'train, "--dropout=2",', "command.5", 5, "dropout < 1"),
    "words in json": ("${args}", "${args_json}", "command.5", 5, "${args}"),
    "candidate": ("weight_decay: 1e-4", "weight_decays: 1", "parameters.candidate.values.0.weight_decays", 11, ""),
    "candidate value": ("model_name: resnet34", "model_name: vgg", "parameters.candidate.values.1.model_name", 11, ""),
    "twice": ("  max_epochs: {value: 30}", "  max_epochs: {value: 30}\n  lr: {value: 1}", "parameters.lr", 11, "twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_key_and_line(tmp_path, name, capsys):
    old, new, key, line, word = FAULTS[name]
    assert old in SOUND
    text = SOUND.replace(old, new)
    found = {finding.key: finding for finding in errors(tmp_path, text)}
    assert key in found
    assert found[key].line == line
    assert word in found[key].text
    with pytest.raises(SystemExit) as exit_:
        main.main(["sweep", "check", str(written(tmp_path, text))])
    assert exit_.value.code == 2
    assert f"line {line}: {key}" in capsys.readouterr().err


# a parameter, or early_terminate; the key of the finding; a word of what would be right
SCHEMA_FAULTS = {
    "q without a distribution": ("batch_size: {min: 16, max: 64, q: 16}", "batch_size.q", "int_uniform has no q"),
    "text by beta": ("model_name: {distribution: beta}", "model_name", "values"),
    "whole number by normal": ("batch_size: {distribution: normal, mu: 32}", "batch_size", "whole number"),
    "whole number in halves": (
        "batch_size: {distribution: q_uniform, min: 8, max: 64, q: 0.5}",
        "batch_size",
        "whole q",
    ),
    "rounds to 0": ("batch_size: {distribution: q_uniform, min: 1, max: 64, q: 16}", "batch_size.min", "got 0"),
    "q left out": (
        "lr: {distribution: q_log_uniform_values, min: 0.0001, max: 0.01}",
        "lr",
        "give q, or use log_uniform_values",
    ),
    "q of a normal left out": ("lr: {distribution: q_normal, mu: 0.1, sigma: 0.01}", "lr", "give q, or use normal"),
    "q of 0": ("dropout: {distribution: q_uniform, min: 0.1, max: 0.5, q: 0}", "dropout.q", "above 0"),
    "sigma": ("dropout: {distribution: normal, sigma: -1}", "dropout.sigma", "at least 0"),
    "two kinds": ("dropout: {value: 0.1, values: [0.1]}", "dropout", "values"),
    "bounds of a normal": ("lr: {distribution: log_normal, mu: -7, min: 1}", "lr.min", "log_normal has no min"),
    "values from 0": (
        "weight_decay: {distribution: log_uniform_values, min: 0, max: 0.1}",
        "weight_decay.min",
        "above 0",
    ),
    "inverse exponents": ("dropout: {distribution: inv_log_uniform, min: -3, max: -0.5}", "dropout.min", "dropout < 1"),
    "nested beside": ("inner: {parameters: {seed: {value: 1}}, value: 3}", "inner", "nested"),
    "candidates' chances": (
        "candidate: {values: [{lr: 0.1}, {lr: 0.2}], probabilities: [1]}",
        "candidate.probabilities",
        "2 numbers",
    ),
    "chances of a categorical": (
        "lr: {distribution: categorical, values: [0.1], probabilities: [1]}",
        "lr.distribution",
        "categorical_w_probabilities",
    ),
    "all out of range": ("dropout: {distribution: normal, mu: -3, sigma: 0.1}", "dropout", "0 <= dropout"),
    "a group of a hyperparameter's name": ("lr: {parameters: {seed: {value: 1}}}", "lr", "another name"),
    "max_iter alone": ("max_iter: 27", "s", "bands"),
    "neither iter": ("eta: 2", "", "min_iter, or max_iter"),
    "no band": ("max_iter: 2, s: 1", "max_iter", "eta"),
    "part of an epoch": ("min_iter: 2.5", "min_iter", "whole number"),
    "strict": ("min_iter: 5, strict: maybe", "strict", "true or false"),
}


@pytest.mark.parametrize("name", SCHEMA_FAULTS)
def test_what_wandbs_schema_refuses_is_named(tmp_path, name):
    text, key, word = SCHEMA_FAULTS[name]
    base = "method: random\nrun_cap: 4\nmetric: {name: val_acc, goal: maximize}\ncommand: [ctkeras, train]\n"
    if ": {" in text:
        content, key = f"{base}parameters: {{{text}}}\n", f"parameters.{key}"
    else:
        content = f"{base}parameters: {{lr: {{value: 0.1}}}}\nearly_terminate: {{type: hyperband, {text}}}\n"
        key = f"early_terminate.{key}".rstrip(".")
    found = {finding.key: finding.text for finding in errors(tmp_path, content)}
    assert word in found[key]


# parameters; which of a warm-up's ends is at fault (none: all runs are sound); a word of what is said
WARMUPS = {
    "always too long": ("warmup_epochs: {value: 9}, max_epochs: {values: [3, 9]}", "error", "at least 9"),
    "sometimes too long": ("warmup_epochs: {values: [0, 9]}, max_epochs: {values: [3, 20]}", "warning", "from 3"),
    "above the default": ("warmup_epochs: {min: 30.0, max: 40.0}", "error", "at most 30"),
    "within the default": ("warmup_epochs: {min: 0.0, max: 29.5}", "", ""),
    "none": ("warmup_epochs: {value: 0}, max_epochs: {value: 1}, seed: {values: [0, 1]}", "", ""),
    "nested": ("a: {parameters: {warmup_epochs: {value: 5}}}, max_epochs: {value: 5}", "error", "at most 5"),
    "a candidate's own": (
        "candidate: {values: [{warmup_epochs: 9, max_epochs: 10}, {warmup_epochs: 2, max_epochs: 3}]}",
        "",
        "",
    ),
    "a candidate's own, too long": ("candidate: {values: [{warmup_epochs: 9, max_epochs: 9}]}", "error", "at most 9"),
    "another's": (
        "candidate: {values: [{max_epochs: 3}, {max_epochs: 30}]}, warmup_epochs: {value: 5}",
        "warning",
        "3",
    ),
}


@pytest.mark.parametrize("name", WARMUPS)
def test_a_warmup_that_does_not_end_is_named_as_runs_would_refuse_it(tmp_path, name):
    parameters, kind, word = WARMUPS[name]
    base = f"method: random\nrun_cap: 4\ncommand: [ctkeras, train]\nparameters: {{{parameters}}}\n"
    found = check.check(file.load(written(tmp_path, base)), engine="wandb")
    assert [(finding.key.rpartition(".")[2], finding.error) for finding in found] == (
        [("warmup_epochs", kind == "error")] if kind else []
    )
    assert all(word in finding.text for finding in found)


def test_a_fault_of_max_epochs_is_found_once(tmp_path):
    found = errors(tmp_path, SOUND.replace("max_epochs: {value: 30}", "max_epochs: {value: 0}"))
    assert [finding.key for finding in found] == ["parameters.max_epochs.value"]
    text = SOUND.replace("max_epochs: {value: 30}", "max_epochs: {values: [0, 4]}")
    assert [finding.key for finding in errors(tmp_path, text)] == ["parameters.max_epochs.values"]


@pytest.mark.parametrize("stopper", ["min_iter: 31", "max_iter: 100, s: 1", "min_iter: 40, eta: 2, s: 3"])
def test_bands_that_no_run_reaches_are_a_warning(tmp_path, stopper):
    """W&B accepts them, and so does the local engine; no run is stopped."""
    text = SOUND.replace("min_iter: 5, eta: 3", stopper)
    found = check.check(file.load(written(tmp_path, text)))
    assert {finding.error for finding in found} == {False}
    assert any("no run is ever stopped" in finding.text for finding in found)


@pytest.mark.parametrize(
    ("stopper", "key"), [("min_iter: 2, s: 1", "s"), ("max_iter: 27, s: 2, min_iter: 3", "min_iter")]
)
def test_what_has_no_effect_in_hyperband_is_a_warning(tmp_path, stopper, key):
    (found,) = check.check(file.load(written(tmp_path, SOUND.replace("min_iter: 5, eta: 3", stopper))))
    assert (found.key, found.error) == (f"early_terminate.{key}", False)
    assert "no effect" in found.text


def test_bands_that_do_not_exist_are_reported(tmp_path):
    """Hyperband's bands lie at max_iter / eta, and so on down to an epoch; s says how many of them count."""
    for max_iter in range(3, 30):
        for s in range(1, 6):
            stopper = f"early_terminate: {{type: hyperband, max_iter: {max_iter}, s: {s}, eta: 3}}"
            text = SOUND.replace("early_terminate: {type: hyperband, min_iter: 5, eta: 3}", stopper)
            found = check.check(file.load(written(tmp_path, text)))
            bands = sum(max_iter >= 3**n for n in range(1, 6))
            assert [str(finding) for finding in found if finding.error] == []
            assert [finding.key for finding in found] == (["early_terminate.s"] if s > bands else [])
            assert all(f"are {bands} bands" in finding.text for finding in found)


def test_steps_of_1_are_told_where_they_may_be_meant(tmp_path):
    text = SOUND.replace("lr: {distribution: log_uniform_values", "weight_decay: {distribution: q_log_uniform_values")
    (found,) = check.check(file.load(written(tmp_path, text)))
    assert (found.key, found.error) == ("parameters.weight_decay", False)
    assert "q is 1" in found.text
    given = text.replace("max: 0.01}", "max: 0.01, q: 0.0001}")
    assert check.check(file.load(written(tmp_path, given))) == []


@pytest.mark.parametrize(
    "parameter",
    [
        "dropout: {distribution: inv_log_uniform, min: 0.7, max: 3}",
        "lr: {distribution: log_normal, mu: -7, sigma: 0.5}",
        "batch_size: {distribution: q_log_uniform_values, min: 8, max: 64, q: 8}",
        "seed: {min: 0, max: 9}",
        "inner: {parameters: {lr: {min: 0.001, max: 0.1}}}",
    ],
)
def test_every_use_of_a_distribution_that_suits_is_sound(tmp_path, parameter):
    assert (
        errors(tmp_path, f"method: random\nrun_cap: 4\ncommand: [ctkeras, train]\nparameters: {{{parameter}}}\n") == []
    )


def test_a_grid_over_a_range_is_refused(tmp_path):
    text = SOUND.replace("method: bayes", "method: grid")
    assert [finding.key for finding in errors(tmp_path, text)] == ["parameters.lr", "parameters.dropout"]


def test_the_faults_of_the_pytorch_original_are_named(tmp_path):
    """It optimised test_acc, logged once, with hyperband."""
    text = SOUND.replace("name: val_acc", "name: test_acc")
    assert "test split" in str(errors(tmp_path, text)[0])


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "method: bayes\nparameters: 3", "\0"])
def test_what_is_no_sweep_is_refused_in_a_line(tmp_path, text, capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["sweep", "check", str(written(tmp_path, text))])
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_candidates_expand_and_explicit_keys_win():
    values = {"candidate": {"model_name": "resnet18", "lr": 0.1}, "lr": 0.2, "_wandb": {"x": 1}, "inner": {"seed": 3}}
    assert file.expand(values) == {"model_name": "resnet18", "lr": 0.2, "seed": 3}


def results():
    """Three architectures; resnet34 has the two best runs, resnet18 the next."""
    rows = [
        ("resnet34", 0.001, 0.90),
        ("resnet34", 0.002, 0.89),
        ("resnet18", 0.003, 0.88),
        ("efficientnet_b0", 0.004, 0.5),
    ]
    for number, (model, lr, val_acc) in enumerate(rows):
        yield Result(f"run{number}", RunConfig(model_name=model, lr=lr).to_dict(), val_acc, 1.0)


def phase1():
    (path,) = (path for path in SHIPPED if path.stem == "phase1")
    return yaml.safe_load(path.read_text())


def test_phase_2_holds_the_two_best_architectures_each_with_its_own_lr(tmp_path):
    content, reasons = phases.next_phase(phase1(), list(results()), 2)
    chosen = content["parameters"]["candidate"]["values"]
    assert [(value["model_name"], value["lr"]) for value in chosen] == [("resnet34", 0.001), ("resnet18", 0.003)]
    assert not {"dropout", "seed", "data"} & set(chosen[0])
    assert content["run_cap"] == 20
    assert any("run0" in reason for reason in reasons)
    text = file.dump(content, reasons)
    assert errors(tmp_path, text) == []
    assert yaml.safe_load(text) == content


def test_phase_2_does_not_depend_on_the_order_of_results():
    contents = [phases.next_phase(phase1(), order, 2)[0] for order in itertools.permutations(results())]
    assert all(content == contents[0] for content in contents)


def test_wide_phase_2_searches_more_and_leaves_it_out_of_the_candidates(tmp_path):
    content, reasons = phases.next_phase(phase1(), list(results()), 2, wide=True)
    assert {"optimizer", "scheduler", "max_epochs", "weight_decay"} <= set(content["parameters"])
    assert "weight_decay" not in content["parameters"]["candidate"]["values"][0]
    assert errors(tmp_path, file.dump(content, reasons)) == []


def test_one_architecture_hands_on_its_two_best_configurations():
    one = [result for result in results() if result.config["model_name"] == "resnet34"]
    content, _ = phases.next_phase(phase1(), one, 2)
    assert [value["lr"] for value in content["parameters"]["candidate"]["values"]] == [0.001, 0.002]


def test_phase_3_runs_the_two_best_configurations_with_five_seeds(tmp_path):
    phase2, _ = phases.next_phase(phase1(), list(results()), 2)
    content, reasons = phases.next_phase(phase2, list(results()), 3)
    parameters = content["parameters"]
    assert content["method"] == "grid"
    assert len(parameters["candidate"]["values"]) * len(parameters["seed"]["values"]) == 10
    assert {"dropout", "label_smoothing", "mixup_alpha", "lr", "model_name"} <= set(
        parameters["candidate"]["values"][0]
    )
    assert errors(tmp_path, file.dump(content, reasons)) == []
    for candidate in parameters["candidate"]["values"]:
        assert set(candidate) <= set(FIELDS)


def test_no_results_is_told():
    with pytest.raises(UserError, match="no finished run"):
        phases.next_phase(phase1(), [], 2)
