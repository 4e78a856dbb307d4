"""Every hyperparameter's type, bounds and text forms, taken from FIELDS so that a new one is covered by being declared."""

import doctest
import json
import math
import re
from pathlib import Path

import pytest

from ctkeras import config
from ctkeras.cli.idle import without_effect
from ctkeras.cli.options import load_yaml, reference_table
from ctkeras.config import AUTO, FIELDS, RunConfig, parse_value
from ctkeras.errors import UserError

NUMBERS = [name for name, field in FIELDS.items() if field.type in (int, float)]
WHOLE = [name for name in NUMBERS if FIELDS[name].type is int]
BOOLS = [name for name, field in FIELDS.items() if field.type is bool]
TEXTS = [name for name, field in FIELDS.items() if field.type is str]
CHOICES = [name for name in TEXTS if FIELDS[name].metadata["choices"]]
BOUNDS = [
    pytest.param(name, side, id=f"{name}-{side}")
    for name in NUMBERS
    for side in ("low", "high", "above", "below")
    if FIELDS[name].metadata[side] is not None
]
BEYOND = {"low": -math.inf, "high": math.inf, "above": -math.inf, "below": math.inf}


def next_to(name, value, towards):
    if FIELDS[name].type is int:
        return int(value) + (1 if towards > value else -1)
    return math.nextafter(float(value), towards)


