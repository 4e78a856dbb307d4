"""What a search's trials cost in time: told before the first one starts, used for the time left, and for a budget."""

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.runtime import stored
from ctkeras.runtime.console import seconds_text
from ctkeras.search import sampling
from ctkeras.search.plan import Search
from ctkeras.search.status import counted
from ctkeras.sweep import file
from ctkeras.training import costs

MOST_DRAWN = 1000  # trials whose hyperparameters are drawn in advance; more cost as much as these on average


class Cost:
    """The work of each trial, in seconds by the estimate, and how long such work takes here, by the trials that have ended.

    With bayes the trials to come are not known; those that it would draw without knowledge stand for them.
    """

    def __init__(self, search: Search | None = None, *, workers: int = 1) -> None:
        self.search, self.workers = search, workers  # without a search, all trials cost the same
        self.machine: costs.Machine | None = None
        self.images: dict[str, int] = {}
        self.drawn: list[RunConfig | None] = []  # None: it will fail
        self.estimates: list[costs.Estimate | None] = []
        # What was known when the search began: its own trials correct the pace, and would otherwise count twice.
        self.read = functools.cache(stored.find_json)
        self.usual = 1.0  # work of a trial without an estimate
        self.last = time.monotonic()
        self.done: list[
            tuple[float, float, float]
        ] = []  # of ended trials: seconds since the one before, work, share of it

    def learn(self, machine: Mapping[str, Any] | None, images: Mapping[str, int] | None) -> None:
        """Estimates all trials, once a worker has said where it runs and how many images there are."""
        if not machine or not images or self.search is None:
            return
        self.machine, self.images = costs.Machine(**machine), dict(images)
        self.drawn = [_drawn(self.search, number) for number in range(min(self.search.total, MOST_DRAWN))]
        self.estimates = [self._estimate(config) for config in self.drawn]
        known = [one.seconds for one in self.estimates if one is not None]
        self.usual = sum(known) / len(known) if known else 1.0

    def _estimate(self, config: RunConfig | None) -> costs.Estimate | None:
        if config is None or self.machine is None:
            return None
        return costs.estimate(config, self.images, self.machine, read=self.read)

    def work(self, config: Mapping[str, Any]) -> float:
        """The seconds that a trial takes by the estimate alone."""
        try:
            found = self._estimate(RunConfig.from_mapping(config)) if self.machine else None
        except UserError:
            return self.usual
        return self.usual if found is None else found.seconds

    def ended(self, trial: FrozenTrial) -> None:
        """Counts a trial of this process that has ended."""
        now, attrs = time.monotonic(), trial.user_attrs
        config = attrs.get("config", {})
        most = max(1, int(config.get("max_epochs", 1)))
        stopped = attrs.get("stopped_by") in ("hyperband", "early_stopping") and attrs.get("epochs")
        share = min(1.0, attrs["epochs"] / most) if stopped else 1.0
        self.done.append((now - self.last, self.work(config), share))
        self.last = now

    def pace(self) -> float | None:
        """Seconds per second of estimated work, by the trials that have ended here; None before the first.

        The first trial prepares and compiles what the others reuse, so it counts only while it is the only one.
        """
        ended = self.done[1:] or self.done
        work = sum(work * share for _, work, share in ended)
        return sum(seconds for seconds, _, _ in ended) / work if work else None

    def left(self, trials: int, *, later: int = 0) -> float | None:
        """The seconds that the last trials of the search take, with all workers; None before the first has ended.

        What hyperband and early stopping have saved so far is expected of the others too.

        Args:
            trials: how many of them.
            later: number of trials of later searches, which cost as much on average.
        """
        pace, ended = self.pace(), self.done[1:] or self.done
        if pace is None:
            return None
        saved = sum(work * share for _, work, share in ended) / sum(work for _, work, _ in ended)
        return pace * saved * (self._work_of(trials) + later * self.usual)

    def _work_of(self, trials: int) -> float:
        """The work of the last trials of the search."""
        works = [self.usual if one is None else one.seconds for one in self.estimates]
        if not works:
            return self.usual * trials
        return sum(works[len(works) - min(trials, len(works)) :]) + max(0, trials - len(works)) * self.usual

    def of(self, config: Mapping[str, Any], *, done: int = 0) -> float | None:
        """The seconds that a trial takes in one worker, by the trials that have ended here or else by the estimate.

        Args:
            config: its hyperparameters.
            done: epochs that it has trained already.

        Returns:
            None if nothing is known.
        """
        pace, known = self.pace(), any(one is not None for one in self.estimates)
        if pace is None and not known:
            return None
        most = max(1, int(config.get("max_epochs", 1)))
        return self.work(config) * (1.0 if pace is None else pace * self.workers) * (1.0 - min(1.0, done / most))

    @property
    def fine_tunes(self) -> bool:
        """Whether a trial trains more than a head on cached features, which takes minutes to hours."""
        return any(config is not None and config.cut != "head" for config in self.drawn)

    def sentence(self, left: int) -> str:
        """What the trials that are left will take, by what evidence, and how far it may be off; '' if no machine is known."""
        if self.machine is None:
            return ""
        some = self.estimates[len(self.estimates) - min(left, len(self.estimates)) :]
        known = [one for one in some if one is not None]
        start = f"cost: {counted(left, 'trial')} on {self.machine}"
        if not known:
            return f"{start}: not known before the first one has ended, because nothing like it was measured here"
        scale = left / len(some) / self.workers
        middle = sum(one.seconds for one in known) * scale
        low, high = (sum(one.seconds * one.factor**sign for one in known) * scale for sign in (-1, 1))
        more = (
            f"; {counted(len(some) - len(known), 'trial')} not counted, nothing is known of them"
            if len(known) < len(some)
            else ""
        )
        less = "; hyperband may shorten it" if self.search and "early_terminate" in self.search.content else ""
        return (
            f"{start}: about {seconds_text(middle)}, {_evidence(known)}; between {seconds_text(low)} and "
            f"{seconds_text(high)}{more}{less}"
        )


def _drawn(search: Search, number: int) -> RunConfig | None:
    """The hyperparameters that a trial has by chance, or by the grid; None if no run accepts them."""
    values = sampling.uninformed(search.content, number, study_seed=search.seed)
    try:
        return RunConfig.from_mapping(file.expand(values) | search.places)
    except UserError:
        return None


def _evidence(known: Sequence[costs.Estimate]) -> str:
    """On what estimates are based, in words."""
    words = {
        "measured": "from runs measured on this machine",
        "similar": "from runs with another batch size on this machine",
        "reference": f"from the table in {costs.SOURCE}, as nothing like it was measured here",
    }
    counts = Counter(one.source for one in known)
    if len(counts) == 1:
        return words[next(iter(counts))]
    return ", ".join(f"{words[name]} ({counts[name]})" for name in words if counts[name])
