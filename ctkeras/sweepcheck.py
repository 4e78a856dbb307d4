"""What is wrong with a sweep file: each finding names the key and the line and says what would be right."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ctkeras import distributions, sweepfile
from ctkeras.config import EPOCH_METRICS, FIELDS, RunConfig, UserError, describe, parse_value
from ctkeras.distributions import near
from ctkeras.sweepfile import CANDIDATE, SweepFile

TOP_KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap", "name", "description"),
    *("entity", "project", "controller", "apiVersion", "kind"),
)
METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
PARAMETER_KEYS = (
    *("value", "values", "min", "max", "distribution", "probabilities", "q", "mu", "sigma", "a", "b", "parameters"),
)
METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
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
            yield (str(key),), f"is no key of a sweep{near(key, TOP_KEYS)}", True
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
    yield from _of_warmup(parameters, ("parameters",))
    yield from _of_early_terminate(content, parameters)


def _of_metric(content: dict[str, Any]) -> Found:
    metric = content.get("metric")
    needed = content.get("method") == "bayes" or "early_terminate" in content
    if metric is None:
        if needed:
            text = "is missing; bayes and early_terminate need 'metric: {name: val_acc, goal: maximize}'"
            yield ("metric",), text, True
        return
    if not isinstance(metric, dict):
        yield ("metric",), "must be a mapping, as in {name: val_acc, goal: maximize}", True
        return
    for key in metric:
        if key not in METRIC_KEYS:
            yield ("metric", str(key)), f"is no key of a metric{near(key, METRIC_KEYS)}", True
    name, goal = metric.get("name"), metric.get("goal", "minimize")
    if goal not in GOALS:
        yield ("metric", "goal"), f"must be maximize or minimize; got {goal!r}", True
    if isinstance(name, str) and "test" in re.split(r"[_/.]", name.lower()):
        yield ("metric", "name"), f"{name} is on the test split, which a search must not see; use val_acc", True
    elif name not in EPOCH_METRICS:
        text = f"{name!r} is logged by no run every epoch; logged are {', '.join(EPOCH_METRICS)}"
        yield ("metric", "name"), text, True
    elif goal in GOALS and (goal == "minimize") != (name in LOWER_IS_BETTER):
        right = "minimize" if name in LOWER_IS_BETTER else "maximize"
        text = f"must be {right} for {name}{'' if 'goal' in metric else '; W&B minimizes unless told'}"
        yield ("metric", "goal"), text, True


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
    if "ctkeras" in command and (verb := command[command.index("ctkeras") + 1 :][:1]) != ["train"]:
        yield ("command",), f"must call ctkeras train; it calls ctkeras {''.join(verb)}", True
        return
    flags = command[command.index("train") + 1 :] if "train" in command else command
    for i, word in enumerate(flags):
        place = ("command", str(command.index(word)))
        if word.startswith("${") and word not in AGENT_WORDS:
            text = f"{word} gives the train verb words it refuses; use ${{args}} or nothing, values come from W&B"
            yield place, text, True
        if not word.startswith("--"):
            continue
        name, _, value = word[2:].partition("=")
        if name in ("config", "debug", "resume"):
            continue
        if name not in FIELDS:
            yield place, f"the train verb has no option --{name}{near(name, FIELDS)}", True
            continue
        yield from _of_value(name, value if "=" in word else "".join(flags[i + 1 : i + 2]), place)


def _of_parameters(parameters: Mapping[str, Any], path: tuple[str, ...], method: Any) -> Found:
    for name, spec in parameters.items():
        place = (*path, str(name))
        if not isinstance(spec, dict):
            yield place, f"must be a mapping with value, values or min and max; got {spec!r}", True
            continue
        if "parameters" in spec:
            yield from _of_nested(spec, place, method)
            continue
        found = [
            ((*place, str(key)), f"is no key of a parameter{near(key, PARAMETER_KEYS)}", True)
            for key in spec
            if key not in PARAMETER_KEYS
        ]
        if name == CANDIDATE:
            found += _of_candidate(spec, place)
        elif name not in FIELDS:
            found.append((place, f"is no hyperparameter{near(name, (*FIELDS, CANDIDATE))}", True))
        else:
            found += _of_parameter(str(name), spec, place)
        yield from found
        if not any(error for _, _, error in found):
            yield from _of_distribution(str(name), spec, place, method)


def _of_nested(spec: dict[str, Any], place: tuple[str, ...], method: Any) -> Found:
    inner = spec["parameters"]
    if len(spec) > 1:
        yield place, "has nested parameters, and nothing else may stand beside them", True
    elif not isinstance(inner, dict) or not inner:
        yield (*place, "parameters"), "must map hyperparameters to values, as in 'lr: {min: 0.0001, max: 0.01}'", True
    else:
        yield from _of_parameters(inner, (*place, "parameters"), method)


def _of_distribution(name: str, spec: dict[str, Any], place: tuple[str, ...], method: Any) -> Found:
    """What W&B's schema says of a parameter, and whether what it draws suits the hyperparameter."""
    try:
        distributions.require(spec)
    except UserError as error:
        yield place, str(error), True
        return
    kind = distributions.kind_of(spec)
    if method == "grid" and kind not in distributions.GRID:
        yield place, f"is {kind}, which a grid can't enumerate: give values, or use method random or bayes", True
    if "values" in spec:
        if spec.get("distribution") == "categorical" and "probabilities" in spec:
            text = "W&B wants categorical_w_probabilities beside probabilities, or no distribution"
            yield (*place, "distribution"), text, False
    elif kind != "constant":
        yield from _of_drawn(name, kind, spec, place)