@pytest.mark.parametrize(("name", "side"), BOUNDS)
def test_a_bound_holds_to_the_last_digit(name, side):
    bound = FIELDS[name].metadata[side]
    bound = int(bound) if FIELDS[name].type is int else float(bound)
    allowed, refused = bound, next_to(name, bound, BEYOND[side])
    if side in ("above", "below"):  # exclusive: the bound is out, its neighbour inside is in
        allowed, refused = next_to(name, bound, -BEYOND[side]), bound
    assert getattr(RunConfig(**{name: allowed}), name) == allowed
    with pytest.raises(UserError, match=name) as caught:
        RunConfig(**{name: refused})
    assert repr(refused) in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_unbounded_below(name):
    with pytest.raises(UserError, match=name):
        parse_value(name, -1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_finite(name, value):
    with pytest.raises(UserError, match=name):
        parse_value(name, value)


@pytest.mark.parametrize("value", [True, False, None, "", "abc", "True", "1,5", [1], {"value": 1}, b"x"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_no_truth_value_text_or_list(name, value):
    with pytest.raises(UserError, match=name):
        parse_value(name, value)


@pytest.mark.parametrize("value", [32.5, "32.5", 1e-9])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_has_no_fraction(name, value):
    with pytest.raises(UserError, match="a whole number"):
        parse_value(name, value)


@pytest.mark.parametrize("name", ["batch_size", "lr"])
def test_an_absurdly_large_number_is_a_users_mistake(name):
    # A float holds no such number; YAML gives it as an int.
    with pytest.raises(UserError, match=name):
        parse_value(name, 10**400 if name == "batch_size" else -(10**400))


@pytest.mark.parametrize("value", [2, -1, 1.5, None, "", "yes", "maybe", "truefalse", []])
@pytest.mark.parametrize("name", BOOLS)
def test_a_truth_value_is_true_or_false(name, value):
    with pytest.raises(UserError, match=f"{name} must be true or false"):
        parse_value(name, value)


@pytest.mark.parametrize("value", [1, 1.5, True, None, ["phantom"], b"phantom"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_is_text(name, value):
    if name == "fold" and type(value) is int:
        return  # a fold may be given as its number
    with pytest.raises(UserError, match=name):
        parse_value(name, value)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_exact(name):
    choices = FIELDS[name].metadata["choices"]
    for choice in choices:
        assert getattr(RunConfig(**{name: choice}), name) == choice
        for other in {choice.upper(), f" {choice}", choice[:-1], f"{choice}x"} - set(choices):
            with pytest.raises(UserError) as caught:
                parse_value(name, other)
            assert all(allowed in str(caught.value) for allowed in choices)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", "3", 3.0),
        ("dropout", ".5", 0.5),
        ("batch_size", "32", 32),
        ("batch_size", 32.0, 32),
        ("batch_size", " 32 ", 32),
        ("seed", "0", 0),
        ("freeze_backbone", "True", True),
        ("freeze_backbone", "FALSE", False),
        ("freeze_backbone", "0", False),
        ("freeze_backbone", 1, True),
        ("data", Path("a") / "b", str(Path("a") / "b")),
    ],
)
def test_values_arrive_as_their_types(name, text, value):
    parsed = parse_value(name, text)
    assert (parsed, type(parsed)) == (value, type(value))
    assert getattr(RunConfig.from_mapping({name: text}), name) == value


@pytest.mark.parametrize("name", FIELDS)
def test_a_default_is_allowed_and_survives_as_text(name):
    default = FIELDS[name].default
    for form in (default, str(default)):
        parsed = parse_value(name, form)
        assert (parsed, type(parsed)) == (default, str if default == AUTO else FIELDS[name].type)


@pytest.mark.parametrize("name", FIELDS)
def test_a_misspelt_name_brings_the_right_one(name):
    for misspelt in (f"{name}x", name.replace("_", "-") + "_"):
        with pytest.raises(UserError, match=f"did you mean {name}\\?") as caught:
            RunConfig.from_mapping({misspelt: FIELDS[name].default})
        assert repr(misspelt) in str(caught.value)


def test_a_name_near_none_brings_them_all():
    with pytest.raises(UserError) as caught:
        RunConfig.from_mapping({"zzzzzz": 1})
    assert all(name in str(caught.value) for name in FIELDS)


def test_warmup_ends_before_training_does():
    assert RunConfig(max_epochs=2, warmup_epochs=1.9).warmup_epochs == 1.9
    assert RunConfig(max_epochs=1, warmup_epochs=0).warmup_epochs == 0
    with pytest.raises(UserError, match="warmup_epochs must be below max_epochs"):
        RunConfig(max_epochs=2, warmup_epochs=2)


# What only epochs read.
SOLVED_IDLE = ("lr", "scheduler", "warmup_epochs", "batch_size", "max_epochs", "early_stopping", "dropout")
SOLVED_IDLE += ("best",)
# What is given, and which of it changes nothing.
IDLE = [
    ({}, set()),
    ({"weights_dir": "w", "pretrained": False}, {"weights_dir"}),
    ({"head_epochs": 3}, {"head_epochs"}),
    ({"head_epochs": 3, "unfreeze_from": "stage4"}, set()),
    ({"head_epochs": 30, "unfreeze_from": "stage4"}, {"unfreeze_from"}),
    ({"head_epochs": 3, "freeze_backbone": False}, set()),
    ({"head_epochs": 29, "unfreeze_from": "stage4"}, set()),
    ({"head_epochs": 29, "freeze_backbone": False}, set()),
    ({"head_epochs": 30, "freeze_backbone": False}, {"freeze_backbone"}),
    ({"unfreeze_from": "stage4", "freeze_backbone": False}, {"unfreeze_from"}),
    ({"freeze_batch_norm": False}, {"freeze_batch_norm"}),
    ({"freeze_batch_norm": False, "unfreeze_from": "stage4"}, set()),
    ({"freeze_batch_norm": False, "unfreeze_from": "stage4", "pretrained": False}, {"freeze_batch_norm"}),
    ({"feature_cache": True, "freeze_backbone": False}, {"feature_cache"}),
    ({"feature_cache": True, "freeze_backbone": False, "head_epochs": 1}, set()),
    ({"feature_views": 4}, set()),
    ({"feature_views": 4, "freeze_backbone": False}, {"feature_views"}),
    ({"feature_views": 4, "augmentation": 0}, {"feature_views"}),
    ({"feature_views": 4, "augmentation": 0.5}, set()),
    ({"feature_views": 4, "feature_cache": False}, {"feature_views"}),
    ({"augmentation": 0.5}, {"augmentation"}),
    ({"augmentation": 0}, set()),
    ({"augmentation": 0.5, "feature_cache": False}, set()),
    ({"augmentation": 0.5, "freeze_backbone": False}, set()),
    ({"augmentation": 0.5, "unfreeze_from": "stage4"}, {"augmentation"}),
    ({"augmentation": 0.5, "feature_views": 2}, set()),
    ({"model_name": "small_cnn"}, set()),
    ({"model_name": "small_cnn", "augmentation": 0.5, "lr": 0.003, "dropout": 0.1}, set()),
    *(({"model_name": "small_cnn", name: FIELDS[name].default}, {name}) for name in config.SCRATCH_IDLE),
    ({"model_name": "small_cnn", "freeze_backbone": True, "pretrained": True}, {"freeze_backbone", "pretrained"}),
    ({"model_name": "small_cnn", "head_epochs": 30, "weights_dir": "w"}, {"head_epochs", "weights_dir"}),
    ({"early_stopping": 30, "lr": 0.01}, {"early_stopping"}),
    ({"early_stopping": 3, "lr": 0.01, "best": "last"}, {"early_stopping"}),
    ({"early_stopping": 29, "lr": 0.01}, set()),
    *(({name: FIELDS[name].default}, {name}) for name in SOLVED_IDLE),
    ({"optimizer": "lbfgs", "lr": 0.01, "weight_decay": 0.1, "class_weighting": "none"}, {"lr"}),
    *(({name: FIELDS[name].default, "optimizer": "adamw"}, set()) for name in SOLVED_IDLE),
    ({"fold": "refit"}, set()),
    ({"fold": "0", "folds": 0}, {"fold"}),
    ({"fold": "all", "lr": 0.01}, {"fold"}),
]


@pytest.mark.parametrize(
    ("given", "idle"), IDLE, ids=[", ".join(f"{n} {v}" for n, v in given.items()) for given, _ in IDLE]
)
def test_what_changes_nothing_is_told_once_and_only_where_it_was_given(given, idle):
    made = RunConfig(**given)
    lines = without_effect(made, given)
    assert {line.partition(" ")[0] for line in lines} == idle
    assert len(lines) == len(idle)
    assert all(" has no effect because " in line for line in lines)
    assert without_effect(made, ()) == []
    assert without_effect(made, given, searched=FIELDS) == []


def test_a_network_without_imagenet_weights_is_always_trained_whole():
    given = {
        "pretrained": True,
        "freeze_backbone": True,
        "unfreeze_from": "stage4",
        "head_epochs": 3,
        "weights_dir": "w",
    }
    plain, made = RunConfig(model_name="small_cnn"), RunConfig(model_name="small_cnn", **given)
    assert made == plain
    assert (made.pretrained, made.freeze_backbone, made.cut, made.head_epochs) == (False, False, "input", 0)
    assert RunConfig.from_mapping(made.to_dict()) == made


@pytest.mark.parametrize(
    ("given", "lr"),
    [
        ({"model_name": "small_cnn"}, 3e-3),
        ({}, 0.03),
        ({"freeze_backbone": False}, 1e-4),
        ({"unfreeze_from": "stage4"}, 1e-4),
    ],
)
def test_the_usual_learning_rate_depends_on_what_is_trained(given, lr):
    assert config.default_lr(RunConfig(**given)) == lr


IDLE_FROZEN = [
    ({"augmentation": 0.0}, {"augmentation": 2.0}),
    ({}, {"head_epochs": 1}),
    ({}, {"freeze_batch_norm": False}),
    ({"augmentation": 0.0}, {"augmentation": 0.0, "feature_views": 3}),
    ({"feature_cache": False}, {"feature_cache": False, "feature_views": 3}),
    ({}, {"early_stopping": 2}),
    ({"head_epochs": 2, "lr": 0.03}, {"head_epochs": 2, "lr": 0.03, "unfreeze_from": "stage4"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), IDLE_FROZEN)
def test_what_is_said_to_change_nothing_changes_nothing(tmp_path, image_folder, one, other):
    from ctkeras.training.train import train

    histories = []
    for number, given in enumerate((one, other)):
        small = {"model_name": "mobilenet_v2", "pretrained": False, "image_size": 32, "batch_size": 8, "max_epochs": 2}
        made = RunConfig(data=str(image_folder), output_dir=str(tmp_path), **{**small, **given})
        folder = train(made, run_id=str(number)).folder
        lines = (folder / "history.csv").read_text().splitlines()
        histories.append([line.split(",")[:5] for line in lines])  # epoch, accuracies and losses
    assert histories[0] == histories[1]
    assert without_effect(made, [name for name in other if other[name] != one.get(name)])


def test_data_falls_back_to_the_environment(monkeypatch):
    monkeypatch.setenv("CTKERAS_DATA", "/from/the/environment")
    assert RunConfig().data == "/from/the/environment"
    assert RunConfig(data="phantom").data == "phantom"
    monkeypatch.delenv("CTKERAS_DATA")
    assert RunConfig().data == ""


def test_a_config_survives_json():
    changed = {}
    for name, field in FIELDS.items():
        if field.type is bool:
            changed[name] = not field.default
        elif field.type is str:
            changed[name] = field.metadata["choices"][-1] if field.metadata["choices"] else f"some {name}"
        else:
            changed[name] = field.metadata["high"] or 0.25 * (field.type is float) or 7
    made = RunConfig(**changed | {"optimizer": "sgd", "fold": "2", "window": "1500/-600", "slices": "middle:3"})
    assert list(made.to_dict()) == list(FIELDS)
    assert RunConfig.from_mapping(json.loads(json.dumps(made.to_dict()))) == made != RunConfig()


def test_yaml_values_become_a_config(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-4\nfreeze_backbone: no\nbatch_size: 16\nmodel_name: resnet18 # größer\n", encoding="utf-8")
    made = RunConfig.from_mapping(load_yaml(path))
    assert (made.lr, made.freeze_backbone, made.batch_size, made.model_name) == (1e-4, False, 16, "resnet18")
    path.write_text("# nothing yet\n")
    assert load_yaml(path) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"lr: [1",
        b"lr: 1\n  dropout: 2",
        b"- lr\n- dropout",
        b"just text",
        b"3",
        b"1: 2",
        b"\xff\xfe\x00",
        b"lr: \xe4",
        b"lr: 1\n---\nlr: 2",
        b"lr: !!python/object/apply:os.getcwd []",
        b"seed: 2026-02-30",  # PyYAML takes it for a date, and there is no such day
        b"{[1]: 2}",
    ],
)
def test_a_bad_yaml_file_is_named(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_yaml(path)


@pytest.mark.parametrize("name", FIELDS)
def test_a_name_given_twice_is_told_with_its_second_line(tmp_path, name):
    path = tmp_path / "twice.yaml"
    other = "lr" if name != "lr" else "seed"
    path.write_text(f"{name}: 1\n{other}: 1\n\n{name}: 1\n")
    with pytest.raises(UserError, match=rf"twice\.yaml, line 4: {name} occurs twice"):
        load_yaml(path)


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, name):
    path = tmp_path / "values.yaml"
    path.write_text(f"# what is tried\n\n{name}: [1]\n")
    with pytest.raises(UserError, match=rf"values\.yaml, line 3: {name} must be"):
        load_yaml(path)
    path.write_text(f"\n{name}_: 1\n")
    with pytest.raises(UserError, match=rf"values\.yaml, line 2: unknown hyperparameter .* did you mean {name}\?"):
        load_yaml(path)


@pytest.mark.parametrize("text", ["lr: &a [*a]", "a: &a [1, 2]\nb: &b [*a, *a]\nlr: [*b, *b]"])
def test_aliases_in_a_file_end(tmp_path, text):
    path = tmp_path / "aliases.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"aliases\.yaml, line"):
        load_yaml(path)


@pytest.mark.parametrize("name", CHOICES)
def test_a_misspelt_choice_brings_the_right_one(name):
    for choice in FIELDS[name].metadata["choices"]:
        others = set(FIELDS[name].metadata["choices"]) - {choice}
        for misspelt in (f"{choice}_", f"{choice[:1]}{choice}"):
            if misspelt not in others:
                with pytest.raises(UserError, match=f"did you mean {choice}\\?"):
                    parse_value(name, misspelt)
    with pytest.raises(UserError) as caught:
        parse_value(name, "zzzzzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_an_unreadable_yaml_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match="cannot read") as caught:
        load_yaml(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_reference_table_has_every_hyperparameter_once():
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in reference_table().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"`{name}`" for name in FIELDS]
    for (_, allowed, default, meaning), (name, field) in zip(rows, FIELDS.items(), strict=True):
        assert parse_value(name, default) == field.default
        assert meaning
        assert all(choice in allowed for choice in field.metadata["choices"])


def test_epoch_metrics_are_no_hyperparameters_but_lr():
    assert set(config.EPOCH_METRICS) & set(FIELDS) == {"lr"}


@pytest.mark.parametrize(
    ("given", "deciding"),
    [
        ({"weights_dir": "w", "pretrained": False}, ("weights_dir", "pretrained")),
        ({"head_epochs": 3}, ("head_epochs", "freeze_backbone", "unfreeze_from")),
        ({"augmentation": 0.5}, ("augmentation", "freeze_backbone", "feature_cache", "feature_views")),
        ({"early_stopping": 30, "lr": 0.01}, ("early_stopping", "max_epochs")),
        ({"scheduler": "step"}, ("scheduler", "optimizer", "lr", "freeze_backbone", "unfreeze_from")),
    ],
)
def test_nothing_is_said_of_what_a_search_has_yet_to_decide(given, deciding):
    made = RunConfig(**given)
    assert without_effect(made, given, searched=set(FIELDS) - set(deciding))
    for name in deciding:
        assert without_effect(made, given, searched={name}) == []


@pytest.mark.parametrize("letter", "/\\#?%:")
def test_a_projects_name_is_one_that_wandb_takes(letter):
    assert RunConfig(project="chest-ct_2.1").project == "chest-ct_2.1"
    with pytest.raises(UserError, match=f"without {re.escape(letter)}; got"):
        RunConfig(project=f"a{letter}b")


@pytest.mark.parametrize(
    ("given", "cut"),
    [({}, "head"), ({"unfreeze_from": "stage3"}, "stage3"), ({"freeze_backbone": False}, "input")],
)
def test_where_training_begins(given, cut):
    assert RunConfig(**given).cut == cut
    assert RunConfig(**{"unfreeze_from": "stage2", **given, "freeze_backbone": False}).cut == "input"


def test_the_example_of_a_config_runs_as_written():
    test = doctest.DocTestParser().get_doctest(RunConfig.__doc__, {"RunConfig": RunConfig}, "RunConfig", None, 0)
    assert len(test.examples) == 1
    assert doctest.DocTestRunner().run(test).failed == 0


# What is given, and the optimizer, lr, weight_decay and number of folds that auto then stands for.
AUTOS = [
    ({}, "lbfgs", 0.03, AUTO, 5),
    ({"weight_decay": 0.1}, "lbfgs", 0.03, 0.1, 5),
    ({"folds": 0}, "lbfgs", 0.03, AUTO, 0),
    ({"folds": 3, "fold": "refit"}, "lbfgs", 0.03, AUTO, 3),
    ({"folds": "AUTO", "lr": " auto "}, "lbfgs", 0.03, AUTO, 5),
    ({"lr": 0.01}, "adamw", 0.01, 1e-4, 0),
    ({"lr": 0.01, "folds": 5, "fold": 4}, "adamw", 0.01, 1e-4, 5),
    ({"lr": 0.01, "optimizer": "lbfgs"}, "lbfgs", 0.01, AUTO, 5),
    ({"optimizer": "adam"}, "adam", 0.03, 1e-4, 0),
    ({"optimizer": "sgd", "weight_decay": 0}, "sgd", 0.03, 0.0, 0),
    ({"mixup_alpha": 0.2}, "adamw", 0.03, 1e-4, 0),
    ({"feature_cache": False}, "adamw", 0.03, 1e-4, 0),
    ({"unfreeze_from": "stage4"}, "adamw", 1e-4, 1e-4, 0),
    ({"freeze_backbone": False}, "adamw", 1e-4, 1e-4, 0),
    ({"model_name": "small_cnn"}, "adamw", 3e-3, 1e-4, 0),
]


@pytest.mark.parametrize(
    ("given", "optimizer", "lr", "weight_decay", "folds"), AUTOS, ids=[str(row[0]) for row in AUTOS]
)
def test_what_auto_stands_for(given, optimizer, lr, weight_decay, folds):
    made = RunConfig(**given)
    assert (made.optimizer, made.lr, made.weight_decay, made.fold_count) == (optimizer, lr, weight_decay, folds)
    stored = json.loads(json.dumps(made.to_dict()))
    assert RunConfig.from_mapping(stored) == made  # a config.json gives the run that it was written by


@pytest.mark.parametrize(
    ("given", "need"),
    [
        ({"freeze_backbone": False}, "freeze_backbone true"),
        ({"unfreeze_from": "stage3"}, "unfreeze_from head"),
        ({"mixup_alpha": 0.4}, "mixup_alpha 0"),
        ({"feature_cache": False}, "feature_cache true"),
        ({"model_name": "small_cnn"}, "freeze_backbone true"),
    ],
)
def test_only_a_head_on_cached_features_is_solved(given, need):
    with pytest.raises(UserError, match=f"optimizer lbfgs solves a head on cached features, so it needs {need}$"):
        RunConfig(optimizer="lbfgs", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 1}, "folds must be 0 or at least 2; got 1"),
        ({"folds": 21}, "folds must be a whole number, 0 <= folds <= 20, or auto; got 21"),
        ({"fold": "some"}, "fold must be all, refit or a number from 0; got 'some'"),
        ({"fold": -1}, "fold must be all, refit or a number from 0; got '-1'"),
        ({"fold": "5"}, r"fold must be below folds \(5\); got 5"),
        ({"folds": 3, "fold": 3}, r"fold must be below folds \(3\); got 3"),
        ({"folds": 5, "optimizer": "sgd", "fold": "refit"}, "fold refit needs optimizer lbfgs; with sgd"),
    ],
)
def test_a_fold_that_cannot_be_trained_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        RunConfig(**given)


def test_auto_is_a_value_only_where_it_is_declared():
    assert {name for name, field in FIELDS.items() if field.metadata["auto"]} == {
        *("optimizer", "lr", "weight_decay", "folds")
    }
    for name in FIELDS:
        assert config.describe(name).endswith("auto") == FIELDS[name].metadata["auto"]
    for name in ("batch_size", "dropout", "freeze_backbone", "crop", "model_name"):
        with pytest.raises(UserError, match=name):
            parse_value(name, "auto")
