"""history.csv: one row per epoch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import EPOCH_METRICS
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_csv, write_csv


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes history.csv: one row per epoch, the columns of EPOCH_METRICS."""
    write_csv(folder / "history.csv", EPOCH_METRICS, history, durable=False)  # the checkpoint has it too


def read_history(folder: Path) -> list[dict[str, float]]:
    """history.csv's rows by epoch; [] when it is missing.

    Raises:
        UserError: what is damaged in it, and in which line.
    """
    path = folder / "history.csv"
    if not path.exists():
        return []
    rows = read_csv(path)
    for line, row in enumerate(rows, start=2):
        for name in ("epoch", *(name for name in EPOCH_METRICS if name in row)):
            value, text = _number(row.get(name)), row.get(name) or ""  # '' in a line that ends early
            if (math.isnan(value) and text.lower() != "nan") or (name == "epoch" and not math.isfinite(value)):
                raise UserError(f"{path}, line {line}: {name} is {repr(text) if text else 'missing'}")
    if not rows:
        raise UserError(f"{path} has no epochs")
    return by_epoch(rows)


def by_epoch(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, float]]:
    """Rows as numbers, NaN for anything else, in the order of their epochs; a row without an epoch is left out."""
    numbers = [{str(name): _number(value) for name, value in row.items()} for row in rows]
    return sorted((row for row in numbers if math.isfinite(row.get("epoch", math.nan))), key=lambda row: row["epoch"])


def _number(value: Any) -> float:
    """A number, NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
