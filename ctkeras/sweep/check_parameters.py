"""Findings about a sweep's parameters."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ctkeras.config import FIELDS, RunConfig, describe, parse_value
from ctkeras.errors import UserError, did_you_mean
from ctkeras.sweep import distributions, file
from ctkeras.sweep.file import CANDIDATE

PARAMETER_KEYS = (
    *("value", "values", "min", "max", "distribution", "probabilities", "q", "mu", "sigma", "a", "b", "parameters"),
)
MOST_STEPS = 100_000  # of one parameter of a grid
EXAMPLE = "must map hyperparameters to values, as in 'lr: {min: 0.0001, max: 0.01}'"
Found = Iterator[tuple[tuple[str, ...], str, bool]]  # path, text, whether it is an error


def unknown_keys(word: Any, what: str, known: Collection[str]) -> str:
    """The text of a finding: a word is not what it should be, with the most similar known word or all known ones."""
    return f"is not {what}{did_you_mean(word, known) or '; known: ' + ', '.join(known)}"


def of_parameters(parameters: Mapping[str, Any], path: tuple[str, ...], method: Any) -> Found:
    """Findings about parameters, nested ones too.

    Args:
        parameters: name to specification.
        path: keys from the top of the file to `parameters`.
        method: the sweep's.
    """
    for name, spec in parameters.items():
        place = (*path, str(name))
        if not isinstance(spec, dict):
            yield place, f"must be a mapping with value, values or min and max; got {spec!r}", True
        elif "parameters" in spec:
            yield from _of_nested(name, spec, place, method)
        elif unknown := [key for key in spec if key not in PARAMETER_KEYS]:
            for key in unknown:
                yield (*place, str(key)), unknown_keys(key, "a key of a parameter", PARAMETER_KEYS), True
        elif name not in (*FIELDS, CANDIDATE):
            yield place, unknown_keys(name, "a hyperparameter", (*FIELDS, CANDIDATE)), True
        else:
            yield from _of_parameter(name, spec, place, method)


def _of_nested(name: Any, spec: dict[str, Any], place: tuple[str, ...], method: Any) -> Found:
    inner = spec["parameters"]
    if not isinstance(name, str) or not file.NAME.fullmatch(name):
        yield place, f"{name!r} is not a name; use letters, digits and _ . - after a letter or _", True
    elif name in (*FIELDS, CANDIDATE):
        yield place, f"is a hyperparameter, so the group of nested parameters needs another name than {name}", True
    if len(spec) > 1:
        yield place, "has nested parameters, so it cannot have other keys", True
    elif not isinstance(inner, dict) or not inner:
        yield (*place, "parameters"), EXAMPLE, True
    else:
        yield from of_parameters(inner, (*place, "parameters"), method)


def _of_parameter(name: str, spec: dict[str, Any], place: tuple[str, ...], method: Any) -> Found:
    """What W&B's schema says of a parameter, and whether its values suit the hyperparameter."""
    found = [((*place, key) if key else place, text, True) for key, text in distributions.faults(spec)]
    if name == CANDIDATE:
        found += _of_candidate(spec, place)
    else:
        for key in ("value", "values"):
            values = spec.get(key, []) if key == "values" else [spec[key]] if key in spec else []
            for value in values if isinstance(values, list) else []:
                found += of_value(name, value, (*place, key))
    yield from found
    if found:
        return
    kind = distributions.kind_of(spec)
    if method == "grid" and kind not in distributions.GRID:
        yield place, f"is {kind}, which a grid cannot enumerate: give values, or use method random or bayes", True
    elif not {"value", "values"} & set(spec):
        yield from _of_drawn(name, kind, spec, place, grid=method == "grid")


