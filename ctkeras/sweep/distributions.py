"""W&B's distributions of a sweep parameter, in numbers: which keys each has, which one W&B infers, its bounds and quantiles.

The rules are those of W&B's `sweeps` package (0.3.0: schema.json, schema.py, params.py).
"""

import decimal
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ctkeras.errors import UserError, did_you_mean

BOUNDS = ("min", "max")
# The keys that each distribution needs, and those that it may have.
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ("probabilities",)),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    **dict.fromkeys(("int_uniform", "uniform", "log_uniform", "log_uniform_values"), (BOUNDS, ())),
    **dict.fromkeys(("inv_log_uniform", "inv_log_uniform_values"), (BOUNDS, ())),
    **dict.fromkeys(("q_uniform", "q_log_uniform", "q_log_uniform_values"), (BOUNDS, ("q",))),
    **dict.fromkeys(("normal", "log_normal"), ((), ("mu", "sigma"))),
    **dict.fromkeys(("q_normal", "q_log_normal"), ((), ("mu", "sigma", "q"))),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
DEFAULTS: dict[str, int | float] = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1}
GRID = ("constant", "categorical", "int_uniform", "q_uniform")  # those that a grid of W&B enumerates
TAIL = 1e-9  # quantiles of the unbounded ones end this far from 0 and 1: six standard deviations of a normal
LARGEST = 700.0  # an exponent of e that a double still holds, either way
SUM_TOLERANCE = 1e-8 + 1e-5  # of probabilities, as W&B's numpy.isclose has it
COUNTABLE = 2**53  # whole numbers, and steps of q, that a double can distinguish


def kind_of(spec: Mapping[str, Any]) -> str:
    """The distribution that a parameter names, or the one that W&B infers: int_uniform from two whole bounds.

    Raises:
        UserError: it names one that W&B does not have, or has nothing to infer one from.
    """
    kind = spec.get("distribution")
    if "distribution" in spec:
        if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
            hint = did_you_mean(kind, DISTRIBUTIONS) or f"; known: {', '.join(DISTRIBUTIONS)}"
            raise UserError(f"{kind!r} is not one of W&B's distributions{hint}")
        return "categorical_w_probabilities" if kind == "categorical" and "probabilities" in spec else str(kind)
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if not set(BOUNDS) <= set(spec):
        raise UserError("needs value, values, min and max, or a distribution with its keys")
    return "int_uniform" if all(is_whole(spec[key]) for key in BOUNDS) else "uniform"


