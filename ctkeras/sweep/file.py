"""The sweep file: loaded with its line numbers, its parameters and command read, the next phase's sweep made from results."""

import copy
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import FIELDS, PLACES, check_name, parse_value
from ctkeras.errors import UserError
from ctkeras.sweep.yamlfile import read_yaml

CANDIDATE = "candidate"  # one parameter whose values are mappings of hyperparameters that belong together
METRIC = {"name": "val_acc", "goal": "maximize"}
COMMAND = ["${env}", "python", "-m", "ctkeras", "train"]  # values are read from wandb.config, so no ${args}
# What W&B's agent replaces in a command; of the forms of the arguments, those that `ctkeras train` understands.
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_boolean_flags}", "${args_no_equals}")
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
SWITCHES = ("debug",)  # options without a value
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # of a parameter, in W&B's schema


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """A sweep as read: its content, and the line of each key by its path, counted from 1."""

    path: str
    content: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    repeated: tuple[tuple[str, ...], ...] = ()  # keys given twice; YAML silently uses the last


def load(path: str | Path) -> SweepFile:
    """Reads a sweep file.

    Raises:
        UserError: it cannot be read, is not YAML, or is not a mapping.
    """
    read = read_yaml(path)
    if not isinstance(read.content, dict):
        raise UserError(f"{path} must contain a sweep: a mapping with method, metric and parameters")
    return SweepFile(str(path), read.content, read.lines, read.repeated)


def capped(sweep: SweepFile, count: int) -> SweepFile:
    """A sweep of at most `count` runs: its run_cap where that is lower."""
    if count < 1:
        return sweep
    cap = sweep.content.get("run_cap", count)
    lower = isinstance(cap, int) and not isinstance(cap, bool) and count < cap
    return dataclasses.replace(sweep, content={**sweep.content, "run_cap": count if lower else cap})


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain hyperparameters from a sweep's configuration: a mapping (a candidate, a group) is replaced by its content.

    Args:
        values: as in wandb.config; names that begin with _ are W&B's own. Explicit keys win over those of a mapping.
    """
    inner: dict[str, Any] = {}
    explicit: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            if not name.startswith("_"):
                inner |= expand(value)
        elif not name.startswith("_"):
            explicit[name] = value
    return inner | explicit


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters among a run's recorded values."""
    return {name: config[name] for name in FIELDS if name in config}


def fix(sweep: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep in which some hyperparameters are the same in all runs, whatever the sweep had for them.

    Args:
        sweep: its content.
        values: by name, as their types or as text.

    Raises:
        UserError: an unknown name, or a value out of range.
    """
    for name in values:
        check_name(name)
    fixed = {name: {"value": parse_value(name, value)} for name, value in values.items()}
    return {**copy.deepcopy(dict(sweep)), "parameters": _without(sweep["parameters"], fixed) | fixed}


def with_flags(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep whose command's options, as --dropout=0.2, are constant parameters: the local engine starts no command.

    A parameter of the same name wins, because a sweep's values win over the options of a run that an agent starts.

    Args:
        sweep: its content. `${envvar:NAME}` in an option gives way to that variable, as under W&B's agent.

    Raises:
        UserError: a value out of range, or a variable is not set.
    """
    command, parameters = sweep.get("command"), sweep.get("parameters")
    if not isinstance(command, list) or not isinstance(parameters, Mapping):
        return dict(sweep)
    options = [option for option in options_of(command) if option.name in FIELDS and option.value is not None]
    constants = {
        option.name: {"value": parse_value(option.name, _set_variables(option.name, str(option.value)))}
        for option in options
    }
    moved = {place for option in options for place in option.places}
    rest = [word for place, word in enumerate(command) if place not in moved]
    return {**sweep, "command": rest, "parameters": constants | dict(parameters)} if options else dict(sweep)


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a sweep's command."""

    name: str
    value: str | None  # None where the command gives none
    places: tuple[int, ...]  # of its words in the command


def options_of(command: Sequence[Any]) -> list[Option]:
    """The options that a sweep's command gives to `ctkeras train`, in order; none where it starts something else.

    Args:
        command: its words, and numbers, which an agent makes words of.
    """
    words = list(map(str, command))
    options: list[Option] = []
    place = train_of(words)
    while place is not None and (place := place + 1) < len(words):
        name, equals, value = words[place].removeprefix("--").partition("=")
        if not words[place].startswith("--"):
            continue
        following = words[place + 1] if place + 1 < len(words) else "--"
        bare = not equals and name not in SWITCHES and not following.startswith("--") and following not in MACROS
        if bare:
            options.append(Option(name, following, (place, place + 1)))
            place += 1
        else:
            options.append(Option(name, value if equals else None, (place,)))
    return options


def train_of(command: Sequence[Any]) -> int | None:
    """Where a sweep's command has the verb `train` of ctkeras; None where it starts something else."""
    words = list(map(str, command))
    starts = (place for place, word in enumerate(words) if word.rpartition("/")[2] == "ctkeras")
    return next((place + 1 for place in starts if words[place + 1 : place + 2] == ["train"]), None)


def with_variables(text: str) -> str:
    """Text with each `${envvar:NAME}` replaced as W&B's agent does: by the variable, or its name where it is not set."""
    return VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), text)


