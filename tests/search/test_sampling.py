import itertools
import json
import math
import pathlib
import random
import statistics
from collections import Counter

import numpy as np
import optuna
import pytest
import yaml
from scipy import stats

from ctkeras.config import RunConfig
from ctkeras.search import sampling, space
from ctkeras.sweep import check, distributions, file, hyperband

SHIPPED = pathlib.Path(__file__).parent.parent.parent / "sweep_yaml"
DRAWS = 10_000
# Every marginal test has a fixed seed; one in ten thousand right samplers would fail one of them under another seed.
UNLIKELY = 1e-4
CANDIDATES = [{"model_name": "resnet18", "lr": 1e-4}, {"model_name": "efficientnet_b0", "lr": 3e-3, "dropout": 0.3}]


E = math.e
# name: (specification, distribution by W&B's definition). Definitions are scipy's, not the package's.
CONTINUOUS = {
    "uniform": ({"distribution": "uniform", "min": -1, "max": 3}, stats.uniform(-1, 4)),
    "uniform inferred": ({"min": 0.0, "max": 0.5}, stats.uniform(0, 0.5)),
    "uniform inferred from one float": ({"min": 0, "max": 0.5}, stats.uniform(0, 0.5)),
    "log_uniform": ({"distribution": "log_uniform", "min": -9, "max": -2}, stats.loguniform(E**-9, E**-2)),
    "log_uniform_values": (
        {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        stats.loguniform(1e-5, 1e-2),
    ),
    "inv_log_uniform": ({"distribution": "inv_log_uniform", "min": 1, "max": 4}, stats.loguniform(E**-4, E**-1)),
    "inv_log_uniform_values": (
        {"distribution": "inv_log_uniform_values", "min": 1e-3, "max": 0.1},
        stats.loguniform(1e-3, 0.1),
    ),
    "normal": ({"distribution": "normal", "mu": 2, "sigma": 0.5}, stats.norm(2, 0.5)),
    "normal by default": ({"distribution": "normal"}, stats.norm(0, 1)),
    "log_normal": ({"distribution": "log_normal", "mu": -7, "sigma": 0.7}, stats.lognorm(0.7, scale=math.exp(-7))),
    "log_normal by default": ({"distribution": "log_normal"}, stats.lognorm(1.0)),
    "beta": ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
    "beta by default": ({"distribution": "beta"}, stats.uniform(0, 1)),
}
# name: (specification, q, distribution before rounding)
QUANTISED = {
    "q_uniform": ({"distribution": "q_uniform", "min": 16, "max": 64, "q": 16}, 16, stats.uniform(16, 48)),
    "q_uniform by default": ({"distribution": "q_uniform", "min": 0.3, "max": 9.9}, 1, stats.uniform(0.3, 9.6)),
    "q_uniform of tenths": ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}, 0.1, stats.uniform(0, 1)),
    "q_uniform off the steps": (
        {"distribution": "q_uniform", "min": 0.12, "max": 0.97, "q": 0.25},
        0.25,
        stats.uniform(0.12, 0.85),
    ),
    "q_log_uniform": ({"distribution": "q_log_uniform", "min": 0, "max": 4, "q": 2}, 2, stats.loguniform(1, E**4)),
    "q_log_uniform_values": ({"distribution": "q_log_uniform_values", "min": 1, "max": 32}, 1, stats.loguniform(1, 32)),
    "q_log_uniform_values of tenths": (
        {"distribution": "q_log_uniform_values", "min": 0.05, "max": 5, "q": 0.1},
        0.1,
        stats.loguniform(0.05, 5),
    ),
    "q_normal": ({"distribution": "q_normal", "mu": 10, "sigma": 3, "q": 0.5}, 0.5, stats.norm(10, 3)),
    "q_normal by default": ({"distribution": "q_normal"}, 1, stats.norm(0, 1)),
    "q_log_normal": ({"distribution": "q_log_normal", "mu": 1, "sigma": 0.5, "q": 1}, 1, stats.lognorm(0.5, scale=E)),
    "q_beta": ({"distribution": "q_beta", "a": 2, "b": 3, "q": 0.1}, 0.1, stats.beta(2, 3)),
}
# name: (specification, probability of each value)
DISCRETE = {
    "categorical": ({"values": ["adam", "adamw", "sgd"]}, [("adam", 1 / 3), ("adamw", 1 / 3), ("sgd", 1 / 3)]),
    "categorical by name": ({"distribution": "categorical", "values": [16, 32]}, [(16, 0.5), (32, 0.5)]),
    "categorical of all types": (
        {"values": [1, 1.0, True, "1", None, [1, 2]]},
        [(value, 1 / 6) for value in (1, 1.0, True, "1", None, [1, 2])],
    ),
    "categorical with a value twice": ({"values": [0.2, 0.2, 0.4]}, [(0.2, 2 / 3), (0.4, 1 / 3)]),
    "candidates": ({"values": CANDIDATES}, [(candidate, 0.5) for candidate in CANDIDATES]),
    "probabilities": (
        {"values": ["a", "b", "never", "c"], "probabilities": [0.1, 0.3, 0, 0.6]},
        [("a", 0.1), ("b", 0.3), ("c", 0.6)],
    ),
    "categorical_w_probabilities": (
        {"distribution": "categorical_w_probabilities", "values": [8, {"x": 1}], "probabilities": [0.9, 0.1]},
        [(8, 0.9), ({"x": 1}, 0.1)],
    ),
    "int_uniform": (
        {"distribution": "int_uniform", "min": -2, "max": 2},
        [(value, 0.2) for value in (-2, -1, 0, 1, 2)],
    ),
    "int_uniform inferred": ({"min": 1, "max": 3}, [(1, 1 / 3), (2, 1 / 3), (3, 1 / 3)]),
    "constant": ({"value": {"x": [1]}}, [({"x": [1]}, 1.0)]),
}
SPECS = {name: entry[0] for name, entry in (CONTINUOUS | QUANTISED | DISCRETE).items()}