def faults(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What W&B's schema refuses in a parameter, and numbers that cannot be computed with.

    Args:
        spec: the parameter, as in a sweep.

    Yields:
        The key at fault ('' for the whole parameter), and what would be right.
    """
    try:
        kind = kind_of(spec)
    except UserError as error:
        yield "distribution" if "distribution" in spec else "", str(error)
        return
    if {"value", "values"} <= set(spec):
        yield "", "has both value and values; remove one of them"
        return
    if spec.get("distribution") == "categorical" and "probabilities" in spec:
        yield "distribution", "must be categorical_w_probabilities where there are probabilities, or be left out"
        return
    needed, optional = DISTRIBUTIONS[kind]
    if missing := [key for key in needed if key not in spec]:
        yield "", f"{kind} needs {' and '.join(missing)}"
        return
    known = (*needed, *optional, "distribution")
    if unknown := [key for key in spec if key not in known]:
        for key in unknown:
            hint = did_you_mean(key, known) or f"; it has {', '.join(needed + optional)}"
            yield str(key), f"{kind} has no {key}{hint}"
    elif "values" in spec:
        yield from _value_faults(spec)
    elif "value" in spec:
        yield from _json_faults("value", spec["value"])
    else:
        yield from _number_faults(kind, spec, needed + optional)


def number(spec: Mapping[str, Any], key: str) -> int | float:
    """A parameter's number, or W&B's default for it.

    Raises:
        UserError: it is not a finite number. Text is not: W&B refuses it, and YAML 1.1 reads 1e-4 as text.
    """
    value = spec.get(key, DEFAULTS.get(key))
    if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
        return value
    raise UserError(f"must be a finite number; got {value!r}{_as_number(value)}")


def bounds(kind: str, spec: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the greatest value before any rounding; bounds of the log forms without _values are exponents of e."""
    low, high = (float(number(spec, key)) for key in BOUNDS)
    kind = kind.removeprefix("q_")
    if kind == "log_uniform":
        return math.exp(low), math.exp(high)
    if kind == "inv_log_uniform":  # log(1 / x) is uniform from min to max
        return math.exp(-high), math.exp(-low)
    return low, high


def quantiles(kind: str, spec: Mapping[str, Any]) -> Callable[[float], float]:
    """The quantile function of a normal, log_normal or beta parameter, before any rounding."""
    if kind.endswith("beta"):
        from scipy.special import betaincinv

        a, b = number(spec, "a"), number(spec, "b")
        return lambda quantile: float(betaincinv(a, b, _inside(quantile)))
    mu, sigma = number(spec, "mu"), number(spec, "sigma")
    inverse = statistics.NormalDist().inv_cdf
    if kind.endswith("log_normal"):
        return lambda quantile: math.exp(mu + sigma * inverse(_inside(quantile)))
    return lambda quantile: mu + sigma * inverse(_inside(quantile))


def rounded(value: float, q: int | float) -> int | float:
    """round(value / q) * q in decimal arithmetic, so that three steps of 0.1 are 0.3; whole where q is."""
    steps = round(value / q)
    return steps * q if isinstance(q, int) else float(steps * decimal.Decimal(repr(q)))


def steps(low: int | float, high: int | float, q: int | float) -> list[int | float]:
    """The values from low to below high in steps of q, counted as numpy.arange does; whole where all three are."""
    count = math.ceil((high - low) / q)
    if isinstance(low, int) and isinstance(high, int) and isinstance(q, int):
        return [low + k * q for k in range(count)]
    start, step = (decimal.Decimal(repr(number)) for number in (low, q))
    return [float(start + k * step) for k in range(count)]


def step_count(spec: Mapping[str, Any]) -> int:
    """How many values a grid takes from a q_uniform parameter."""
    low, high, q = (number(spec, key) for key in ("min", "max", "q"))
    return math.ceil((high - low) / q)


def ends(kind: str, spec: Mapping[str, Any], *, grid: bool) -> list[int | float]:
    """The least and the greatest value; of a distribution without bounds, its 1%, 50% and 99% quantiles."""
    if grid and kind == "q_uniform":
        listed = steps(*(number(spec, key) for key in ("min", "max", "q")))
        return [listed[0], listed[-1]]
    values = list(bounds(kind, spec) if "min" in spec else map(quantiles(kind, spec), (0.01, 0.5, 0.99)))
    return [rounded(value, number(spec, "q")) if kind.startswith("q_") else value for value in values]


def choices(spec: Mapping[str, Any]) -> int | None:
    """How many values a sound parameter chooses among; None where it draws from a range."""
    if "value" in spec:
        return 1
    if "values" not in spec:
        return None
    values = spec["values"]
    return len(distinct(values, spec.get("probabilities", [1.0] * len(values))))


def distinct(values: Sequence[Any], weights: Sequence[float]) -> list[tuple[str, Any, float]]:
    """The different values that can be drawn: canonical text, value, and the weight summed over equal values."""
    found: dict[str, tuple[str, Any, float]] = {}
    for value, weight in zip(values, weights, strict=True):
        text = plain_text(value)
        _, first, before = found.get(text, (text, value, 0.0))
        found[text] = (text, first, before + weight)
    return [entry for entry in found.values() if entry[2] > 0]


def plain_text(value: Any) -> str:
    """A value's canonical JSON.

    Raises:
        UserError: it is not made of text, finite numbers, true, false, null, lists and mappings.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"value {value!r} must be text, a finite number, true, false, null, or lists and mappings of them"
        raise UserError(text) from None


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number as YAML has it: 1, and neither 1.0 nor true."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether a value is an integer as JSON schema has it: 1 and 1.0, and not true."""
    return is_whole(value) or (isinstance(value, float) and value.is_integer())


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every double
        return False


def _as_number(value: Any) -> str:
    """The end of an error about text that looks like a number: how YAML 1.1 reads it as one."""
    try:
        found = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    if not math.isfinite(found):
        return ""
    text = f"{found:.10g}"
    if "." not in text:
        text = text.replace("e", ".0e") if "e" in text else text
    return f", which YAML reads as text; write {text}"


def _value_faults(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    values = spec["values"]
    if not isinstance(values, list) or not values:
        yield "values", f"must be a list with at least one value; got {values!r}"
        return
    for value in values:
        yield from _json_faults("values", value)
    if "probabilities" not in spec:
        return
    chances = spec["probabilities"]
    good = isinstance(chances, list) and all(
        isinstance(chance, int | float) and not isinstance(chance, bool) and _is_finite(chance) and chance >= 0
        for chance in chances
    )
    if not good or len(chances) != len(values) or not abs(sum(chances) - 1) <= SUM_TOLERANCE:
        text = f"must be {len(values)} numbers of at least 0 with the sum 1, one for each value; got {chances!r}"
        yield "probabilities", text


def _json_faults(key: str, value: Any) -> Iterator[tuple[str, str]]:
    try:
        plain_text(value)
    except UserError as error:
        yield key, str(error)


def _number_faults(kind: str, spec: Mapping[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with the numbers of a distribution."""
    numbers: dict[str, int | float] = {}
    for key in keys:
        try:
            numbers[key] = number(spec, key)
        except UserError as error:
            yield key, str(error)
    if len(numbers) < len(keys):
        return
    for key in ("q", "a", "b"):
        if key in numbers and not numbers[key] > 0:
            yield key, f"must be above 0; got {numbers[key]:g}"
            return
    if numbers.get("sigma", 0) < 0:
        yield "sigma", f"must be at least 0; got {numbers['sigma']:g}"
        return
    if "min" in numbers:
        fault = _bounds_fault(kind, spec)
        if fault:
            yield fault
            return
    elif kind.endswith("log_normal") and abs(numbers["mu"]) + 6 * numbers["sigma"] > LARGEST:
        text = f"applies to the logarithm, so exp({numbers['mu']:g}) and its spread are too large for a floating-point number"
        yield "mu", text
        return
    elif kind.endswith("normal") and not math.isfinite(abs(numbers["mu"]) + 6 * numbers["sigma"]):
        yield "sigma", "is so large that the values are too large for a floating-point number"
        return
    yield from _extent_faults(kind, spec)


def _bounds_fault(kind: str, spec: Mapping[str, Any]) -> tuple[str, str] | None:
    low, high = (number(spec, key) for key in BOUNDS)
    if kind == "int_uniform" and not all(is_whole(spec[key]) for key in BOUNDS):
        key = "max" if is_whole(spec["min"]) else "min"
        return key, f"must be a whole number for int_uniform; got {spec[key]!r}"
    if not low < high:
        return "min", f"must be below max; got min {low:g} and max {high:g}"
    if kind.endswith("_values") and low <= 0:
        return "min", f"must be above 0 for {kind}; got {low:g}"
    if kind.endswith("log_uniform") and max(abs(low), abs(high)) > LARGEST:
        text = f"min and max of {kind} are exponents of e, from -{LARGEST:g} to {LARGEST:g}; got {low:g} and {high:g}"
        return "", f"{text}; use {kind}_values for the values themselves"
    return None


def _extent_faults(kind: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Values, or steps of q, that a computer cannot distinguish or count."""
    ends = bounds(kind, spec) if "min" in spec else tuple(map(quantiles(kind, spec), (0.0, 0.5, 1.0)))
    if not all(map(math.isfinite, ends)):
        yield "", f"{kind} has no finite values with these numbers"
    elif kind == "int_uniform" and max(map(abs, ends)) > COUNTABLE:
        yield "", f"min and max must be within {COUNTABLE} of 0 for {kind}"
    elif kind.startswith("q_") and max(map(abs, ends)) > COUNTABLE * number(spec, "q"):
        yield "q", f"is too small for values up to {max(map(abs, ends)):g}; got {number(spec, 'q'):g}"


def _inside(quantile: float) -> float:
    return min(max(quantile, TAIL), 1.0 - TAIL)
