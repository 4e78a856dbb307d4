"""W&B's sweep methods on Optuna: which values a trial gets, how many trials there are, and which runs hyperband stops.

The facts are those of W&B's `sweeps` package (0.3.0: schema.json, grid_search.py, hyperband_stopping.py), and of its page
on sweep configuration where the two differ (hyperband's strict is off unless asked for).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from ctkeras import distributions, space
from ctkeras.config import UserError

METHODS = ("grid", "random", "bayes")
TOP_KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap", "name", "description"),
    *("entity", "project", "apiVersion", "kind"),
)
W_AND_B_ONLY = ("controller", "prior_runs", "metrics", "scheduler", "job", "image_uri")
HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
ETA = 3  # W&B's default
# Trials that must have finished before TPE compares them; until then bayes draws at random. Fewer than Optuna's 10, as sweeps
# are of 20 to 45 runs: over 40 simulated ones of phase 1, with noise, 5 found as good as 3, 8 or 10, and better than 15 or 20.
STARTUP = 5


def require_supported(sweep: Mapping[str, Any]) -> None:
    """Refuses what this engine can't do, so that nothing in a sweep is ever ignored.

    Args:
        sweep: a sweep file's content.

    Raises:
        UserError: names the key, and says what would be right.
    """
    for key in sweep:
        if key in W_AND_B_ONLY:
            raise UserError(f"{key}: only W&B's own engine has it; remove it, or use sweep create and sweep agent")
        if key not in TOP_KEYS:
            raise UserError(f"{key}: is no key of a sweep{distributions.near(key, TOP_KEYS)}")
    method, cap = sweep.get("method"), sweep.get("run_cap")
    if method not in METHODS:
        raise UserError(f"method: must be one of {', '.join(METHODS)}; got {method!r}")
    if "run_cap" in sweep and not (distributions.is_whole(cap) and sweep["run_cap"] >= 1):
        raise UserError(f"run_cap: must be a whole number from 1; got {cap!r}")
    if method != "grid" and cap is None:
        raise UserError(f"run_cap: is missing; {method} never ends without it, as in 'run_cap: 45'")
    _require_program(sweep)
    _require_metric(sweep)
    _require_parameters(sweep)
    if "early_terminate" in sweep:
        _require_hyperband(sweep["early_terminate"])


def grid_points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of a grid in W&B's order, each once: names sorted, the last one varying fastest.

    Args:
        sweep: a supported sweep of method grid. As in W&B, int_uniform runs from min to max, q_uniform in steps of q from min
            to below max, and values that differ only as 1 and 1.0 do are one.

    Returns:
        One mapping of parameter to value a trial, constants included, nested parameters nested.
    """
    searched = space.all_searched(sweep)
    return [
        space.nested(sweep, {name: item.value(item.at(place[name])) for name, item in searched.items()})
        for place in (space.grid_cell(searched, number) for number in range(space.grid_size(searched)))
    ]


def total_trials(sweep: Mapping[str, Any]) -> int:
    """How many trials a supported sweep has: its run_cap, and for a grid never more than there are points."""
    if sweep["method"] != "grid":
        return sweep["run_cap"]
    size = space.grid_size(space.all_searched(sweep))
    return min(size, sweep.get("run_cap", size))


def sample(
    study: optuna.Study, trial: optuna.trial.Trial, sweep: Mapping[str, Any], *, study_seed: int
) -> dict[str, Any]:
    """The parameters of one trial; what is searched is suggested on the trial, so that Optuna's tools can show it.

    Each parameter's draw depends on the study's seed, the trial's number and the parameter's name alone (bayes: and on the
    other trials), so a trial that was cut off between two suggestions goes on to the same values.

    Where Optuna has a distribution, the trial's params hold the value under its name, nested ones as `outer.inner`. Where
    it has none, they hold what the value is made from: `name (unrounded)` for q_log_uniform and its _values form, `name
    (quantile)` from 0 to 1 for normal, beta and their kin, so that TPE takes their density for its prior. Probabilities of
    categorical values are those of random draws; TPE starts from equal ones.

    Args:
        study: the study the trial belongs to; its sampler is replaced.
        trial: a running one. Its number is the grid's point; what was suggested on it before stays.
        sweep: a supported sweep.
        study_seed: any whole number.

    Returns:
        Parameter to value, constants included, nested ones nested, as W&B would send them.
    """
    searched = space.all_searched(sweep)
    names = {name + item.label: name for name, item in searched.items()}
    method = sweep["method"]
    informed = method == "bayes" and _finished(study) >= STARTUP

    def suggestion(trial: optuna.trial.FrozenTrial, label: str, distribution: BaseDistribution) -> Any:
        name = names[label]
        if method == "grid":
            return searched[name].at(space.grid_cell(searched, trial.number)[name])
        quantile = _uniform(study_seed, trial.number, name)
        if not informed:
            return searched[name].at(quantile)
        tpe = optuna.samplers.TPESampler(
            seed=int(quantile * 2**32), n_startup_trials=0, multivariate=False, constant_liar=True
        )
        return tpe.sample_independent(study, trial, label, distribution)

    study.sampler = _Sampler(suggestion)
    chosen = {name: _suggest(trial, label, searched[name].asked) for label, name in names.items()}
    return space.nested(sweep, {name: searched[name].value(what) for name, what in chosen.items()})


