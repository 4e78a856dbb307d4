"""One finished run in short, and which of several is best."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run of a sweep, whichever engine ran it."""

    name: str
    config: Mapping[str, Any]
    val_acc: float
    val_loss: float


def best_first(results: Iterable[Result]) -> list[Result]:
    """Results by val_acc, ties by val_loss, then by name, so that there is only one order."""
    return sorted(results, key=lambda result: (-result.val_acc, result.val_loss, result.name))
