"""Plans a local search: its sweep, trials and data, before anything runs."""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctkeras import config
from ctkeras.config import FIELDS, FROM_SCRATCH, MODEL_NAMES, RunConfig, parse_value
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.runs import folder
from ctkeras.search import sampling, space
from ctkeras.sweep import check, file
from ctkeras.tracking import settings

MOST_FORMS = 8  # of images, prepared before the first trial; any other when a trial first needs it


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and the name of its study."""

    name: str  # of the study
    content: dict[str, Any]  # the sweep
    total: int  # number of trials
    seed: int  # of the sampler
    places: dict[str, str]  # hyperparameters that belong to a machine: data, output_dir, weights_dir, project
    group: str
    job_type: str
    later: int = 0  # number of trials that follow this search
    fingerprint: str = ""  # of the data; '' if the sweep chooses among several

    @property
    def metric(self) -> str:
        """The name of what is optimised."""
        return (self.content.get("metric") or file.METRIC)["name"]

    @property
    def varied(self) -> list[str]:
        """The hyperparameters that differ between trials."""
        return file.varied(self.content)

    @property
    def maximize(self) -> bool:
        """Whether a higher value of the metric is better."""
        return (self.content.get("metric") or file.METRIC).get("goal") == "maximize"  # W&B minimises by default


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
    places = {name: parse_value(name, value) for name, value in options.items() if name in config.PLACES}
    settings.prepare(places.get("project", ""), local=True)
    check.require_sound(file.SweepFile("the sweep", dict(content), {}), engine="local")
    content = file.with_flags(content)
    sweep = file.fix(content, {name: value for name, value in options.items() if name not in places})
    fixed = file.fixed(sweep)
    for name in config.PLACES:
        if name not in places and name not in _chosen(sweep["parameters"]):
            places[name] = fixed.get(name, FIELDS[name].default)
    if "output_dir" in places:
        folder.require_folder(places["output_dir"], "--output_dir")
    if "data" in places:
        given = places["data"] or os.environ.get("CTKERAS_DATA", "")
        places["data"] = config.with_columns(given, places.pop("columns", ""))
    fingerprint = (fingerprints or {}).get(places.get("data", ""), "")
    if "data" in places and not fingerprint:
        source = sources.open_source(places["data"], slices=str(fixed.get("slices", "all")))
        sources.announce(source)
        fingerprint = source.fingerprint
    _require_choice(sweep, [name for name in options if name in file.varied(content)])
    name = file.study_name(sweep, title=title, more=[fingerprint, seed])
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


def shared(search: Search) -> dict[str, Any]:
    """What trials of a search share, to be prepared before the first: `forms` are size, crop, fit, gray and window."""
    sweep, places = search.content, search.places
    return {
        "models": models_of(sweep),
        "weights_dir": places.get("weights_dir", ""),
        "data": places.get("data", ""),
        "forms": _forms(sweep["parameters"]),
        "slices": file.possible(sweep["parameters"], "slices") or [FIELDS["slices"].default],
    }


def _forms(parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The forms in which a sweep's trials read images; [] if they are drawn from a range, or too many to prepare them all."""
    choices = []
    for name in ("image_size", "crop", "fit", "gray", "window"):
        if not {"min", "distribution", "mu"}.isdisjoint(parameters.get(name, {})):
            return []
        values = file.possible(parameters, name) or [FIELDS[name].default]
        choices.append(list(dict.fromkeys(parse_value(name, value) for value in values)))
    forms = list(itertools.product(*choices))
    return forms if len(forms) <= MOST_FORMS else []


def models_of(sweep: Mapping[str, Any]) -> list[str]:
    """The models whose ImageNet weights a sweep's trials may need."""
    constants = {"pretrained": RunConfig.pretrained, **file.fixed(sweep)}
    if not parse_value("pretrained", constants["pretrained"]):
        return []
    named = {value for name, value in _values(sweep["parameters"]) if name == "model_name"}
    needed = {constants["model_name"]} if "model_name" in constants else named or {RunConfig.model_name}
    return [name for name in MODEL_NAMES if name in needed and name not in FROM_SCRATCH]


def _values(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value in a sweep, with the name of its hyperparameter."""
    for name, spec in parameters.items():
        if "parameters" in spec:
            yield from _values(spec["parameters"])
        for value in [spec["value"]] if "value" in spec else spec.get("values", []):
            yield from value.items() if isinstance(value, Mapping) else [(name, value)]