def draw(spec: Mapping[str, Any], *, study_seed: int, number: int, name: str) -> Any:
    """The value that random search gives a parameter: what sample returns for it, without a study.

    Args:
        spec: the parameter, as in a sweep.
        study_seed: any whole number.
        number: the trial's.
        name: the parameter's, `outer.inner` where nested.
    """
    if distributions.kind_of(spec) == "constant":
        return spec["value"]
    item = space.searched_by(spec)
    return item.value(item.at(_uniform(study_seed, number, name)))


def bands(early_terminate: Mapping[str, Any], max_epochs: int) -> list[int]:
    """The epochs, from 1, after which hyperband compares runs, ascending, none above max_epochs.

    As W&B has them: min_iter, min_iter * eta, min_iter * eta^2 and so on; or max_iter / eta, max_iter / eta^2, s of them. With
    min_iter, W&B's code overlooks s; here it is what W&B's page calls it, the number of bands.

    Args:
        early_terminate: type hyperband with min_iter, or max_iter and s; eta 3 unless given.
        max_epochs: what a run trains for when nothing stops it.
    """
    eta, found = early_terminate.get("eta", ETA), set()
    if "max_iter" in early_terminate:
        for n in range(early_terminate["s"]):
            band = early_terminate["max_iter"] / eta ** (n + 1)
            if band < 1:
                break
            found.add(int(band))
    else:
        for n in range(early_terminate.get("s", 100)):  # 100: W&B's own limit
            band = early_terminate["min_iter"] * eta**n
            if band >= max_epochs + 1:
                break
            found.add(int(band))
    return sorted(band for band in found if band <= max_epochs)


def should_stop(
    history: Sequence[float],
    others: Sequence[Sequence[float]],
    early_terminate: Mapping[str, Any],
    *,
    maximize: bool,
    max_epochs: int,
) -> bool:
    """Whether hyperband stops a run after the epoch it has just finished: it is not among the best 1 / eta at its last band.

    A run is compared when it reaches a band, with all that have reached it: by its best epoch up to there, or, when `strict`,
    by the band's epoch itself, and then again after every later epoch, as more runs may have arrived. The best ceil(n / eta)
    of n runs go on, and whoever equals the last of them; so the first to arrive always does. What is not finite is worse
    than any number.

    W&B's published rule (hyperband_stopping.py) differs in these ways, by which it stops fewer. It lets floor(n / eta) + 1 go
    on: 4 of 9, not 3. Without strict it sets a run's best epoch against the others' values at the very band, which a noisy run
    passes easily. It looks at a run from time to time, so some epochs after the band, or never if the run is quick. It leaves
    NaN out of a history, so that a diverged run never reaches the next band.

    Args:
        history: the run's metric after each epoch so far.
        others: the same of every other run of the sweep: finished, stopped and running ones.
        early_terminate: see bands; strict is false unless given.
        maximize: the goal.
        max_epochs: what the run trains for when nothing stops it.
    """
    reached = [band for band in bands(early_terminate, max_epochs) if band <= len(history)]
    strict = early_terminate.get("strict", False)
    if not reached or len(history) >= max_epochs or not (strict or len(history) == reached[-1]):
        return False
    band = reached[-1]

    def loss(run: Sequence[float]) -> float:
        losses = [(-value if maximize else value) if math.isfinite(value) else math.inf for value in run[:band]]
        return losses[-1] if strict else min(losses)

    losses = sorted(loss(run) for run in (history, *others) if len(run) >= band)
    go_on = math.ceil(len(losses) / early_terminate.get("eta", ETA) - 1e-9)  # a quotient may come out a hair too high
    return loss(history) > losses[max(go_on, 1) - 1]


