"""A search's progress in the terminal."""

import datetime
import math
import shutil
import sys
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from ctkeras.runtime.console import seconds_text
from ctkeras.search.budget import Budget
from ctkeras.search.cost import Cost
from ctkeras.search.status import best, counted, outcome, settings


class Progress:
    """What a person sees while a search runs: lines that stay and, on a terminal, a live line that is redrawn."""

    def __init__(
        self,
        title: str,
        total: int,
        names: Sequence[str],
        *,
        metric: str,
        maximize: bool,
        later: int = 0,
        cost: Cost | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.later = later  # number of trials that follow
        self.cost = cost or Cost()
        self.budget = budget or Budget.of(math.inf)
        self.title, self.total, self.names, self.metric, self.maximize = title, total, names, metric, maximize
        self.live = sys.stderr.isatty()
        self.running: dict[int, str] = {}  # what each running trial is doing
        self.best: FrozenTrial | None = None
        self.ended = 0
        self.said: set[str] = set()

    def say(self, text: str, *, once: bool = False) -> None:
        """Prints a line that stays."""
        if once and text in self.said:
            return
        self.said.add(text)
        self.close()
        print(text, file=sys.stderr, flush=True)
        self.draw()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Updates the best trial and the number of trials that have ended."""
        self.best = best(trials, maximize=self.maximize)
        self.ended = sum(trial.state.is_finished() for trial in trials)

    def end(self, trial: FrozenTrial) -> None:
        """Prints the line of a trial that has ended, followed by the state of the search."""
        self.cost.ended(trial)
        self.running.pop(trial.number, None)
        attrs = trial.user_attrs
        what = f"{self.metric} {trial.value:.4f}" if trial.value is not None else "failed"
        parts = [f"{self.title} {self.ended}/{self.total}: trial {trial.number}", what]
        parts.append(settings(attrs.get("config", {}), self.names))
        if attrs.get("seconds") is not None:
            parts.append(f"{counted(attrs['epochs'], 'epoch')}, {seconds_text(attrs['seconds'])}")
        if trial.state == TrialState.PRUNED or trial.value is None:
            parts.append(outcome(trial))
        self.say("  ".join(part for part in (*parts, self.summary()) if part))

    def summary(self) -> str:
        """The best value so far, and when all trials will have ended."""
        parts = [f"best {self.best.value:.4f} (trial {self.best.number})"] if self.best is not None else []
        left = self.total - self.ended
        seconds, in_all = self.cost.left(left), self.cost.left(left, later=self.later)
        if seconds is not None and in_all is not None and left + self.later > 0:
            seconds, in_all = min(seconds, self.budget.left), min(in_all, self.budget.left_in_all)
            parts += [f"{seconds_text(seconds)} left"] if left else []
            at = datetime.datetime.now() + datetime.timedelta(seconds=in_all)
            parts.append(f"{'all phases ' if self.later else ''}done at {at:%H:%M}")
        return f"[{', '.join(parts)}]" if parts else ""

    def draw(self) -> None:
        """Draws the live line."""
        if not self.live:
            return
        now = ", ".join(f"trial {number}: {what}" for number, what in sorted(self.running.items()))
        text = f"{self.title} {self.ended}/{self.total}  {now}  {self.summary()}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[2K{text[:width]}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clears the live line."""
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
