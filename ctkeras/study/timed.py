"""A study with a budget of time: each phase's part of it, and which phases it has ended.

A phase that the budget has ended stays as it is until the study has ended, so that a study that is interrupted later
resumes with the same winner of that phase. After that, the same command continues with the trials that were left out.
"""

from collections.abc import Iterable
from pathlib import Path

from ctkeras.runs.folder import read_json, write_json

FILE = "budget.json"  # in the study's folder


def share(folder: Path, number: int, *, trials: int, later: int) -> float:
    """The part of the time left that a phase gets: as many trials as it has of all that are left; 0 if it has ended.

    Args:
        folder: of the study.
        number: of the phase.
        trials: of the phase.
        later: number of trials in later phases.
    """
    return 0.0 if number in _ended(folder) else trials / (trials + later)


def mark(folder: Path, number: int) -> None:
    """Writes that the budget has ended a phase."""
    _write(folder, {*_ended(folder), number})


def clear(folder: Path) -> None:
    """Lets all phases go on, once the study has ended."""
    if _ended(folder):
        _write(folder, ())


def _ended(folder: Path) -> set[int]:
    path = folder / FILE
    return set(read_json(path).get("ended", [])) if path.exists() else set()


def _write(folder: Path, numbers: Iterable[int]) -> None:
    write_json(folder / FILE, {"format": 1, "ended": sorted(numbers)})
