"""The local engine: runs a sweep's trials in a pool of worker processes, with no server, until all have ended."""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from typing import Any

from optuna.trial import FrozenTrial

from ctkeras.search import storage
from ctkeras.search.budget import Budget
from ctkeras.search.plan import Search, shared
from ctkeras.search.pool import Pool
from ctkeras.search.supervisor import Supervisor
from ctkeras.search.trialstore import Trials
from ctkeras.training.stopping import Stop, heeded


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The state of a search when the command ends."""

    trials: list[FrozenTrial]
    stopped_by: str  # '' if all trials have ended, or the budget has
    left_out: str = ""  # what the budget left out, in a sentence


class _AtOnce(BaseException):
    """A second Ctrl-C."""


def run(search: Search, *, url: Any, pool: Pool, stop: Stop | None = None, budget: Budget | None = None) -> Outcome:
    """Runs a search to its end, from its current state.

    Args:
        search: from `plan`.
        url: the storage, from storage.address.
        pool: the workers, which the caller ends.
        stop: a request to stop; Ctrl-C is one too. The checkpoints of running trials stay.
        budget: the time that it has; what does not fit is left out.

    Raises:
        UserError: the storage or the weights cannot be used, or every trial fails.
    """
    stop = stop or Stop()
    opened = storage.open_storage(url)
    try:
        trials = Trials(opened, search, hurry=lambda: bool(stop.reason))
        with _on_signals(stop):
            supervisor = Supervisor(trials, pool, stop=stop, shared=shared(search), budget=budget)
            try:
                supervisor.run()
            finally:
                supervisor.progress.close()
        ended = [trial for trial in trials.all() if trial.state.is_finished() or stop.reason]
        left_out = budget.sentence(search.total - len(ended), search.total) if budget and budget.spent else ""
        return Outcome(ended, stop.reason, left_out)
    except _AtOnce:
        return Outcome([], stop.reason)
    finally:
        opened.close()


@contextlib.contextmanager
def _on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP request a stop; a second SIGINT ends everything at once."""

    def receive(number: int, _frame: Any) -> None:
        if stop.reason and number == signal.SIGINT:
            raise _AtOnce
        stop.ask(signal.Signals(number).name.lower())

    before = {number: signal.signal(number, receive) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
