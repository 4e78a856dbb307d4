"""A study of solved heads: when a study is one, the one-standard-error rule, its phases and its report."""

import json

import pytest
import sweeps

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison
from ctkeras.runs.folder import write_json
from ctkeras.runs.result import Result
from ctkeras.search.plan import plan as plan_search
from ctkeras.study import edges, ending, finetuned, solved, study, verdict, winner
from ctkeras.study.plan import plan
from ctkeras.sweep import phases

DATA = {"data": "phantom:120", "image_size": "32", "pretrained": "false"}


@pytest.mark.parametrize(
    ("options", "more", "word"),
    [
        ({}, {}, ""),
        ({"freeze_backbone": "true", "fit": "pad", "folds": "3"}, {}, ""),
        ({"folds": "auto"}, {}, ""),
        ({"weight_decay": "0.1"}, {}, ""),
        ({"nonsense": "1"}, {}, ""),  # the plan refuses it
        ({"folds": "0"}, {}, "--folds is 0"),
        ({"freeze_backbone": "false"}, {}, "five folds would take five times as long"),
        ({"unfreeze_from": "stage4"}, {}, "five folds would take five times as long"),
        ({"feature_cache": "false"}, {}, "without cached features"),
        ({"lr": "0.01"}, {}, "--lr asks"),
        ({"max_epochs": "3"}, {}, "--max_epochs asks"),
        ({"optimizer": "adam"}, {}, "adam trains in epochs"),
        ({}, {"engine": "wandb"}, "W&B"),
        ({}, {"wide": True}, "--wide"),
        ({}, {"file": "own.yaml"}, "own.yaml"),
    ],
)
def test_when_heads_are_solved(options, more, word):
    why = solved.why_not(options, **{"engine": "local", "file": None, "wide": False, **more})
    assert word in why
    assert bool(why) == bool(word)


def test_the_phases_of_solved_heads():
    planned = plan(phases.SOLVED1, DATA, solved=True)
    assert planned.trials == (24, 24, 10)
    one = plan(phases.SOLVED1, DATA, models=["mobilenet_v2"], solved=True)
    assert one.trials == (8, 24, 10)
    found = [_result(head_stages=4, acc=0.7), _result(head_stages=2, acc=0.6)]
    two, _ = study._next(one, one.content, found, 2)
    assert plan_search(two, DATA, title="two").total == 22  # the two that have run are not repeated
    assert two["method"] == "grid"
    candidates = two["parameters"]["candidate"]["values"]
    assert {value["head_stages"] for value in candidates} == {4, 2}
    defaults = {"class_weighting": "loss", "label_smoothing": 0.0, "weight_decay": "auto"}
    away = [sum(value[name] != default for name, default in defaults.items()) for value in candidates]
    assert away == sorted(away)
    assert away[0] == 1


def test_a_value_at_the_edge_of_its_range_is_named():
    lr = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}
    sweep = {
        "parameters": {"lr": lr, "label_smoothing": {"values": [0.0, 0.1]}, "batch_size": {"values": [16, 32, 64]}}
    }
    config = {"lr": 0.009, "label_smoothing": 0.0, "batch_size": 32, "model_name": "resnet18", "freeze_backbone": True}
    (sentence,) = edges.at_edges(config, [sweep])
    assert sentence == "lr ended at 0.009, the highest value searched: a wider range may do better."
    assert "16, the lowest value" in edges.at_edges(config | {"lr": 1e-3, "batch_size": 16}, [sweep])[0]
    assert not edges.at_edges(config | {"lr": 1e-3}, [sweep])


def test_refit_needs_folds():
    with pytest.raises(UserError, match="refit"):
        plan(phases.PHASE1, DATA, refit=True)


def _result(*, acc, seed=0, **config):
    values = RunConfig.from_mapping({"model_name": "mobilenet_v2", "seed": seed, **config}).to_dict()
    name = " ".join(f"{key}={value}" for key, value in config.items())
    return Result(f"{name} {seed}", values, acc, 1 - acc)


