"""A time budget: no trial starts that by the estimate would not end within it."""

import dataclasses
import re
import time

from ctkeras.errors import UserError
from ctkeras.runtime.console import seconds_text

UNITS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
EXAMPLES = "a time, as in 90m, 2h, 1h30m or 3:00:00"
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.I)
_CLOCK = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d)")


def seconds_of(text: str) -> float:
    """The seconds of a duration with units, or of H:MM:SS.

    Raises:
        UserError: it is neither, or is zero.

    Example:
        >>> seconds_of("1h30m"), seconds_of("0:00:45")
        (5400.0, 45.0)
    """
    given, total = text.strip(), 0.0
    if clock := _CLOCK.fullmatch(given):
        hours, minutes, seconds = map(int, clock.groups())
        total = hours * 3600.0 + minutes * 60 + seconds
    elif given and not re.sub(r"\s", "", _PART.sub("", given)):
        total = sum(float(number) * UNITS[unit.lower()] for number, unit in _PART.findall(given))
    if total <= 0:
        raise UserError(f"--budget takes {EXAMPLES}; got {text!r}")
    return total


@dataclasses.dataclass
class Budget:
    """The time that a search has, from now on."""

    seconds: float  # as given, for messages
    ends: float  # on time.monotonic's clock: no trial is to end later
    whole: float  # the same for the first trial of a search, which may use what is meant for later searches
    refused: float | None = None  # the estimated seconds of the trial that did not fit; nothing starts after that

    @classmethod
    def of(cls, seconds: float) -> "Budget":
        """A budget that begins now."""
        ends = time.monotonic() + seconds
        return cls(seconds, ends, ends)

    def part(self, share: float) -> "Budget":
        """The part of the time left that one of several searches gets.

        Args:
            share: above 0, at most 1; 0 if the search is not to start any further trial.
        """
        now = time.monotonic()
        return Budget(self.seconds, now + max(0.0, self.whole - now) * share, self.whole if share else now)

    def fits(self, seconds: float | None, *, first: bool) -> bool:
        """Whether a trial may start.

        Args:
            seconds: that it takes by the estimate; None: not known, so it may, as long as there is time.
            first: whether the search has no result yet and runs no other trial.
        """
        if self.refused is None and time.monotonic() + (seconds or 0.0) > (self.whole if first else self.ends):
            self.refused = seconds or 0.0
        return self.refused is None

    @property
    def left(self) -> float:
        """The seconds until the search's trials are to end."""
        return max(0.0, self.ends - time.monotonic())

    @property
    def left_in_all(self) -> float:
        """The same for those of the later searches."""
        return max(0.0, self.whole - time.monotonic())

    @property
    def spent(self) -> bool:
        """Whether a trial did not fit, so that none starts any more."""
        return self.refused is not None

    def sentence(self, left: int, total: int) -> str:
        """What a search left out, and why."""
        trial = f", which takes about {seconds_text(self.refused)}," if self.refused else ""
        part = "" if self.ends == self.whole else "its part of "
        return (
            f"{left} of {total} trials are left out: the next one{trial} would not end within {part}the budget of "
            f"{seconds_text(self.seconds)}; the same command continues with them"
        )