def canonical(value):
    return json.dumps(value, sort_keys=True)  # tells 1 from 1.0 and from true


def draws(spec, count=DRAWS):
    return [sampling.draw(spec, study_seed=3, number=number, name="x") for number in range(count)]


def assert_marginal(name, values):
    """Kolmogorov-Smirnov where continuous, else chi-square over the values' probabilities."""
    if name in CONTINUOUS:
        assert all(type(value) is float for value in values)
        assert stats.kstest(values, CONTINUOUS[name][1].cdf).pvalue > UNLIKELY
        return
    if name in DISCRETE:
        chances = {canonical(value): chance for value, chance in DISCRETE[name][1]}
    else:
        _, q, before = QUANTISED[name]
        assert all(type(value) is type(q) for value in values)
        assert all(value == round(value, 10) for value in values)  # 0.3, not 0.30000000000000004
        low, high = (round(before.ppf(quantile) / q) for quantile in (1e-12, 1 - 1e-12))
        steps = range(low, high + 1)
        chances = {
            canonical(k * q if isinstance(q, int) else round(k * q, 10)): before.cdf((k + 0.5) * q)
            - before.cdf((k - 0.5) * q)
            for k in steps
        }
    counts = Counter(map(canonical, values))
    assert set(counts) <= {value for value, chance in chances.items() if chance > 0}
    if len(chances) == 1:
        return
    rare = [value for value, chance in chances.items() if chance * len(values) < 5]
    observed = [counts[value] for value in chances if value not in rare] + [sum(counts[value] for value in rare)]
    expected = [chance * len(values) for value, chance in chances.items() if value not in rare]
    expected.append(len(values) - sum(expected))
    if expected[-1] < 5:  # too few even together: they join the likeliest
        top = expected.index(max(expected))
        expected[top] += expected.pop()
        observed[top] += observed.pop()
    assert stats.chisquare(observed, expected).pvalue > UNLIKELY


def random_sweep(parameters, **others):
    return {"method": "random", "run_cap": 200, "parameters": parameters, **others}


