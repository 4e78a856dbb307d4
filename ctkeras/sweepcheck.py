"""What is wrong with a sweep file: each finding names the key and the line and says what would be right."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ctkeras.config import EPOCH_METRICS, FIELDS, RunConfig, UserError, describe, parse_value
from ctkeras.sweepfile import CANDIDATE, SweepFile

TOP_KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap", "name", "description"),
    *("entity", "project", "controller", "prior_runs"),
)
METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
# W&B's distributions and the keys each needs; bounds of the log forms without _values are exponents of e.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    **dict.fromkeys(("int_uniform", "uniform", "q_uniform"), ("min", "max")),
    **dict.fromkeys(("log_uniform", "q_log_uniform", "inv_log_uniform"), ("min", "max")),
    **dict.fromkeys(("log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values"), ("min", "max")),
    **dict.fromkeys(("normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"), ()),
}
PARAMETER_KEYS = (
    *("value", "values", "min", "max", "distribution", "probabilities", "q", "mu", "sigma", "a", "b", "parameters"),
)
CONTINUOUS = ("uniform", "log_uniform", "log_uniform_values", "inv_log_uniform", "inv_log_uniform_values")
HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
LOWER_IS_BETTER = ("train_loss", "val_loss", "epoch_seconds", "memory_bytes")
AGENT_WORDS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_boolean_flags}")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong, or odd, in a sweep file."""

    line: int
    key: str
    text: str
    error: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.text}{'' if self.error else ' (warning)'}"


def check(sweep: SweepFile) -> list[Finding]:
    """All findings of a sweep file, by line.

    Args:
        sweep: from sweepfile.load.
    """
    found = []
    for path, text, error in _findings(sweep.content, sweep.repeated):
        line = next((sweep.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in sweep.lines), 1)
        found.append(Finding(line, ".".join(path), text, error))
    return sorted(found, key=lambda finding: finding.line)


def require_sound(sweep: SweepFile) -> list[Finding]:
    """Returns a file's warnings.

    Raises:
        UserError: it has errors; names the first and counts the rest.
    """
    found = check(sweep)
    errors = [finding for finding in found if finding.error]
    if errors:
        more = f" (and {len(errors) - 1} more; see: sweep check)" if len(errors) > 1 else ""
        raise UserError(f"{sweep.path}, {errors[0]}{more}")
    return found


Found = Iterator[tuple[tuple[str, ...], str, bool]]  # path, text, whether it is an error


def _findings(content: dict[str, Any], repeated: tuple[tuple[str, ...], ...]) -> Found:
    for path in repeated:
        yield path, "is given twice; the first is ignored", True
    for key in content:
        if key not in TOP_KEYS:
            yield (str(key),), f"is no key of a sweep{_near(key, TOP_KEYS)}", True
    method = content.get("method")
    if method not in METHODS:
        yield ("method",), f"must be one of {', '.join(METHODS)}; got {method!r}", True
    yield from _of_metric(content)
    yield from _of_run_cap(content, method)
    yield from _of_command(content)
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        yield ("parameters",), "must map hyperparameters to values, as in 'lr: {min: 0.0001, max: 0.01}'", True
        return
    yield from _of_parameters(parameters, ("parameters",), method)
    yield from _of_early_terminate(content, parameters)


def _of_metric(content: dict[str, Any]) -> Found:
    metric = content.get("metric")
    needed = content.get("method") == "bayes" or "early_terminate" in content
    if metric is None:
        if needed:
            yield (
                ("metric",),
                "is missing; bayes and early_terminate need 'metric: {name: val_acc, goal: maximize}'",
                True,
            )
        return
    if not isinstance(metric, dict):
        yield ("metric",), "must be a mapping, as in {name: val_acc, goal: maximize}", True
        return
    for key in set(metric) - {"name", "goal", "target"}:
        yield ("metric", str(key)), f"is no key of a metric{_near(key, ('name', 'goal', 'target'))}", True
    name, goal = metric.get("name"), metric.get("goal", "minimize")
    if goal not in GOALS:
        yield ("metric", "goal"), f"must be maximize or minimize; got {goal!r}", True
    if isinstance(name, str) and "test" in re.split(r"[_/.]", name.lower()):
        yield ("metric", "name"), f"{name} is on the test split, which a search must not see; use val_acc", True
    elif name not in EPOCH_METRICS:
        yield (
            ("metric", "name"),
            f"{name!r} is logged by no run every epoch; logged are {', '.join(EPOCH_METRICS)}",
            True,
        )
    elif goal in GOALS and (goal == "minimize") != (name in LOWER_IS_BETTER):
        right = "minimize" if name in LOWER_IS_BETTER else "maximize"
        yield (
            ("metric", "goal"),
            f"must be {right} for {name}{'' if 'goal' in metric else '; W&B minimizes unless told'}",
            True,
        )


