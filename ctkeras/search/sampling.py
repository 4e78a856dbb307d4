"""W&B's sweep methods on Optuna: which values a trial gets, how many trials there are, and which runs hyperband stops.

The rules are those of W&B's `sweeps` package (0.3.0: grid_search.py, hyperband_stopping.py), and of its page on sweep
configuration where the two differ (strict of hyperband is off by default).
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from ctkeras.errors import UserError
from ctkeras.search import space
from ctkeras.sweep import distributions

# Trials that must have finished before TPE compares them; until then bayes draws at random. Fewer than Optuna's 10 because
# sweeps have 20 to 45 runs: in 40 simulated sweeps of phase 1, with noise, 5 was as good as 3, 8 or 10, and better than 15 or
# 20.
STARTUP = 5


def total_trials(sweep: Mapping[str, Any]) -> int:
    """The number of trials of a sound sweep: its run_cap; for a grid at most the number of its points.

    Raises:
        UserError: a search without an end.
    """
    if sweep["method"] != "grid":
        if "run_cap" not in sweep:
            raise UserError(
                f"{sweep['method']} never ends without run_cap; add it to the file, as in 'run_cap: 45', or --count 45"
            )
        return int(sweep["run_cap"])
    size = space.grid_size(space.all_searched(sweep))
    return int(min(size, sweep.get("run_cap", size)))


def sample(
    study: optuna.Study, trial: optuna.trial.Trial, sweep: Mapping[str, Any], *, study_seed: int
) -> dict[str, Any]:
    """The parameters of one trial; the searched ones are suggested on the trial, so that Optuna's tools can show them.

    Each draw depends only on the study's seed, the trial's number and the parameter's name (with bayes also on the other
    trials), so a trial that was interrupted between two suggestions resumes with the same values.

    Where Optuna has the distribution, the trial's params hold the value under the parameter's name, `outer.inner` if nested.
    Otherwise they hold the number that the value is computed from: `name (unrounded)` for q_log_uniform and
    q_log_uniform_values, `name (quantile)` from 0 to 1 for the normal and beta distributions, so that TPE takes their density
    as its prior. Random draws follow the probabilities of categorical values; TPE starts from equal ones.

    Args:
        study: the trial's study; its sampler is replaced.
        trial: a running trial. Its number is the point of the grid; earlier suggestions on it stay.
        sweep: a sound sweep.
        study_seed: any whole number.

    Returns:
        The value of each parameter, constants included, nested parameters nested, as W&B would send them.
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
        number: of the trial.
        name: of the parameter, `outer.inner` if nested.
    """
    if distributions.kind_of(spec) == "constant":
        return spec["value"]
    item = space.searched_by(spec)
    return item.value(item.at(_uniform(study_seed, number, name)))


def uninformed(sweep: Mapping[str, Any], number: int, *, study_seed: int) -> dict[str, Any]:
    """The parameters of one trial as `sample` returns them while no other trial has any influence: random, or the grid's.

    Args:
        sweep: a sound sweep.
        number: of the trial.
        study_seed: any whole number.
    """
    searched = space.all_searched(sweep)
    if sweep["method"] == "grid":
        places = space.grid_cell(searched, number)
    else:
        places = {name: _uniform(study_seed, number, name) for name in searched}
    return space.nested(sweep, {name: item.value(item.at(places[name])) for name, item in searched.items()})


class _Sampler(optuna.samplers.BaseSampler):
    """Asks a function for each suggestion separately; no parameters are sampled jointly."""

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
    """A number in (0, 1) that depends only on the arguments, with any version of Python, NumPy and Optuna."""
    digest = hashlib.sha256(f"{study_seed}/{number}/{name}".encode()).digest()
    return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52


def _finished(study: optuna.Study) -> int:
    """The number of trials that TPE can learn from."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _suggest(trial: optuna.trial.Trial, label: str, asked: space.Asked) -> Any:
    """Has Optuna ask the study's sampler, unless the trial already has a suggestion."""
    if isinstance(asked, CategoricalDistribution):
        return trial.suggest_categorical(label, asked.choices)
    if isinstance(asked, IntDistribution):
        return trial.suggest_int(label, asked.low, asked.high, step=asked.step)
    return trial.suggest_float(label, asked.low, asked.high, step=asked.step, log=asked.log)