def grid_points(sweep):
    """All combinations of a grid in the order of its trials, constants included, nested parameters nested."""
    searched = space.all_searched(sweep)
    cells = [space.grid_cell(searched, number) for number in range(space.grid_size(searched))]
    return [
        space.nested(sweep, {name: item.value(item.at(cell[name])) for name, item in searched.items()})
        for cell in cells
    ]


def run_study(sweep, trials, score=None, seed=0):
    """Trials' values from a study in memory; told with score(values), else left running."""
    study = optuna.create_study(direction="maximize")
    values = []
    for _ in range(trials):
        trial = study.ask()
        values.append(sampling.sample(study, trial, sweep, study_seed=seed))
        if score is not None:
            study.tell(trial, score(values[-1]))
    return study, values


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


# Distributions


@pytest.mark.parametrize("name", SPECS)
def test_every_distribution_is_what_wandb_says(name):
    assert list(distributions.faults(SPECS[name])) == []
    assert_marginal(name, draws(SPECS[name]))


def test_first_and_last_step_of_a_quantised_range_are_half_as_likely():
    counts = Counter(draws({"distribution": "q_uniform", "min": 16, "max": 64, "q": 16}))
    assert set(counts) == {16, 32, 48, 64}
    for edge, inner in ((16, 32), (64, 48)):
        assert 0.45 < counts[edge] / counts[inner] < 0.55


@pytest.mark.parametrize("name", SPECS)
def test_a_study_draws_the_same_and_keeps_what_it_drew(name):
    study, values = run_study(random_sweep({"x": SPECS[name]}), 200, seed=3)
    values = [point["x"] for point in values]
    assert list(map(canonical, values)) == list(map(canonical, draws(SPECS[name], 200)))
    assert_marginal(name, values)
    asked = [trial.params for trial in study.get_trials()]
    assert all(len(params) == ("value" not in SPECS[name]) for params in asked)
    if name in CONTINUOUS and "normal" not in name and "beta" not in name:
        assert [params["x"] for params in asked] == values  # what Optuna's tools show is the value itself


@pytest.mark.slow
def test_every_distribution_at_once_through_a_long_study():
    _, points = run_study(random_sweep({f"p{n}": spec for n, spec in enumerate(SPECS.values())}), DRAWS)
    for n, name in enumerate(SPECS):
        assert_marginal(name, [point[f"p{n}"] for point in points])


@pytest.mark.parametrize("name", SPECS)
def test_tpe_stays_within_each_distribution(name):
    sweep = {"method": "bayes", "run_cap": 40, "metric": {"name": "val_acc"}, "parameters": {"x": SPECS[name]}}
    rng = random.Random(0)
    _, points = run_study(sweep, 40, lambda values: rng.random())
    values = [point["x"] for point in points]
    if name in CONTINUOUS:
        low, high = CONTINUOUS[name][1].support()
        assert all(type(value) is float and low - 1e-12 <= value <= high + 1e-12 for value in values)
    elif name in DISCRETE:
        assert set(map(canonical, values)) <= {canonical(value) for value, _ in DISCRETE[name][1]}
    else:
        _, q, before = QUANTISED[name]
        low, high = before.support()
        assert all(type(value) is type(q) and value == round(value, 10) for value in values)
        assert all(low - q / 2 <= value <= high + q / 2 for value in values)


def test_optuna_gets_its_own_distributions_where_it_has_them():
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "layers": {"min": 1, "max": 4},
        "batch_size": {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16},
        "model_name": {"values": ["resnet18", "resnet34"], "probabilities": [0.9, 0.1]},
        "noise": {"distribution": "normal"},
    }
    study, _ = run_study(random_sweep(parameters), 1)
    asked = study.trials[0].distributions
    assert asked["lr"] == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert asked["layers"] == optuna.distributions.IntDistribution(1, 4)
    assert asked["batch_size"] == optuna.distributions.IntDistribution(16, 64, step=16)
    assert asked["model_name"] == optuna.distributions.CategoricalDistribution(("resnet18", "resnet34"))
    assert asked["noise (quantile)"] == optuna.distributions.FloatDistribution(0.0, 1.0)