def _of_run_cap(content: dict[str, Any], method: Any) -> Found:
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        yield ("run_cap",), f"must be a whole number from 1; got {cap!r}", True
    if cap is None and method in ("bayes", "random"):
        yield ("method",), f"{method} never ends without run_cap: add 'run_cap: 45'", method == "bayes"


def _of_command(content: dict[str, Any]) -> Found:
    command = content.get("command")
    if command is None:
        if not str(content.get("program", "")).strip():
            yield ("command",), "is missing; agents need [${env}, python, -m, ctkeras, train]", True
        return
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        yield ("command",), "must be a list of words, as in [${env}, python, -m, ctkeras, train]", True
        return
    if "ctkeras" not in command and not any("ctkeras" in word for word in command):
        return  # another program, of which nothing is known
    flags = command[command.index("train") + 1 :] if "train" in command else command
    for i, word in enumerate(flags):
        place = ("command", str(command.index(word)))
        if word.startswith("${") and word not in AGENT_WORDS:
            yield (
                place,
                f"{word} gives the train verb words it refuses; use ${{args}} or nothing, values come from W&B",
                True,
            )
        if not word.startswith("--"):
            continue
        name, _, value = word[2:].partition("=")
        if name in ("config", "debug", "resume"):
            continue
        if name not in FIELDS:
            yield place, f"the train verb has no option --{name}{_near(name, FIELDS)}", True
            continue
        yield from _of_value(name, value if "=" in word else "".join(flags[i + 1 : i + 2]), place)


def _of_parameters(parameters: Mapping[str, Any], path: tuple[str, ...], method: Any) -> Found:
    for name, spec in parameters.items():
        place = (*path, str(name))
        if not isinstance(spec, dict):
            yield place, f"must be a mapping with value, values or min and max; got {spec!r}", True
            continue
        for key in spec:
            if key not in PARAMETER_KEYS:
                yield (*place, str(key)), f"is no key of a parameter{_near(key, PARAMETER_KEYS)}", True
        if "parameters" in spec and isinstance(spec["parameters"], dict):
            yield from _of_parameters(spec["parameters"], (*place, "parameters"), method)
        elif name == CANDIDATE:
            yield from _of_candidate(spec, place)
        elif name not in FIELDS:
            yield place, f"is no hyperparameter{_near(name, (*FIELDS, CANDIDATE))}", True
        else:
            yield from _of_parameter(str(name), spec, place, method)


def _of_candidate(spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    """A candidate's values are mappings of hyperparameters that belong together."""
    values = spec.get("values", [spec["value"]] if "value" in spec else None)
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) and value for value in values):
        yield place, "needs values that are mappings, as in [{model_name: resnet18, lr: 0.001}]", True
        return
    for number, value in enumerate(values):
        for name, one in value.items():
            inner = (*place, "values", str(number), str(name))
            if name not in FIELDS:
                yield inner, f"is no hyperparameter{_near(name, FIELDS)}", True
            else:
                yield from _of_value(name, one, inner)


def _of_parameter(name: str, spec: dict[str, Any], place: tuple[str, ...], method: Any) -> Found:
    distribution = spec.get("distribution")
    if distribution is not None and distribution not in DISTRIBUTIONS:
        yield (*place, "distribution"), f"{distribution!r} is none of W&B's{_near(distribution, DISTRIBUTIONS)}", True
        return
    needs = DISTRIBUTIONS.get(str(distribution), ())
    if missing := [key for key in needs if key not in spec]:
        yield place, f"{distribution} needs {' and '.join(missing)}", True
        return
    if not distribution and not ({"value", "values"} & set(spec) or {"min", "max"} <= set(spec)):
        yield place, "needs value, values, or min and max", True
        return
    if "values" in spec:
        yield from _of_values(name, spec, place)
    if "value" in spec:
        yield from _of_value(name, spec["value"], (*place, "value"))
    if "min" in spec and "max" in spec:
        yield from _of_bounds(name, spec, place)
    if method == "grid" and _is_continuous(spec):
        yield place, "is continuous, which a grid can't enumerate: give values, or use method random or bayes", True