def _set_variables(name: str, text: str) -> str:
    """An option's value with its variables replaced.

    Raises:
        UserError: one is not set; W&B's agent would pass its name as the value.
    """
    if missing := [variable for variable in VARIABLE.findall(text) if variable not in os.environ]:
        raise UserError(
            f"--{name} in the sweep's command needs the environment variable {missing[0]}, which is not set"
        )
    return with_variables(text)


def _without(parameters: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those named, nested ones included."""
    remaining: dict[str, Any] = {}
    for name, spec in parameters.items():
        if "parameters" in spec:
            if inner := _without(spec["parameters"], names):
                remaining[name] = {"parameters": inner}
        elif name not in names:
            remaining[name] = copy.deepcopy(spec)
    return remaining


def fixed(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that are the same in all runs of a sweep, nested ones included."""
    constants: dict[str, Any] = {}
    for name, spec in sweep.get("parameters", {}).items():
        if "parameters" in spec:
            constants = fixed(spec) | constants
        elif "value" in spec:
            constants |= spec["value"] if isinstance(spec["value"], Mapping) else {name: spec["value"]}
    return {name: value for name, value in constants.items() if name in FIELDS}


def possible(parameters: Mapping[str, Any], name: str, *, without: str = "") -> list[Any]:
    """The values, and the ends of the ranges, that a sweep has for a hyperparameter, nested or in a candidate.

    Args:
        parameters: the sweep's, sound or not.
        name: the hyperparameter.
        without: candidates that also have this hyperparameter are left out.
    """
    collected: list[Any] = []
    for key, spec in parameters.items():
        if not isinstance(spec, Mapping):
            continue
        if isinstance(inner := spec.get("parameters"), Mapping):
            collected += possible(inner, name, without=without)
        values = spec["values"] if isinstance(spec.get("values"), list) else []
        values = [*values, *(spec[end] for end in ("value", "min", "max") if end in spec)]
        candidates = [value for value in values if isinstance(value, Mapping) and without not in value]
        collected += values if key == name else [value[name] for value in candidates if name in value]
    return collected


def study_name(sweep: Mapping[str, Any], *, title: str, more: Sequence[Any] = ()) -> str:
    """The name a sweep's study is known by: the sweep's own and a short hash of what it searches.

    A larger run_cap continues the same study, so it is not part of the hash; nor are the places of data and results.

    Args:
        sweep: its content, options applied.
        title: used where the sweep has no name.
        more: what else distinguishes studies, such as the data's fingerprint.
    """
    hashed = {key: sweep.get(key) for key in ("method", "metric", "early_terminate")}
    hashed["parameters"] = _without(sweep["parameters"], dict.fromkeys(PLACES))
    text = json.dumps([hashed, list(more)], sort_keys=True, default=str)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(sweep.get("name") or title)).strip("-")[:40] or "sweep"
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def leaves(
    parameters: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Each parameter's path and specification, sorted by name level by level, which is W&B's order.

    Args:
        parameters: a sound sweep's.
        path: of the group that holds them.
    """
    for name, spec in sorted(parameters.items()):
        if "parameters" in spec:
            yield from leaves(spec["parameters"], (*path, name))
        else:
            yield (*path, name), spec


def searched(sweep: Mapping[str, Any]) -> list[str]:
    """The hyperparameters that a sweep searches, including a candidate's, in the order of RunConfig."""
    names: set[str] = set()
    for name, spec in sweep.get("parameters", {}).items():
        if "parameters" in spec:
            names |= set(searched(spec))
        for value in spec.get("values", []):
            names |= set(value) if isinstance(value, Mapping) else {name}
        if "min" in spec or ("distribution" in spec and "value" not in spec):
            names.add(name)
    return [name for name in FIELDS if name in names | {"model_name"} and name not in PLACES]


def varied(sweep: Mapping[str, Any]) -> list[str]:
    """The hyperparameters that differ between a sweep's runs: the searched ones with more than one value."""
    choices: dict[str, set[str]] = {}
    held = fixed(sweep)

    def collect(parameters: Mapping[str, Any]) -> None:
        for name, spec in parameters.items():
            if "parameters" in spec:
                collect(spec["parameters"])
            for value in spec.get("values", []):
                for key, one in value.items() if isinstance(value, Mapping) else [(name, value)]:
                    choices.setdefault(key, set()).add(repr(one))

    collect(sweep.get("parameters", {}))
    return [name for name in searched(sweep) if name not in held and len(choices.get(name, "..")) > 1]


def dump(sweep: Mapping[str, Any], header: Sequence[str]) -> str:
    """A sweep as YAML below a header of comment lines."""
    import yaml

    comment = "".join(f"# {line}".rstrip() + "\n" for line in header)
    return comment + yaml.safe_dump(dict(sweep), sort_keys=False, width=120)