def test_a_spread_of_nothing_and_the_ends_of_a_quantile_are_numbers():
    assert sampling.draw({"distribution": "normal", "mu": 4, "sigma": 0}, study_seed=0, number=0, name="x") == 4
    study = optuna.create_study()
    study.enqueue_trial({"x (quantile)": 0.0})
    study.enqueue_trial({"x (quantile)": 1.0})
    ends = [
        sampling.sample(study, study.ask(), random_sweep({"x": {"distribution": "log_normal"}}), study_seed=0)["x"]
        for _ in range(2)
    ]
    assert 0 < ends[0] < 1 < ends[1] < math.inf


# The same again

EVERYTHING = {
    **{f"p{n}": spec for n, spec in enumerate(SPECS.values())},
    "outer": {"parameters": {"x": {"min": 0.0, "max": 1.0}}},
}


def test_a_draw_depends_on_seed_trial_and_name_alone():
    _, first = run_study(random_sweep(EVERYTHING), 5)
    _, again = run_study(random_sweep(dict(reversed(EVERYTHING.items()))), 5)
    assert first == again
    _, fewer = run_study(random_sweep({"p0": EVERYTHING["p0"]}), 5)
    assert [point["p0"] for point in fewer] == [point["p0"] for point in first]
    _, other = run_study(random_sweep(EVERYTHING), 5, seed=1)
    continuous = [f"p{n}" for n in range(len(CONTINUOUS))]
    assert all(one[name] != two[name] for one, two in zip(first, other, strict=True) for name in continuous)
    drawn = {sampling.draw(SPECS["uniform"], study_seed=0, number=n, name=name) for n in range(50) for name in "ab"}
    assert len(drawn) == 100


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_trial_cut_off_between_two_suggestions_goes_on_to_the_same_values(method, tmp_path, monkeypatch):
    some = dict(list(EVERYTHING.items())[::3])  # few, as SQLite waits for the disk at each
    sweep = random_sweep(some, method=method, run_cap=8, metric={"name": "val_acc"})

    def start(name):
        study = optuna.create_study(storage=f"sqlite:///{tmp_path}/{name}.db", study_name="s", direction="maximize")
        for number in range(sampling.STARTUP + 1):
            trial = study.ask()
            sampling.sample(study, trial, sweep, study_seed=5)
            study.tell(trial, number % 3)
        return study, study.ask()

    study, trial = start("whole")
    whole = sampling.sample(study, trial, sweep, study_seed=5)

    study, trial = start("cut")
    suggest, left = sampling._suggest, [7]

    def cut(*asked):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return suggest(*asked)

    monkeypatch.setattr(sampling, "_suggest", cut)
    with pytest.raises(KeyboardInterrupt):
        sampling.sample(study, trial, sweep, study_seed=5)
    monkeypatch.undo()
    fresh = optuna.load_study(storage=f"sqlite:///{tmp_path}/cut.db", study_name="s")
    assert len(fresh.trials[-1].params) == 7
    taken_up = optuna.trial.Trial(fresh, fresh.trials[-1]._trial_id)
    assert canonical(sampling.sample(fresh, taken_up, sweep, study_seed=5)) == canonical(whole)


def test_what_comes_back_is_the_callers_own():
    sweep = random_sweep({"c": {"value": {"x": [1]}}, "candidate": {"values": [{"lr": [1]}]}})
    _, (point,) = run_study(sweep, 1)
    point["c"]["x"].append(2)
    point["candidate"]["lr"].append(2)
    _, (again,) = run_study(sweep, 1)
    assert again == {"c": {"x": [1]}, "candidate": {"lr": [1]}}


# Grids

GRID = {
    "method": "grid",
    "parameters": {
        "zoom": {"values": [3, 1]},
        "fixed": {"value": True},
        "outer": {"parameters": {"inner": {"values": ["b", "a"]}, "deep": {"parameters": {"x": {"min": 1, "max": 2}}}}},
        "candidate": {"values": CANDIDATES},
    },
}


