"""Whether a winner's values lie at the edge of what was searched, where a wider range may do better."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.config import FIELDS
from ctkeras.runtime.console import value_text

NEAR = 0.05  # of a continuous range, on the scale that it is drawn on; so close, the best may well lie beyond


def at_edges(config: Mapping[str, Any], sweeps: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per number of a configuration that ended at the edge of its searched range.

    An edge beyond which no value is allowed, such as label_smoothing 0, is not one.

    Args:
        config: the winner's.
        sweeps: of the phases that searched.

    Example:
        >>> at_edges({"lr": 0.01}, [{"parameters": {"lr": {"values": [0.001, 0.01]}}}])
        ['lr ended at 0.01, the highest value searched: a wider range may do better.']
    """
    sentences = []
    for name, value in config.items():
        specs = [sweep["parameters"][name] for sweep in sweeps if name in sweep["parameters"]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not specs:
            continue
        end = _end(float(value), specs)
        bounds = [FIELDS[name].metadata[key] for key in ("low", "above", "high", "below")]
        if end and float(value) not in bounds:
            sentences.append(
                f"{name} ended at {value_text(value)}, the {end} value searched: a wider range may do better."
            )
    return sentences


def _end(value: float, specs: Sequence[Mapping[str, Any]]) -> str:
    """'lowest' or 'highest' if the value is at that end of all that the specs searched, otherwise ''."""
    lows, highs, near = [], [], 0.0
    for spec in specs:
        numbers = [n for n in spec.get("values", []) if isinstance(n, int | float) and not isinstance(n, bool)]
        if "min" in spec and "max" in spec:
            numbers, near = [float(spec["min"]), float(spec["max"])], NEAR
        if len(set(numbers)) > 1:
            lows.append(float(min(numbers)))
            highs.append(float(max(numbers)))
    if not lows:
        return ""
    low, high = min(lows), max(highs)
    on_log = any("log" in str(spec.get("distribution", "")) for spec in specs) and min(low, value) > 0
    low, high, value = (math.log(each) if on_log else each for each in (low, high, value))
    share = (value - low) / (high - low)
    return "lowest" if share <= near else "highest" if share >= 1 - near else ""
