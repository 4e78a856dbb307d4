"""Output in the terminal while a command runs."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from ctkeras.runtime import streams


class Bar:
    """A progress bar with the time left, for one epoch; drawn only on a terminal (a log gets one line per epoch)."""

    def __init__(self, title: str, total: int, *, after: float = 0.0) -> None:
        """Starts the clock; nothing is drawn in the first `after` seconds."""
        self.title, self.total, self.start, self.after = title, total, time.perf_counter(), after
        self.shown = sys.stderr.isatty()

    def update(self, done: int) -> None:
        """Draws the bar after `done` of `total` steps."""
        spent = time.perf_counter() - self.start
        if not self.shown or spent < self.after:
            return
        width = 24  # characters; fits beside title and ETA in 80 columns
        filled = width * done // self.total
        left = spent / done * (self.total - done)
        bar = "█" * filled + "░" * (width - filled)
        print(f"\r{self.title} {bar} {done}/{self.total}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clears the line of the bar."""
        if self.shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Prints a line of progress to standard error, so that standard output holds only results."""
    print(streams.shown(text), file=sys.stderr, flush=True)


def value_text(value: Any) -> str:
    """A hyperparameter's value, short: true, 0.0012, resnet18."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def seconds_text(seconds: float) -> str:
    """A duration in the unit that suits it: 8.2 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 9.95 else 1}f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Prints a line before a long step, and its duration afterwards if it took more than a second."""
    note(f"{text} …")
    start = time.perf_counter()
    yield
    if time.perf_counter() - start > 1:
        note(f"  done in {time.perf_counter() - start:.1f} s")