def test_a_grid_is_the_product_in_wandbs_order():
    expected = [
        {
            "candidate": candidate,
            "fixed": True,
            "outer": {"deep": {"x": x}, "inner": inner},
            "zoom": zoom,
        }
        for candidate, x, inner, zoom in itertools.product(CANDIDATES, (1, 2), ("b", "a"), (3, 1))
    ]
    assert grid_points(GRID) == expected
    assert sampling.total_trials(GRID) == 16
    assert sampling.total_trials({**GRID, "run_cap": 5}) == 5
    assert sampling.total_trials({**GRID, "run_cap": 50}) == 16


def test_each_trial_of_a_grid_is_its_point():
    _, points = run_study(GRID, 16, seed=9)
    assert points == grid_points(GRID)
    with pytest.raises(ValueError, match="16 points"):
        run_study(GRID, 17)


def test_a_combination_appears_once():
    sweep = {
        "method": "grid",
        "parameters": {"a": {"values": [1, 2, 1, 1.0]}, "b": {"values": [True, 1, {"x": 1}, {"x": 1}]}},
    }
    points = grid_points(sweep)
    assert [canonical(point) for point in points] == [
        canonical({"a": a, "b": b}) for a, b in itertools.product((1, 2), (True, 1, {"x": 1}))
    ]


def test_ranges_that_a_grid_can_enumerate():
    parameters = {
        "whole": {"min": 2, "max": 4},
        "tenths": {"distribution": "q_uniform", "min": 0, "max": 0.3, "q": 0.1},
        "steps": {"distribution": "q_uniform", "min": 1, "max": 6, "q": 2},
    }
    points = grid_points({"method": "grid", "parameters": parameters})
    values = [sorted({point[name] for point in points}) for name in parameters]
    assert values == [[2, 3, 4], [0.0, 0.1, 0.2], [1, 3, 5]]  # q_uniform ends below max, as in W&B
    assert all(type(point["steps"]) is int for point in points)


def test_a_grid_of_constants_is_one_trial():
    sweep = {"method": "grid", "parameters": {"seed": {"value": 1}}}
    assert grid_points(sweep) == [{"seed": 1}]
    assert sampling.total_trials(sweep) == 1


@pytest.mark.parametrize(("name", "trials"), [("phase1", 45), ("phase2", 20), ("phase3", 10), ("smoke", 4)])
def test_the_shipped_sweeps_make_runs(name, trials):
    sweep = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    assert check.check(file.SweepFile(name, sweep, {})) == []
    assert sampling.total_trials(sweep) == trials
    rng = random.Random(0)
    _, points = run_study(sweep, trials, lambda point: rng.random())
    configs = [RunConfig.from_mapping(file.expand(point)) for point in points]
    assert all(set(point) == set(sweep["parameters"]) for point in points)
    if sweep["method"] == "grid":
        assert len({str(config) for config in configs}) == trials


# TPE


@pytest.mark.slow
def test_tpe_finds_better_than_random():
    parameters = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1.0},
        "dropout": {"min": 0.0, "max": 1.0},
        "optimizer": {"values": ["adam", "adamw", "sgd"]},
        "shift": {"distribution": "normal"},
    }

    def score(p):
        bonus = {"adam": 0.0, "adamw": 0.3, "sgd": -0.3}[p["optimizer"]]
        return bonus - (math.log10(p["lr"]) + 3) ** 2 / 4 - (p["dropout"] - 0.3) ** 2 - (p["shift"] - 1) ** 2 / 4

    def best(method, seed):
        sweep = {"method": method, "run_cap": 45, "metric": {"name": "val_acc"}, "parameters": parameters}
        return run_study(sweep, 45, score, seed)[0].best_value

    tpe, chance = ([best(method, seed) for seed in range(10)] for method in ("bayes", "random"))
    assert statistics.mean(tpe) > statistics.mean(chance)
    assert sum(t > c for t, c in zip(tpe, chance, strict=True)) >= 7


