"""Numbers as the report writes them."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard


def known(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a finite number, because a file can hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A number with fixed digits, or a dash for anything else, because a file can hold anything."""
    usable = isinstance(value, int | float) and math.isfinite(value)
    return "–" if not usable else signed(f"{value:.{digits}f}")


def signed(text: str) -> str:
    """A written number with a minus sign in place of a hyphen."""
    return text.replace("-", "\u2212")


def with_interval(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """A number and its 95% interval: 0.806 (0.708–0.889)."""
    if low is None or high is None:
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)}–{number(high, digits)})"


def three(values: Mapping[str, Any], name: str) -> str:
    """A metric with its bounds, under the names that evaluation gives them: name, name_low, name_high."""
    return with_interval(values.get(name), values.get(f"{name}_low"), values.get(f"{name}_high"))


def size(count: float | None) -> str:
    """Bytes in the unit that suits them: 640 MB, 2.3 GB."""
    if count is None:
        return "–"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def millions(count: float | None) -> str:
    """A number of parameters: 2.2 M, 5,124."""
    if count is None:
        return "–"
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,.0f}"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun: 1 run, 2 runs."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
