"""The local engine: runs a sweep's trials in a pool of worker processes, with no server, until all have ended."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from ctkeras import sampling, sources, space, storage, sweepcheck, sweepfile
from ctkeras.config import FIELDS, MODEL_NAMES, RunConfig, UserError, parse_value
from ctkeras.runs import folder as runfolder
from ctkeras.supervisor import Supervisor
from ctkeras.training.stopping import Stop
from ctkeras.trials import Search, Trials
from ctkeras.workers import Pool


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The state of a search when the command ends."""

    trials: list[FrozenTrial]
    stopped_by: str  # '' if all trials have ended


class _AtOnce(BaseException):
    """A second Ctrl-C."""


def plan(
    content: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    title: str,
    seed: int = 0,
    group: str = "",
    later: int = 0,
    fingerprints: Mapping[str, str] | None = None,
) -> Search:
    """What the local engine searches for a sweep, under a study name that is the same on every machine with the same data.

    Args:
        content: the sweep.
        options: hyperparameters that are the same in all trials, or that belong to this machine.
        title: used if the sweep has no name.
        seed: of the sampler.
        group: of the runs at W&B; by default the study's name.
        later: number of trials that follow this search, to estimate the time left.
        fingerprints: of data sets that have been read already, by their place; they are not read again.

    Raises:
        UserError: the engine does not support the sweep, a value is out of range, there is no data or no folder for
            results, or all trials would be the same.
    """
    places = {name: parse_value(name, value) for name, value in options.items() if name in sweepfile.PLACES}
    sweepcheck.require_sound(sweepfile.SweepFile("the sweep", dict(content), {}), engine="local")
    content = sweepfile.with_flags(content)
    sweep = sweepfile.fix(content, {name: value for name, value in options.items() if name not in places})
    fixed = sweepfile.fixed(sweep)
    for name in sweepfile.PLACES:
        if name not in places and name not in _chosen(sweep["parameters"]):
            places[name] = fixed.get(name, FIELDS[name].default)
    if "output_dir" in places:
        runfolder.require_folder(places["output_dir"], "--output_dir")
    if "data" in places:
        places["data"] = places["data"] or os.environ.get("CTKERAS_DATA", "")
    fingerprint = (fingerprints or {}).get(places.get("data", ""), "")
    if "data" in places and not fingerprint:
        fingerprint = sources.open_source(places["data"]).fingerprint
    _require_choice(sweep, [name for name in options if name in sweepfile.varied(content)])
    name = sweepfile.study_name(sweep, title=title, more=[fingerprint, seed])
    job_type = str(sweep.get("name") or title)
    return Search(name, sweep, sampling.total_trials(sweep), seed, places, group or name, job_type, later, fingerprint)


def _chosen(parameters: Mapping[str, Any]) -> set[str]:
    """The names of the parameters for which a sweep chooses among several values."""
    return {name for name, spec in parameters.items() if "value" not in spec}


def _require_choice(sweep: Mapping[str, Any], given: Sequence[str]) -> None:
    """Refuses a search with nothing left to search: all its trials would be the same run.

    Args:
        sweep: supported, with the options applied.
        given: names of the options that fix what the sweep would search.
    """
    total = sampling.total_trials(sweep)
    if total > 1 and all(item.size == 1 for item in space.all_searched(sweep).values()):
        options = ", ".join(f"--{name}" for name in given)
        why = f"fixed by {options}" if given else "no parameter has several values"
        raise UserError(f"nothing is left to search ({why}): all {total} trials would be the same; use ctkeras train")


def run(search: Search, *, url: Any, pool: Pool, stop: Stop | None = None) -> Outcome:
    """Runs a search to its end, from its current state.

    Args:
        search: from `plan`.
        url: the storage, from storage.address.
        pool: the workers, which the caller ends.
        stop: a request to stop; Ctrl-C is one too. The checkpoints of running trials stay.

    Raises:
        UserError: the storage or the weights cannot be used, or every trial fails.
    """
    stop = stop or Stop()
    opened = storage.open_storage(url)
    try:
        trials = Trials(opened, search, hurry=lambda: bool(stop.reason))
        with _on_signals(stop):
            supervisor = Supervisor(trials, pool, stop=stop, shared=shared(search))
            try:
                supervisor.run()
            finally:
                supervisor.progress.close()
        return Outcome(trials.all(), stop.reason)
    except _AtOnce:
        return Outcome([], stop.reason)
    finally:
        opened.close()


@contextlib.contextmanager
def _on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM request a stop; a second SIGINT ends everything at once."""

    def receive(number: int, _frame: Any) -> None:
        if stop.reason and number == signal.SIGINT:
            raise _AtOnce
        stop.ask(signal.Signals(number).name.lower())

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shared(search: Search) -> dict[str, Any]:
    """What all trials of a search share, to be prepared before the first; image_size is None if it is searched."""
    sweep, places = search.content, search.places
    size = parse_value("image_size", sweepfile.fixed(sweep).get("image_size", RunConfig.image_size))
    return {
        "models": models_of(sweep),
        "weights_dir": places.get("weights_dir", ""),
        "data": places.get("data", ""),
        "image_size": None if "image_size" in sweepfile.searched(sweep) else size,
    }


def models_of(sweep: Mapping[str, Any]) -> list[str]:
    """The models whose ImageNet weights a sweep's trials may need."""
    constants = {"pretrained": RunConfig.pretrained, **sweepfile.fixed(sweep)}
    if not parse_value("pretrained", constants["pretrained"]):
        return []
    named = {value for name, value in _values(sweep["parameters"]) if name == "model_name"}
    needed = {constants["model_name"]} if "model_name" in constants else named or {RunConfig.model_name}
    return [name for name in MODEL_NAMES if name in needed]


def _values(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value in a sweep, with the name of its hyperparameter."""
    for name, spec in parameters.items():
        if "parameters" in spec:
            yield from _values(spec["parameters"])
        for value in [spec["value"]] if "value" in spec else spec.get("values", []):
            yield from value.items() if isinstance(value, Mapping) else [(name, value)]
