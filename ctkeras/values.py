"""Values of hyperparameters, from text or of their own type."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any


def converted(value: Any, kind: Any) -> Any:
    """The value as `kind`, or None if it cannot be converted."""
    if kind is str:
        return value if isinstance(value, str) else str(value) if isinstance(value, os.PathLike) else None
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}.get(str(value).strip().lower())
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if kind is float:
        return number
    try:
        whole = int(value) if isinstance(value, (int, str)) else int(number)
    except (ValueError, OverflowError):
        return None
    return whole if whole == number else None


def allowed(value: Any, meta: Mapping[str, Any]) -> bool:
    """Whether a value of the right type is finite, within its bounds and one of its choices."""
    if isinstance(value, str):
        return (not meta["choices"] or value in meta["choices"]) and bool(re.fullmatch(meta["pattern"] or ".*", value))
    return (
        math.isfinite(value)
        and (meta["low"] is None or value >= meta["low"])
        and (meta["high"] is None or value <= meta["high"])
        and (meta["above"] is None or value > meta["above"])
        and (meta["below"] is None or value < meta["below"])
    )