def _of_drawn(name: str, kind: str, spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    """The ends of what a distribution draws: of a range, or all but the outermost of 100 where it has none."""
    field, q = FIELDS[name].type, distributions.number(spec, "q") if kind.startswith("q_") else None
    if field not in (int, float):
        yield place, f"{name} must be {describe(name)}, so it has values, and no distribution", True
        return
    if field is int and kind != "int_uniform" and (q is None or q != int(q)):
        text = f"{name} is a whole number; use int_uniform or a q_ distribution with a whole q, or give values"
        yield place, text, True
        return
    bounded = "min" in spec
    ends = distributions.bounds(kind, spec) if bounded else map(distributions.quantiles(kind, spec), (0.01, 0.99))
    if field is float and q is not None and "q" not in spec:
        refused = any([*_of_value(name, distributions.rounded(end, q), place)] for end in ends)
        text = f"q is 1 unless it is given, so that {name} is a whole number; give q, or use {kind.removeprefix('q_')}"
        yield place, text, refused
        return
    for key, end in zip(("min", "max"), ends, strict=True):
        value = end if q is None else distributions.rounded(end, q)
        for where, text, _ in _of_value(name, int(value) if field is int and value == int(value) else value, place):
            yield (*where, key) if bounded else where, text if bounded else f"{text}; such runs are refused", bounded


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
                yield inner, f"is no hyperparameter{near(name, FIELDS)}", True
            else:
                yield from _of_value(name, one, inner)
        if {"warmup_epochs", "max_epochs"} <= set(value):
            own = {name: {"value": value[name]} for name in ("warmup_epochs", "max_epochs")}
            yield from _of_warmup(own, (*place, "values", str(number)))


def _of_parameter(name: str, spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    known = distributions.DISTRIBUTIONS
    if "distribution" in spec and str(spec["distribution"]) not in known:
        got = spec["distribution"]
        yield (*place, "distribution"), f"{got!r} is none of W&B's{near(got, known)}", True
        return
    if "values" in spec:
        yield from _of_values(name, spec, place)
    if "value" in spec:
        yield from _of_value(name, spec["value"], (*place, "value"))
    if "min" in spec and "max" in spec:
        yield from _of_bounds(name, spec, place)


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
    for key in ("min", "max"):
        if isinstance(spec[key], str):
            yield (
                (*place, key),
                f"{spec[key]} is text to YAML, which W&B refuses; write it with a point, as 1.0e-5",
                False,
            )
    exponents = kind in ("log_uniform", "q_log_uniform", "inv_log_uniform")
    if exponents and low > 0 and high < 1 and name in ("lr", "weight_decay"):  # values meant, the usual mistake
        text = f"{kind} takes exponents of e, so this is {math.exp(low):.4g} to {math.exp(high):.4g}; use {kind}_values"
        yield (*place, "distribution"), text, True


def _of_value(name: str, value: Any, place: tuple[str, ...]) -> Found:
    try:
        parse_value(name, value)
    except UserError as error:
        yield place, str(error), True


def _of_early_terminate(content: dict[str, Any], parameters: dict[str, Any]) -> Found:
    if "early_terminate" not in content:
        return
    stopper, key = content["early_terminate"], "early_terminate"
    if not isinstance(stopper, dict) or stopper.get("type") != "hyperband":
        yield (key,), "must be {type: hyperband, min_iter: 5, eta: 3}; W&B knows no other", True
        return
    for name in stopper:
        if name not in HYPERBAND_KEYS:
            yield (key, str(name)), f"is no key of hyperband{near(name, HYPERBAND_KEYS)}", True
    for name in ("min_iter", "max_iter", "s"):
        if name in stopper and (not distributions.is_whole(stopper[name]) or stopper[name] < 1):
            yield (key, name), f"must be a whole number from 1; got {stopper[name]!r}", True
            return
    eta = stopper.get("eta", 3)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 1 < eta < math.inf:
        yield (key, "eta"), f"must be a number above 1; got {eta!r}", True
        return
    if not isinstance(stopper.get("strict", False), bool):
        yield (key, "strict"), f"must be true or false; got {stopper['strict']!r}", True
    if ("min_iter" in stopper) == ("max_iter" in stopper):
        yield (key,), "needs min_iter, or max_iter and s, in epochs, and not both", True
    elif "min_iter" in stopper:
        if "s" in stopper:
            yield (key, "s"), "means nothing beside min_iter", False
        yield from _of_first_band((key, "min_iter"), stopper["min_iter"], parameters)
    elif "s" not in stopper:
        yield (key, "s"), "is missing; max_iter needs it, the number of bands below max_iter", True
    elif stopper["max_iter"] < eta:
        yield (key, "max_iter"), f"must be at least eta, {eta:g}, or there is no epoch to stop at", True
    else:
        bands = int(math.log(stopper["max_iter"]) / math.log(eta) + 1e-9)  # of an epoch or more; 27 has three at eta 3
        if bands < stopper["s"]:
            text = f"is {stopper['s']}, but below max_iter {stopper['max_iter']} are {bands} bands at eta {eta:g}"
            yield (key, "s"), f"{text}; the others mean nothing", False
        first = int(stopper["max_iter"] / eta ** min(bands, stopper["s"]) + 1e-9)
        yield from _of_first_band((key, "max_iter"), first, parameters)


def _of_first_band(place: tuple[str, ...], band: int, parameters: dict[str, Any]) -> Found:
    epochs = max(_possible(parameters, "max_epochs"), default=math.inf)
    if band > epochs:
        yield place, f"stops runs from epoch {band}, above max_epochs, {epochs:g}, so that none is ever stopped", True


def _of_warmup(parameters: dict[str, Any], place: tuple[str, ...]) -> Found:
    """Whether runs' warm-up ends before their training; a candidate's own pair is looked at with the candidate."""
    warmups = _possible(parameters, "warmup_epochs", without="max_epochs")
    epochs = _possible(parameters, "max_epochs", without="warmup_epochs")
    if not warmups or not epochs or not max(warmups) or max(warmups) < min(epochs):
        return
    every = min(warmups) >= max(epochs)
    text = (
        f"must be below max_epochs; it is {'at least' if every else 'up to'} {(min if every else max)(warmups):g}, and "
    )
    text += f"max_epochs {'at most' if every else 'from'} {(max if every else min)(epochs):g}"
    yield (*place, "warmup_epochs"), text if every else f"{text}; such runs are refused", every


def _possible(parameters: dict[str, Any], name: str, *, without: str = "") -> list[float]:
    """What runs may have for a hyperparameter: the default where a sweep says nothing, and nothing where all is wrong."""
    found = []
    for value in sweepfile.possible(parameters, name, without=without):
        with contextlib.suppress(UserError):
            found.append(parse_value(name, value))
    return found if found or sweepfile.possible(parameters, name) else [getattr(RunConfig, name)]


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, or the text of one: YAML 1.1 reads 1e-4 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
