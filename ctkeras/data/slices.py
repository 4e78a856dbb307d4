"""Which slices of a volume or series are used: all, the middle ones, every so many, or those that a table labels."""

import re
from collections.abc import Sequence

from ctkeras.errors import UserError

ALL, LABELLED = "all", "labelled"
PATTERN = rf"{ALL}|{LABELLED}|(middle|every):[1-9]\d*"


def check(slices: str) -> None:
    """Refuses what is not a choice of slices.

    Raises:
        UserError: it is not all, labelled, middle:N or every:K.
    """
    if not re.fullmatch(PATTERN, slices):
        raise UserError(f"slices must be all, middle:N, every:K or labelled, as in middle:8; got {slices!r}")


def chosen(places: Sequence[float], slices: str) -> list[int]:
    """Indices of the chosen slices of one series, in the order of their places.

    Args:
        places: of each slice, mm along the body or numbers; slices of one place keep their order.
        slices: middle:N takes the N in the middle, every:K the first and each K-th after it; all and labelled take all,
            because what a table does not label is not in it.

    Example:
        >>> chosen([30.0, 10.0, 20.0, 40.0, 50.0], "middle:3")
        [2, 0, 3]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    kind, _, text = slices.partition(":")
    if kind == "middle":
        start = max(0, (len(order) - int(text)) // 2)
        return order[start : start + int(text)]
    return order[:: int(text)] if kind == "every" else order