def _of_drawn(name: str, kind: str, spec: dict[str, Any], place: tuple[str, ...], *, grid: bool) -> Found:
    """Whether a distribution's values suit a hyperparameter: by its ends, or by 98 in 100 values where it has none."""
    field, q = FIELDS[name].type, distributions.number(spec, "q") if kind.startswith("q_") else None
    if field not in (int, float):
        yield place, f"{name} must be {describe(name)}, so give values instead of a distribution", True
        return
    if field is int and kind != "int_uniform" and (q is None or q != int(q)):
        text = f"{name} is a whole number; use int_uniform or a q_ distribution with a whole q, or give values"
        yield place, text, True
        return
    bounded = "min" in spec
    if grid and kind == "q_uniform" and (count := distributions.step_count(spec)) > MOST_STEPS:
        yield (
            (*place, "q"),
            f"makes {count} values of {name}; a grid may have up to {MOST_STEPS} of one parameter",
            True,
        )
        return
    ends = distributions.ends(kind, spec, grid=grid)
    refused = [[*of_value(name, int(v) if field is int and v == int(v) else v, place)] for v in ends]
    if field is float and q is not None and "q" not in spec:
        text = f"q is 1 by default, so {name} is a whole number; give q, or use {kind.removeprefix('q_')}"
        yield place, text, any(refused)
        return
    keys = ("min", "max") if bounded else ("", "", "")
    for key, faults in zip(keys, refused, strict=True):
        for where, text, _ in faults:
            error = bounded or all(refused)
            yield (*where, key) if key else where, text if error else f"{text}; such runs are refused", error
    if bounded and "log_uniform" in kind and not kind.endswith("_values") and not any(refused):
        yield from _of_exponents(name, kind, spec, place)


def _of_exponents(name: str, kind: str, spec: dict[str, Any], place: tuple[str, ...]) -> Found:
    """Bounds that are exponents of e: values were meant where they look like values, which is a usual mistake."""
    low, high = distributions.bounds(kind, spec)
    meant_values = spec["min"] > 0 and spec["max"] < 1 and name in ("lr", "weight_decay")
    text = f"{kind} takes exponents of e, so this is {low:.4g} to {high:.4g}"
    yield (*place, "distribution"), f"{text}; {kind}_values takes the values themselves", meant_values


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
                yield inner, unknown_keys(name, "a hyperparameter", FIELDS), True
            else:
                yield from of_value(name, one, inner)
        if {"warmup_epochs", "max_epochs"} <= set(value):
            own = {name: {"value": value[name]} for name in ("warmup_epochs", "max_epochs")}
            yield from of_warmup(own, (*place, "values", str(number)))


def of_value(name: str, value: Any, place: tuple[str, ...]) -> Found:
    """What is wrong with one value of a hyperparameter.

    Args:
        name: a field of RunConfig.
        value: as YAML reads it.
        place: keys from the top of the file to the value.
    """
    try:
        parse_value(name, value)
        if name == "project":
            RunConfig(project=value)  # its characters
    except UserError as error:
        yield place, str(error), True


def of_warmup(parameters: dict[str, Any], place: tuple[str, ...]) -> Found:
    """Whether the warm-up of runs ends before their training; a candidate's own pair is checked with the candidate."""
    warmups = possible(parameters, "warmup_epochs", without="max_epochs")
    epochs = possible(parameters, "max_epochs", without="warmup_epochs")
    if not warmups or not epochs or not max(warmups) or max(warmups) < min(epochs):
        return
    every = min(warmups) >= max(epochs)
    longest, shortest = (min(warmups), max(epochs)) if every else (max(warmups), min(epochs))
    text = f"must be below max_epochs; it is {'at least' if every else 'up to'} {longest:g}, and "
    text += f"max_epochs is {'at most' if every else 'from'} {shortest:g}"
    yield (*place, "warmup_epochs"), text if every else f"{text}; such runs are refused", every


def possible(parameters: dict[str, Any], name: str, *, without: str = "") -> list[float]:
    """The values that runs may have for a hyperparameter: its default where a sweep has none, and none where all are wrong."""
    values = file.possible(parameters, name, without=without)
    sound = []
    for value in values:
        with contextlib.suppress(UserError):
            sound.append(parse_value(name, value))
    return sound if values else [getattr(RunConfig, name)]