def _folders(tmp_path, results, *, images=100, parameters=None):
    """Run folders of the accuracies given; each run is wrong on other images than the one before."""
    folders = {}
    for place, result in enumerate(results):
        folder = folders[result.name] = tmp_path / result.name
        folder.mkdir()
        size = (parameters or {}).get(result.config["model_name"], 100)
        facts = {"params_total": size, "folds": 5, "given_val_n": 9, "given_val_acc": 0.5, "train_images": images}
        write_json(folder / "metrics.json", {"format": 1, **facts})
        rows = ["file,split,label,predicted,p_a,p_b"]
        for number in range(images):
            right = (number + 20 * place) % images < round(result.val_acc * images)
            rows.append(f"{number},folds,a,{'a' if right else 'b'},{0.9 if right else 0.1},{0.1 if right else 0.9}")
        (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    return folders


def test_the_cheapest_within_one_standard_error_wins(tmp_path):
    best = _result(acc=0.80, label_smoothing=0.1, fit="pad")
    near = _result(acc=0.79, gray="stretch")
    nearer_default = _result(acc=0.79)
    far = _result(acc=0.50, model_name="resnet18")
    runs = [best, near, nearer_default, far]
    folders = _folders(tmp_path, runs, parameters={"resnet18": 1})
    ranked = winner.contenders(runs)
    assert winner.standard_error(ranked[0], folders) == pytest.approx(0.040, abs=0.001)
    assert solved.cheapest(ranked, folders).best.name == nearer_default.name  # resnet18 is smaller, but too far behind
    chosen, words = solved.finalists({"parameters": {}} | phases.SOLVED1, runs, tmp_path)
    assert chosen[0].name == best.name
    assert "best" in words


def test_a_smaller_backbone_is_cheaper_than_defaults(tmp_path):
    large, small = _result(acc=0.80), _result(acc=0.79, model_name="resnet18", fit="pad")
    for sizes, expected in (({"resnet18": 1}, small), ({"resnet18": 1000}, large)):
        place = tmp_path / str(sizes["resnet18"])
        place.mkdir()
        folders = _folders(place, [large, small], parameters=sizes)
        assert solved.cheapest(winner.contenders([large, small]), folders).best.name == expected.name


def test_phase_3_takes_the_best_and_the_cheapest_within_one_standard_error(tmp_path):
    runs = [_result(acc=0.80, fit="pad", gray="stretch"), _result(acc=0.80, fit="pad"), _result(acc=0.79)]
    _folders(tmp_path, runs)
    content = {"parameters": {name: {"values": [0, 1]} for name in ("fit", "gray")}}
    ranked = winner.contenders(runs)
    chosen, words = solved.finalists(content, runs, tmp_path)
    assert [run.name for run in chosen] == [ranked[0].best.name, runs[2].name]
    assert words == "by val_acc, the best, the cheapest within one standard error of it, and the defaults"


def test_both_numbers_of_a_winner_in_folds(tmp_path):
    runs = [_result(acc=0.8, seed=seed) for seed in (0, 1)]
    _folders(tmp_path, runs)
    (one,) = winner.contenders(runs)
    assert solved.in_folds(one, tmp_path) == solved.InFolds(5, 100, 9, 0.5)
    assert solved.in_folds(one, tmp_path / "elsewhere") is None


def test_the_verdict_when_the_cheaper_one_wins(tmp_path):
    first, second = (
        winner.contenders([_result(acc=acc, fit=fit)])[0] for acc, fit in ((0.79, "stretch"), (0.8, "pad"))
    )
    difference = comparison.Comparison(-0.01, -0.03, 0.01, 0.4, "group of similar slices", 187, 539, 5, 0.0125)
    folds = solved.InFolds(5, 539, 59, 0.7797)
    test = {"n": 10, "acc": 0.8}
    lines = verdict.verdict(
        ending.Outcome(tmp_path, [], first, second, difference, tmp_path, test, folds, (), solved.RULE)
    )
    assert "The winner is 0.0100 behind the runner-up; of configurations within one standard error" in lines[2]
    assert "may be chance" in lines[3]
    assert "187 groups of similar slices and 5 seeds" in lines[3]
    assert "validated in 5 folds of 539 images" in lines[4]
    assert "59 of them that are from the given validation split: 0.7797" in lines[4]


def test_the_command_says_which_study_it_is(command_line):
    words = [f"--{name}={value}" for name, value in DATA.items()]
    result = command_line(*words, "--models=mobilenet_v2", "--refit")
    assert result.exception is None
    assert "validated by 5 folds" in result.stderr
    planned = command_line.calls.study
    assert (planned.solved, planned.refit, planned.trials) == (True, True, (8, 24, 10))
    result = command_line(*words, "--freeze_backbone=false")
    assert "fine-tuned runs are validated on it, because five folds would take five times as long" in result.stderr
    assert not command_line.calls.study.solved
    assert isinstance(command_line(*words, "--lr=0.1", "--folds=5").exception, UserError)


def test_a_study_begun_before_there_were_folds_is_resumed(command_line):
    words = [f"--{name}={value}" for name, value in DATA.items()]
    old = plan(phases.PHASE1, {**DATA, "output_dir": str(command_line.folder)})
    (command_line.folder / old.name).mkdir()
    (command_line.folder / old.name / "phase1.yaml").touch()
    assert f"Resuming {old.name}" in command_line(*words).stderr
    assert command_line.calls.study.name == old.name
    assert "validated by 5 folds" in command_line(*words, "--folds=5").stderr
    (command_line.folder / old.name / "study.json").touch()  # it has ended
    command_line(*words)
    assert command_line.calls.study.solved
    command_line(*words, "--folds=0")
    assert command_line.calls.study.name == old.name


def test_the_fine_tuned_finalist_is_the_best_configuration_from_stage_3():
    planned = plan(phases.SOLVED1, {**DATA, "gray": "stretch"}, models=["mobilenet_v2"], solved=True)
    runs = [_result(acc=0.8, fit="pad", weight_decay=0.3), _result(acc=0.7)]
    sweep, _ = study._next(planned, planned.content, runs, 3)
    content = finetuned.with_finalist(sweep, study._fixed(planned))
    *others, own = content["parameters"]["candidate"]["values"]
    assert others == sweep["parameters"]["candidate"]["values"]
    assert "gray" not in own
    config = RunConfig.from_mapping({**own, **planned.options, "freeze_backbone": True})
    assert (config.cut, config.fit, config.fold_count, config.best) == ("stage3", "pad", 5, "last")
    assert (config.weight_decay, config.lr) == (1e-4, 1e-4)
    seeds = len(content["parameters"]["seed"]["values"])
    assert plan_search(content, planned.options, title="three").total == 3 * seeds


def test_fine_tuning_is_refused_where_it_has_no_effect():
    with pytest.raises(UserError, match="folds"):
        plan(phases.PHASE1, DATA, fine_tune=True)
    with pytest.raises(UserError, match="refit"):
        plan(phases.SOLVED1, DATA, solved=True, refit=True, fine_tune=True)
    assert plan(phases.SOLVED1, DATA, solved=True).name != plan(phases.SOLVED1, DATA, solved=True, fine_tune=True).name


@pytest.mark.slow
def test_a_study_with_a_fine_tuned_finalist(tmp_path):
    command = sweeps.Command(tmp_path, WANDB_MODE="disabled")
    more = ["--models=mobilenet_v2", "--trials=2,2,4", "--fine_tune"]
    command("study", *more, *(f"--{name}={value}" for name, value in DATA.items()))
    (folder,) = tmp_path.glob("runs/study-*")
    facts = json.loads((folder / "study.json").read_text())
    assert facts["phases"][2]["trials"] in (6, 8)  # two or three frozen finalists, and a fine-tuned one, two seeds each
    configs = [json.loads((folder / run["run"] / "config.json").read_text()) for run in facts["phases"][2]["runs"]]
    tuned = [config for config in configs if config["unfreeze_from"] == "stage3"]
    assert len(tuned) == 2
    assert all(config["max_epochs"] == 10 for config in tuned)
    assert facts["in_folds"]["images"] == 90


@pytest.mark.slow
def test_the_whole_study_of_solved_heads(tmp_path):
    command = sweeps.Command(tmp_path, WANDB_MODE="disabled")
    words = ["study", "--models=mobilenet_v2", "--trials=2,2,4", *(f"--{name}={value}" for name, value in DATA.items())]
    done = command(*words, "--refit")
    (folder,) = tmp_path.glob("runs/study-*")
    facts = json.loads((folder / "study.json").read_text())
    assert [phase["trials"] for phase in facts["phases"]] == [2, 2, 4]
    assert facts["in_folds"]["folds"] == 5
    assert facts["validation_images"] == facts["in_folds"]["images"] == 90
    assert facts["final"]["folder"].endswith("-refit")
    assert "validated in 5 folds" in done.stdout
    assert "out of fold" in (folder / "report.html").read_text()
    assert command(*words, "--refit").stdout == done.stdout