def _of_values(name: str, spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    values, chances = spec["values"], spec.get("probabilities")
    if not isinstance(values, list) or not values:
        yield (*place, "values"), f"must be a list of values; got {values!r}", True
        return
    for value in values:
        yield from _of_value(name, value, (*place, "values"))
    if chances is not None:
        good = isinstance(chances, list) and all(isinstance(p, int | float) and p >= 0 for p in chances)
        if not good or len(chances) != len(values) or not math.isclose(sum(chances), 1.0, abs_tol=1e-6):
            yield (
                (*place, "probabilities"),
                f"must be {len(values)} numbers from 0 that add up to 1; got {chances!r}",
                True,
            )


def _of_bounds(name: str, spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    low, high, kind = spec["min"], spec["max"], spec.get("distribution")
    if not all(_is_number(bound) for bound in (low, high)):
        yield place, f"min and max must be numbers; got {low!r} and {high!r}", True
        return
    low, high = float(low), float(high)
    if not low < high:
        yield (*place, "min"), f"must be below max; got min {low:g} and max {high:g}", True
        return
    field = FIELDS[name].type
    if field not in (int, float):
        yield place, f"{name} must be {describe(name)}, so it has values, not min and max", True
        return
    if field is int and _is_continuous(spec):
        yield place, f"{name} is a whole number; use int_uniform or q_uniform, or give values", True
        return
    if kind in ("log_uniform", "q_log_uniform", "inv_log_uniform"):
        if low > 0 and high < 1 and name in ("lr", "weight_decay"):  # values meant, the usual mistake
            text = f"{kind} takes exponents of e, so this is {math.exp(low):.4g} to {math.exp(high):.4g}; use {kind}_values"
            yield (*place, "distribution"), text, True
            return
        low, high = (math.exp(min(bound, 700.0)) for bound in (low, high))
    for key, bound in (("min", low), ("max", high)):
        value: Any = int(bound) if field is int and bound == int(bound) else bound
        for where, text, error in _of_value(name, value, (*place, key)):
            yield where, text, error


def _of_value(name: str, value: Any, place: tuple[str, ...]) -> Found:
    try:
        parse_value(name, value)
    except UserError as error:
        yield place, str(error), True


def _of_early_terminate(content: dict[str, Any], parameters: dict[str, Any]) -> Found:
    stopper = content.get("early_terminate")
    if stopper is None:
        return
    if not isinstance(stopper, dict) or stopper.get("type") != "hyperband":
        yield ("early_terminate",), "must be {type: hyperband, min_iter: 5, eta: 3}; W&B knows no other", True
        return
    for key in stopper:
        if key not in HYPERBAND_KEYS:
            yield ("early_terminate", str(key)), f"is no key of hyperband{_near(key, HYPERBAND_KEYS)}", True
    if "min_iter" not in stopper and "max_iter" not in stopper:
        yield ("early_terminate",), "needs min_iter or max_iter, in epochs", True
    for key, least in (("min_iter", 1), ("max_iter", 1), ("s", 1), ("eta", 2)):
        value = stopper.get(key, least)
        if isinstance(value, bool) or not _is_number(value) or float(value) < least:
            yield ("early_terminate", key), f"must be a number from {least}; got {value!r}", True
            return
    epochs = _most_epochs(parameters)
    least_epochs = float(stopper["min_iter"]) if "min_iter" in stopper else 1.0
    if least_epochs > epochs:
        text = f"{least_epochs:g} is above max_epochs, {epochs:g}, so that no run is ever stopped"
        yield ("early_terminate", "min_iter"), text, True


def _most_epochs(parameters: dict[str, Any]) -> float:
    """The largest max_epochs that a sweep's runs may have."""
    found = []
    for name, spec in parameters.items():
        if not isinstance(spec, dict):
            continue
        if name == "max_epochs":
            found += [v for v in (spec.get("value"), spec.get("max"), *(spec.get("values") or [])) if _is_number(v)]
        for value in spec.get("values") or []:
            if isinstance(value, dict) and _is_number(value.get("max_epochs")):
                found.append(value["max_epochs"])
    return float(max(map(float, found))) if found else float(RunConfig.max_epochs)


def _is_continuous(spec: dict[str, Any]) -> bool:
    """Whether a parameter has no list of values, by its distribution or the one W&B infers from min and max."""
    kind = spec.get("distribution")
    if kind is None and "min" in spec and "max" in spec:
        return not (isinstance(spec["min"], int) and isinstance(spec["max"], int))
    return kind in CONTINUOUS or kind in ("normal", "log_normal", "beta")


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, or the text of one: YAML 1.1 reads 1e-4 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _near(word: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
