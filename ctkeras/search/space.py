"""A sweep's parameters as Optuna searches them: what Optuna suggests, and the value of the parameter that this gives."""

import bisect
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ctkeras.sweep import distributions
from ctkeras.sweep.file import leaves

Asked = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclasses.dataclass(frozen=True)
class Searched:
    """A searched parameter: what Optuna suggests, and the value that it gives."""

    asked: Asked  # the distribution of the suggestion
    at: Callable[[float], Any]  # the suggestion at a quantile, in (0, 1)
    value: Callable[[Any], Any]  # the parameter's value for a suggestion
    size: int = 0  # the number of values in a grid
    label: str = ""  # follows the parameter's name where the suggestion is not the value


def all_searched(sweep: Mapping[str, Any]) -> dict[str, Searched]:
    """All parameters except the constants, by name, in W&B's order."""
    searched = {}
    for path, spec in leaves(sweep["parameters"]):
        if distributions.kind_of(spec) != "constant":
            searched[".".join(path)] = _enumerated(spec) if sweep["method"] == "grid" else searched_by(spec)
    return searched


def searched_by(spec: Mapping[str, Any]) -> Searched:
    """A parameter as random and bayes search it."""
    kind = distributions.kind_of(spec)
    if "values" in spec:
        return _choice(spec["values"], spec.get("probabilities", [1.0] * len(spec["values"])))
    if kind == "int_uniform":
        return _whole(spec["min"], spec["max"])
    item = _continuous(kind, spec)
    if not kind.startswith("q_"):
        return item
    q = distributions.number(spec, "q")
    if kind == "q_uniform":
        return _stepped(item, q)
    label = item.label or " (unrounded)"
    return dataclasses.replace(item, value=lambda asked: distributions.rounded(item.value(asked), q), label=label)


def _stepped(item: Searched, q: int | float) -> Searched:
    """A uniform parameter rounded to steps of q; its first and last values are half as likely as the others."""
    low, high = distributions.rounded(item.at(0.0), q), distributions.rounded(item.at(1.0), q)
    return Searched(
        IntDistribution(int(low), int(high), step=q) if isinstance(q, int) else FloatDistribution(low, high, step=q),
        lambda quantile: distributions.rounded(item.at(quantile), q),
        lambda asked: distributions.rounded(asked, q),
    )


def _continuous(kind: str, spec: Mapping[str, Any]) -> Searched:
    """A parameter with a continuous distribution, or a quantised one before rounding."""
    if kind.endswith(("normal", "beta")):
        quantiles = distributions.quantiles(kind, spec)
        return Searched(FloatDistribution(0.0, 1.0), lambda quantile: quantile, quantiles, label=" (quantile)")
    low, high = distributions.bounds(kind, spec)

    def inside(value: float) -> float:
        return min(max(value, low), high)

    if kind.endswith("log_uniform") or kind.endswith("_values"):
        start, width = math.log(low), math.log(high) - math.log(low)
        return Searched(FloatDistribution(low, high, log=True), lambda u: inside(math.exp(start + u * width)), inside)
    return Searched(FloatDistribution(low, high), lambda u: inside(low + u * (high - low)), inside)


def _whole(low: int, high: int) -> Searched:
    """Whole numbers from low to high."""
    size = high - low + 1
    return Searched(IntDistribution(low, high), lambda u: low + min(int(u * size), size - 1), int, size)


def _choice(values: Sequence[Any], weights: Sequence[float]) -> Searched:
    """One of a list of values: as they are, or as JSON where Optuna cannot store them or would confuse 1 and true."""
    texts, originals, chances = zip(*distributions.distinct(values, weights), strict=True)
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in originals)
    choices = originals if plain and len(set(originals)) == len(originals) else texts
    edges = list(itertools.accumulate(chances))
    return Searched(
        CategoricalDistribution(choices),
        lambda u: choices[min(bisect.bisect_right(edges, u * edges[-1]), len(choices) - 1)],
        lambda choice: copy.deepcopy(originals[choices.index(choice)]),
        len(choices),
    )


def _enumerated(spec: Mapping[str, Any]) -> Searched:
    """A parameter of a grid, with the values that W&B enumerates."""
    kind = distributions.kind_of(spec)
    if kind == "int_uniform":
        return _whole(spec["min"], spec["max"])
    if kind == "q_uniform":
        values = distributions.steps(*(distributions.number(spec, key) for key in ("min", "max", "q")))
    else:
        different: dict[str, Any] = {}
        for value in spec["values"]:
            whole = isinstance(value, float) and value.is_integer()
            different.setdefault(distributions.plain_text(int(value) if whole else value), value)
        values = list(different.values())
    return _choice(values, [1.0] * len(values))


def grid_size(searched: Mapping[str, Searched]) -> int:
    """The number of points of a grid."""
    return math.prod(item.size for item in searched.values())


def grid_cell(searched: dict[str, Searched], number: int) -> dict[str, float]:
    """A grid's point: for each parameter, the quantile in the middle of its value."""
    place: dict[str, float] = {}
    for name, item in reversed(searched.items()):
        number, index = divmod(number, item.size)
        place[name] = (index + 0.5) / item.size
    if number:
        raise ValueError(f"the grid has only {grid_size(searched)} points")
    return place


def nested(sweep: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Values, given by dotted name, nested as W&B nests them; constants included."""
    values: dict[str, Any] = {}
    for path, spec in leaves(sweep["parameters"]):
        place = values
        for key in path[:-1]:
            place = place.setdefault(key, {})
        name = ".".join(path)
        place[path[-1]] = chosen[name] if name in chosen else copy.deepcopy(spec["value"])
    return values