def test_bayes_begins_as_random_does_and_then_learns():
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    sweep = {"method": "bayes", "run_cap": 40, "metric": {"name": "val_acc"}, "parameters": parameters}
    _, points = run_study(sweep, 40, lambda point: -abs(point["x"] - 0.7))
    by_chance = [sampling.draw(parameters["x"], study_seed=0, number=n, name="x") for n in range(40)]
    begin = sampling.STARTUP
    assert [point["x"] for point in points[:begin]] == by_chance[:begin]
    assert all(point["x"] != one for point, one in zip(points[begin:], by_chance[begin:], strict=True))
    assert abs(statistics.median(point["x"] for point in points[20:]) - 0.7) < 0.1


def test_workers_that_ask_at_once_get_different_points():
    sweep = {
        "method": "bayes",
        "run_cap": 12,
        "metric": {"name": "val_acc"},
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    study, _ = run_study(sweep, 6, lambda point: point["x"])
    running = [sampling.sample(study, study.ask(), sweep, study_seed=0)["x"] for _ in range(4)]
    assert len(set(running)) == 4


# Hyperband

BY_MIN = {"type": "hyperband", "min_iter": 5, "eta": 3}


@pytest.mark.parametrize(
    ("stopper", "epochs", "expected"),
    [
        (BY_MIN, 30, [5, 15]),
        (BY_MIN, 45, [5, 15, 45]),
        (BY_MIN, 4, []),
        ({"min_iter": 3}, 100, [3, 9, 27, 81]),
        ({"min_iter": 3, "s": 2}, 100, [3, 9, 27, 81]),  # W&B's code does not read s beside min_iter
        ({"min_iter": 2, "s": 1, "eta": 2}, 20, [2, 4, 8, 16]),
        ({"min_iter": 2, "max_iter": 27, "s": 1}, 30, [9]),  # nor min_iter beside max_iter
        ({"min_iter": 2, "eta": 1.5}, 11, [2, 3, 4, 6, 10]),
        ({"min_iter": 1, "eta": 1.2}, 4, [1, 2, 3, 4]),
        ({"max_iter": 27, "s": 2, "eta": 3}, 30, [3, 9]),
        ({"max_iter": 27, "s": 9}, 30, [1, 3, 9]),
        ({"max_iter": 100, "s": 2}, 20, [11]),
    ],
)
def test_bands_are_wandbs(stopper, epochs, expected):
    assert hyperband.bands(stopper, epochs) == expected


def bands_of_wandb(stopper):
    """As hyperband_stopping.py of W&B's sweeps package computes them."""
    eta, found = stopper.get("eta", 3), []
    if "max_iter" in stopper:
        band = stopper["max_iter"]
        for _ in range(stopper["s"]):
            band /= eta
            if band < 1:
                break
            found.append(int(band))
    else:
        band = stopper["min_iter"]
        for _ in range(100):
            found.append(int(band))
            band *= eta
    return found


def test_bands_are_those_of_wandbs_code_for_any_numbers():
    rng = random.Random(0)
    for _ in range(2000):
        eta = rng.choice([2, 3, 4, round(rng.uniform(1.01, 4), 2), rng.uniform(1.001, 9)])
        stopper = rng.choice(
            [{"min_iter": rng.randint(1, 40)}, {"max_iter": rng.randint(9, 200), "s": rng.randint(1, 9)}]
        )
        stopper |= {"eta": eta}
        epochs = rng.randint(1, 200)
        assert hyperband.bands(stopper, epochs) == sorted({band for band in bands_of_wandb(stopper) if band <= epochs})


def survivors(curves, stopper, *, maximize=True, max_epochs=30):
    """Runs that train abreast, epoch by epoch: those that were never stopped, and all lengths."""
    lengths = dict.fromkeys(range(len(curves)), max_epochs)
    for epoch in range(1, max_epochs + 1):
        histories = {n: curves[n][: min(epoch, lengths[n])] for n in lengths}
        for n in lengths:
            others = [history for other, history in histories.items() if other != n]
            if lengths[n] == max_epochs and hyperband.should_stop(
                histories[n], others, stopper, maximize=maximize, max_epochs=max_epochs
            ):
                lengths[n] = epoch
    return [n for n in lengths if lengths[n] == max_epochs], lengths


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_losers_stop_at_their_bands_and_the_winner_never(maximize, strict):
    curves = [[(n + 1) * (1 - 0.9**epoch) / 9 for epoch in range(1, 31)] for n in range(9)]
    if not maximize:
        curves = [[-value for value in curve] for curve in curves]
    alive, lengths = survivors(curves, {**BY_MIN, "strict": strict}, maximize=maximize)
    assert alive == [8]
    assert [lengths[n] for n in range(9)] == [5] * 6 + [15] * 2 + [30]


def test_runs_one_after_another_stop_too():
    rng = random.Random(0)
    quality = list(range(30))
    rng.shuffle(quality)
    done, stopped = [], set()
    for q in quality:
        history = []
        for epoch in range(1, 31):
            history.append(q + epoch / 100)
            if hyperband.should_stop(history, done, BY_MIN, maximize=True, max_epochs=30):
                stopped.add(q)
                break
        done.append(history)
    assert quality[0] not in stopped and 29 not in stopped
    assert len(stopped) >= 15
    assert len(done[0]) == 30 and {len(history) for history in done} == {5, 15, 30}


def test_the_first_at_a_band_goes_on_and_ties_stop_nobody():
    assert not hyperband.should_stop([0.1] * 5, [], BY_MIN, maximize=True, max_epochs=30)
    assert not hyperband.should_stop([0.1] * 5, [[0.9] * 4], BY_MIN, maximize=True, max_epochs=30)  # not there yet
    assert survivors([[0.5] * 30] * 9, BY_MIN)[0] == list(range(9))
    assert survivors([[0.5] * 30] * 8 + [[0.4] * 30], BY_MIN)[0] == list(range(8))


def test_only_at_a_band_unless_strict():
    late = [[0.9] * 5] * 8
    early = [0.5] * 7  # reached the band before the others did
    assert not hyperband.should_stop(early, late, BY_MIN, maximize=True, max_epochs=30)
    assert hyperband.should_stop(early, late, {**BY_MIN, "strict": True}, maximize=True, max_epochs=30)
    assert not hyperband.should_stop([0.5] * 4, late, {**BY_MIN, "strict": True}, maximize=True, max_epochs=30)


def test_strict_compares_the_epoch_and_else_the_best_one_counts():
    fell, others = [0.9, 0.1], [[0.5, 0.5]] * 5
    stopper = {"type": "hyperband", "min_iter": 2}
    assert not hyperband.should_stop(fell, others, stopper, maximize=True, max_epochs=9)
    assert hyperband.should_stop(fell, others, {**stopper, "strict": True}, maximize=True, max_epochs=9)
    noisy = [[0.8, 0.2]] * 5  # their best counts as well, so that noise saves nobody
    assert hyperband.should_stop([0.1, 0.7], noisy, stopper, maximize=True, max_epochs=9)


def test_a_run_at_its_end_is_not_stopped():
    assert not hyperband.should_stop([0.1] * 15, [[0.9] * 15] * 8, BY_MIN, maximize=True, max_epochs=15)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_worst(maximize, worst):
    others = [[0.5] * 5] * 2
    assert hyperband.should_stop([worst] * 5, others, BY_MIN, maximize=maximize, max_epochs=30)
    assert not hyperband.should_stop([0.5] * 5, [[worst] * 5] * 5, BY_MIN, maximize=maximize, max_epochs=30)
    assert not hyperband.should_stop([worst] * 5, [[worst] * 5] * 5, BY_MIN, maximize=maximize, max_epochs=30)


def test_numbers_of_numpy_are_not_needed():
    """Values are plain Python, as run folders hold them as JSON."""
    _, points = run_study(random_sweep(EVERYTHING), 3)
    assert all(json.loads(json.dumps(point)) == point for point in points)
    assert not any(isinstance(value, np.generic) for point in points for value in point.values())
