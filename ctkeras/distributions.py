"""W&B's distributions of a sweep parameter, in numbers: which keys each takes, which one is meant, its bounds and quantiles.

The facts are those of W&B's `sweeps` package (0.3.0: schema.json, params.py).
"""

import decimal
import difflib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ctkeras.config import UserError

BOUNDS = ("min", "max")
# The keys that each distribution needs, and those it may have.
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
GRID = ("constant", "categorical", "int_uniform", "q_uniform")  # those that W&B's grid can enumerate
TAIL = 1e-9  # quantiles of the unbounded ones end this far from 0 and 1, at six standard deviations of a normal
LARGEST = 700.0  # an exponent of e that a double still holds, either way


def kind_of(spec: Mapping[str, Any]) -> str:
    """The distribution that a parameter names, or the one that W&B infers: two whole bounds mean whole numbers.

    Raises:
        UserError: it names none of W&B's, or has nothing to infer one from.
    """
    kind = spec.get("distribution")
    if "distribution" in spec:
        if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
            raise UserError(f"distribution {kind!r} is none of W&B's{near(kind, DISTRIBUTIONS)}")
        return "categorical_w_probabilities" if kind == "categorical" and "probabilities" in spec else str(kind)
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if not set(BOUNDS) <= set(spec):
        raise UserError("needs value, values, min and max, or a distribution")
    return "int_uniform" if all(is_whole(spec[key]) for key in BOUNDS) else "uniform"


def require(spec: Mapping[str, Any]) -> None:
    """Checks a parameter as W&B's schema does.

    Raises:
        UserError: a missing or unknown key, or a value out of range; says which.
    """
    if {"value", "values"} <= set(spec):
        raise UserError("has value and values; one of them must go")
    kind = kind_of(spec)
    needed, optional = DISTRIBUTIONS[kind]
    if kind == "categorical_w_probabilities" and "values" in spec and "probabilities" not in spec:
        raise UserError(f"{kind} needs probabilities, one for each value")
    if missing := [key for key in needed if key not in spec]:
        raise UserError(f"{kind} needs {' and '.join(missing)}")
    for key in spec:
        if key not in (*needed, *optional, "distribution"):
            raise UserError(f"{key} means nothing to {kind}{near(key, (*needed, *optional))}")
    if "values" in spec:
        _require_values(spec)
    if "value" in spec:
        plain_text(spec["value"])
    numbers = {key: number(spec, key) for key in (*needed, *optional) if key in (*BOUNDS, *DEFAULTS)}
    for key, low in (("q", 0), ("a", 0), ("b", 0)):
        if key in numbers and not numbers[key] > low:
            raise UserError(f"{key} must be above {low}; got {numbers[key]:g}")
    if numbers.get("sigma", 0) < 0:
        raise UserError(f"sigma must not be below 0; got {numbers['sigma']:g}")
    if "min" in numbers:
        _require_bounds(kind, spec)
    if "log_normal" in kind and abs(numbers["mu"]) + 6 * numbers["sigma"] > LARGEST:
        raise UserError(f"mu and sigma are of the logarithm; exp({numbers['mu']:g}) and its spread are beyond a number")


def number(spec: Mapping[str, Any], key: str) -> int | float:
    """A parameter's number, or W&B's default for it; text that is a number is one, as YAML 1.1 reads 1e-4 as text.

    Raises:
        UserError: it is no finite number.
    """
    value = spec.get(key, DEFAULTS.get(key))
    try:
        found = float(value) if isinstance(value, str) else value
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
            return found
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{key} must be a number; got {value!r}")


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
    """round(value / q) * q as decimals have it, so that three steps of 0.1 are 0.3; whole where q is."""
    steps = round(value / q)
    return steps * q if isinstance(q, int) else float(steps * decimal.Decimal(repr(q)))


def steps(low: int | float, high: int | float, q: int | float) -> list[int | float]:
    """From low to below high by q, counted as numpy.arange does; whole where all three are."""
    count = math.ceil((high - low) / q)
    if isinstance(low, int) and isinstance(high, int) and isinstance(q, int):
        return [low + k * q for k in range(count)]
    start, step = (decimal.Decimal(repr(number)) for number in (low, q))
    return [float(start + k * step) for k in range(count)]


def distinct(values: Sequence[Any], weights: Sequence[float]) -> list[tuple[str, Any, float]]:
    """The different ones among values that can be drawn: canonical text, value, and weight summed over equal ones."""
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
    except (TypeError, ValueError):
        text = f"value {value!r} must be text, a finite number, true, false, null, or lists and mappings of them"
        raise UserError(text) from None


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number as YAML has it: 1, and neither 1.0 nor true."""
    return isinstance(value, int) and not isinstance(value, bool)


def near(word: Any, known: Iterable[str]) -> str:
    """The end of an error: what a misspelt word may have meant, or else what there is."""
    found = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else f"; known: {', '.join(known)}"


def _require_values(spec: Mapping[str, Any]) -> None:
    values = spec["values"]
    if not isinstance(values, list) or not values:
        raise UserError(f"values must be a list; got {values!r}")
    for value in values:
        plain_text(value)
    if "probabilities" not in spec:
        return
    chances = spec["probabilities"]
    good = isinstance(chances, list) and all(isinstance(p, int | float) and not isinstance(p, bool) for p in chances)
    if (
        not good
        or min(chances, default=-1) < 0
        or len(chances) != len(values)
        or not math.isclose(sum(chances), 1.0, abs_tol=1e-5)
    ):
        raise UserError(f"probabilities must be {len(values)} numbers from 0 that add up to 1; got {chances!r}")


def _require_bounds(kind: str, spec: Mapping[str, Any]) -> None:
    low, high = (number(spec, key) for key in BOUNDS)
    if kind == "int_uniform" and not all(is_whole(spec[key]) for key in BOUNDS):
        raise UserError(f"min and max must be whole numbers for int_uniform; got {spec['min']!r} and {spec['max']!r}")
    if not low < high:
        raise UserError(f"min must be below max; got min {low:g} and max {high:g}")
    if kind.endswith("_values") and low <= 0:
        raise UserError(f"min must be above 0 for {kind}; got {low:g}")
    if kind.endswith("log_uniform") and max(abs(low), abs(high)) > LARGEST:
        text = f"min and max of {kind} are exponents of e, from -{LARGEST:g} to {LARGEST:g}; got {low:g} and {high:g}"
        raise UserError(f"{text}; use {kind}_values for the values themselves")


def _inside(quantile: float) -> float:
    return min(max(quantile, TAIL), 1.0 - TAIL)
