"""Findings about a sweep's early_terminate."""

import math
from collections.abc import Iterator
from typing import Any

from ctkeras.sweep import distributions
from ctkeras.sweep.check_parameters import Found, possible, unknown_keys

HYPERBAND_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")


def of_early_terminate(content: dict[str, Any], parameters: dict[str, Any]) -> Found:
    """Findings about hyperband; with min_iter, s has no effect in W&B's code, and neither has min_iter with max_iter.

    Args:
        content: the sweep.
        parameters: its parameters, with the command's options among them.
    """
    stopper, key = content.get("early_terminate"), "early_terminate"
    if stopper is None:
        return
    if not isinstance(stopper, dict) or stopper.get("type") != "hyperband":
        yield (key,), "must be {type: hyperband, min_iter: 5, eta: 3}; W&B has no other type", True
        return
    found = [*_of_hyperband_keys(stopper)]
    yield from (((key, *path), text, True) for path, text in found)
    if found:
        return
    eta, first = stopper.get("eta", 3), stopper.get("min_iter", 0)
    if "max_iter" in stopper:
        bands = [stopper["max_iter"] / eta]
        while len(bands) < stopper["s"] and bands[-1] / eta >= 1:
            bands.append(bands[-1] / eta)
        if "min_iter" in stopper:
            yield (key, "min_iter"), "has no effect if max_iter is given", False
        if len(bands) < stopper["s"]:
            text = f"is {stopper['s']}, but below max_iter {stopper['max_iter']} there are {len(bands)} bands at eta {eta:g}"
            yield (key, "s"), text, False
        first = int(bands[-1])
    elif "s" in stopper:
        yield (key, "s"), "has no effect if min_iter is given", False
    epochs = max(possible(parameters, "max_epochs"), default=math.inf)
    if first > epochs:
        text = f"stops runs from epoch {first}, above max_epochs, {epochs:g}, so no run is ever stopped"
        yield (key, "max_iter" if "max_iter" in stopper else "min_iter"), text, False


def _of_hyperband_keys(stopper: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name in stopper:
        if name not in HYPERBAND_KEYS:
            yield (str(name),), unknown_keys(name, "a key of hyperband", HYPERBAND_KEYS)
    for name in ("min_iter", "max_iter", "s"):
        suits = distributions.is_whole if name == "s" else distributions.is_integer
        if name in stopper and not (suits(stopper[name]) and 1 <= stopper[name] <= distributions.COUNTABLE):
            yield (name,), f"must be a whole number from 1; got {stopper[name]!r}"
            return
    eta = stopper.get("eta", 3)
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 1 < eta <= distributions.COUNTABLE:
        yield ("eta",), f"must be a number above 1; got {eta!r}"
        return
    if not isinstance(stopper.get("strict", False), bool):
        yield ("strict",), f"must be true or false; got {stopper['strict']!r}"
    if not {"min_iter", "max_iter"} & set(stopper):
        yield (), "needs min_iter, or max_iter and s, in epochs"
    elif "max_iter" in stopper and "s" not in stopper:
        yield ("s",), "is missing; max_iter needs it, the number of bands below max_iter"
    elif "max_iter" in stopper and stopper["max_iter"] < eta:
        yield ("max_iter",), f"must be at least eta, {eta:g}, or there is no epoch to stop at"