class _Sampler(optuna.samplers.BaseSampler):
    """Asks a function for each single suggestion, and makes none jointly."""

    def __init__(self, suggestion: Callable[[optuna.trial.FrozenTrial, str, BaseDistribution], Any]) -> None:
        self._suggestion = suggestion

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Nothing: see sample_independent."""
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Nothing: see sample_independent."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        """One parameter's suggestion."""
        return self._suggestion(trial, param_name, param_distribution)


def _uniform(study_seed: int, number: int, name: str) -> float:
    """A number in (0, 1) that depends on nothing else, whichever the version of Python, NumPy or Optuna."""
    digest = hashlib.sha256(f"{study_seed}/{number}/{name}".encode()).digest()
    return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52


def _finished(study: optuna.Study) -> int:
    """How many trials TPE can learn from."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _suggest(trial: optuna.trial.Trial, label: str, asked: space.Asked) -> Any:
    """Has Optuna ask the study's sampler, unless the trial holds a suggestion already."""
    if isinstance(asked, CategoricalDistribution):
        return trial.suggest_categorical(label, asked.choices)
    if isinstance(asked, IntDistribution):
        return trial.suggest_int(label, asked.low, asked.high, step=asked.step)
    return trial.suggest_float(label, asked.low, asked.high, step=asked.step, log=asked.log)


def _require_program(sweep: Mapping[str, Any]) -> None:
    """No command is started here, so that one which says more than `ctkeras train` would be ignored."""
    command, right = sweep.get("command"), "[${env}, python, -m, ctkeras, train]"
    if command is None and "program" in sweep:
        raise UserError(f"program: runs are ctkeras' own here; {sweep['program']} needs sweep create and sweep agent")
    if command is None:
        return
    if not isinstance(command, list) or not any("ctkeras" in str(word) for word in command):
        raise UserError(f"command: starts something else, and runs are ctkeras' own here: {right}")
    for word in map(str, command):
        if word.startswith("--") and word != "--debug":
            name = word[2:].partition("=")[0]
            raise UserError(
                f"command: {word} is lost, as no command is started here; add 'parameters: {name}: {{value: …}}'"
            )


def _require_metric(sweep: Mapping[str, Any]) -> None:
    metric = sweep.get("metric")
    if metric is None and sweep["method"] != "bayes" and "early_terminate" not in sweep:
        return
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        raise UserError("metric: must be a mapping, as in {name: val_acc, goal: maximize}")
    for key in metric:
        if key not in ("name", "goal"):
            raise UserError(f"metric.{key}: is not for the local engine, which knows name and goal; remove it")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise UserError(f"metric.goal: must be minimize or maximize; got {metric['goal']!r}")


def _require_parameters(sweep: Mapping[str, Any]) -> None:
    names = set()
    for path, spec in space.leaves(sweep.get("parameters")):
        name = ".".join(path)
        if name in names:
            raise UserError(f"parameters.{name}: there are two, one of them nested")
        names.add(name)
        try:
            distributions.require(spec)
            kind = distributions.kind_of(spec)
            if sweep["method"] == "grid" and kind not in distributions.GRID:
                raise UserError(f"{kind} can't be enumerated by a grid: give values, or use method random or bayes")
        except UserError as error:
            raise UserError(f"parameters.{name}: {error}") from None


def _require_hyperband(stopper: Any) -> None:
    if not isinstance(stopper, Mapping) or stopper.get("type") != "hyperband":
        raise UserError("early_terminate.type: must be hyperband, as in {type: hyperband, min_iter: 5, eta: 3}")
    for key in stopper:
        if key not in HYPERBAND_KEYS:
            text = f"is no key of hyperband{distributions.near(key, HYPERBAND_KEYS)}"
            raise UserError(f"early_terminate.{key}: {text}")
    if ("min_iter" in stopper) == ("max_iter" in stopper):
        raise UserError("early_terminate: needs min_iter, or max_iter and s, and not both")
    if "max_iter" in stopper and "s" not in stopper:
        raise UserError("early_terminate.s: is missing; max_iter needs it, the number of bands below max_iter")
    for key in ("min_iter", "max_iter", "s"):
        if key in stopper and not (distributions.is_whole(stopper[key]) and stopper[key] >= 1):
            raise UserError(f"early_terminate.{key}: must be a whole number from 1; got {stopper[key]!r}")
    eta = stopper.get("eta", ETA)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 1 < eta < math.inf:
        raise UserError(f"early_terminate.eta: must be a number above 1; got {eta!r}")
    if not isinstance(stopper.get("strict", False), bool):
        raise UserError(f"early_terminate.strict: must be true or false; got {stopper['strict']!r}")
    if "max_iter" in stopper and not bands(stopper, stopper["max_iter"]):
        raise UserError("early_terminate.max_iter: must be at least eta, or there is no epoch to stop at")
