"""places.json: where and when a run trained, one entry per process that worked on it."""

import time
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError
from ctkeras.runs.folder import read_json, write_json
from ctkeras.runtime.place import place

FILE = "places.json"


def begin(folder: Path, *, processors: int, accelerators: int, seconds: float = 0.0) -> None:
    """Adds an entry for this process.

    Args:
        folder: of the run.
        seconds: how long it has worked on the run already.
        processors: CPU cores that this process may use.
        accelerators: GPUs that it uses; 0: it trains on the CPU.
    """
    entry = {**place(), "processors": processors, "accelerators": accelerators, "begun": time.time() - seconds}
    _write(folder, [*read(folder), {**entry, "seen": time.time(), "ended": ""}])


def seen(folder: Path, ended: str = "") -> None:
    """Writes into the last entry that its process still works, or why it ended.

    An entry that stays without an end belongs to a process that was killed, or whose node died.

    Args:
        folder: of the run.
        ended: metrics.json's stopped_by, or error; '' while it works.
    """
    if entries := read(folder):
        _write(folder, [*entries[:-1], {**entries[-1], "seen": time.time(), "ended": ended}])


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries, the earliest first; empty if the file is missing or damaged, because nothing depends on it."""
    try:
        entries = read_json(folder / FILE).get("places")
    except UserError:
        return []
    return [entry for entry in entries if _sound(entry)] if isinstance(entries, list) else []


def _sound(entry: Any) -> bool:
    """Whether an entry has a host and times."""
    if not isinstance(entry, dict) or not isinstance(entry.get("host"), str):
        return False
    return all(isinstance(entry.get(name), int | float) for name in ("begun", "seen", "processors", "accelerators"))


def _write(folder: Path, entries: list[dict[str, Any]]) -> None:
    write_json(folder / FILE, {"format": 1, "places": entries})
