"""Checks sweep files: what each engine refuses or warns about, by key and line, and what to write instead.

W&B's rules hold for every engine: they are those of its `sweeps` package (0.3.0: schema.json, schema.py, cfg.py,
hyperband_stopping.py) and of its agent (wandb_agent.py). What only one engine refuses is a finding of that engine.
"""

import contextlib
import dataclasses
import re
from typing import Any

from ctkeras.config import EPOCH_METRICS, FIELDS, describe
from ctkeras.errors import UserError
from ctkeras.sweep import distributions, file
from ctkeras.sweep.check_hyperband import of_early_terminate
from ctkeras.sweep.check_parameters import EXAMPLE, Found, of_parameters, of_value, of_warmup, unknown_keys
from ctkeras.sweep.file import SweepFile

ENGINES = {"local": "the local engine (sweep run)", "wandb": "W&B (sweep create, sweep agent)"}
TEXT_KEYS = ("program", "name", "description", "entity", "project", "apiVersion", "kind", "job", "image_uri")
TOP_KEYS = (
    *("command", "method", "metric", "parameters", "early_terminate", "run_cap", "controller", "scheduler"),
    *TEXT_KEYS,
)
NOT_LOCAL = ("controller", "scheduler", "job", "image_uri")  # keys that only W&B's engine has
METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
# Besides name and goal, keys that only W&B's engine has, and what they may be; target is a number.
IMPUTE = {"impute": ("latest", "best", "worst"), "impute_while_running": ("latest", "best", "worst", "false")}
METRIC_KEYS = ("name", "goal", "target", *IMPUTE)
LOWER_IS_BETTER = ("train_loss", "val_loss", "epoch_seconds", "memory_bytes")
OTHER_OPTIONS = ("config", "debug", "resume")  # of the train verb, besides the hyperparameters
COMMAND = "[${env}, python, -m, ctkeras, train]"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong, or odd, in a sweep file."""

    line: int  # 0 where the sweep is not from a file
    key: str
    text: str
    error: bool = True
    engine: str = ""  # the only one that it concerns; '' for every engine

    def __str__(self) -> str:
        place = f"line {self.line}: {self.key}" if self.line else self.key
        line = f"{place}: {self.text}{'' if self.error else ' (warning)'}"
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def check(sweep: SweepFile, *, engine: str | None = None) -> list[Finding]:
    """All findings in a sweep file, by line.

    Args:
        sweep: from file.load.
        engine: "local" or "wandb", for what concerns that engine; None for what concerns any of them.
    """
    found = [(*finding, "") for finding in _findings(sweep.content, sweep.repeated)]
    sound = not any(error for _, _, error, _ in found)
    found += [(*finding, "wandb") for finding in _of_wandb(sweep.content)]
    found += [(*finding, "local") for finding in _of_local(sweep.content, sound=sound)]
    findings = [
        Finding(_line(sweep, path), ".".join(path), text, error, only)
        for path, text, error, only in found
        if not only or engine in (None, only)
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.line)


def require_sound(sweep: SweepFile, *, engine: str | None = None) -> list[Finding]:
    """Returns the warnings about a sweep file.

    Args:
        sweep: from file.load.
        engine: see check.

    Raises:
        UserError: it has errors; names the first and counts the others.
    """
    findings = check(sweep, engine=engine)
    errors = [finding for finding in findings if finding.error]
    if errors:
        more = f" (and {len(errors) - 1} more; see: sweep check)" if len(errors) > 1 else ""
        raise UserError(f"{sweep.path}, {errors[0]}{more}")
    return findings


def _line(sweep: SweepFile, path: tuple[str, ...]) -> int:
    """The line of a key, or of the nearest one above it that is written in the file."""
    written = (path[:n] for n in range(len(path), 0, -1) if path[:n] in sweep.lines)
    return next((sweep.lines[key] for key in written), min(1, len(sweep.lines)))


def _findings(content: dict[str, Any], repeated: tuple[tuple[str, ...], ...]) -> Found:
    """What concerns every engine."""
    for path in repeated:
        yield path, "is given twice; remove one of them", True
    if circular := _circular(content, (), set(), set()):
        yield circular, "contains itself, by an alias", True
        return
    for key, value in content.items():
        if key not in TOP_KEYS:
            yield (str(key),), unknown_keys(key, "a key of a sweep", TOP_KEYS), True
        elif value is None:
            yield (key,), "has no value; give it one, or remove the key", True
        elif key in TEXT_KEYS and not isinstance(value, str):
            yield (key,), f"must be text; got {value!r}", True
    method = content.get("method")
    if method not in METHODS:
        yield ("method",), f"must be one of {', '.join(METHODS)}; got {method!r}", True
    yield from _of_names(content)
    yield from _of_metric(content)
    yield from _of_command(content)
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        yield ("parameters",), EXAMPLE, True
        return
    yield from of_parameters(parameters, ("parameters",), method)
    with contextlib.suppress(UserError):  # an option out of range, which is a finding of the command
        parameters = file.with_flags(content)["parameters"]
    yield from of_warmup(parameters, ("parameters",))
    yield from of_early_terminate(content, parameters)


def _circular(node: Any, path: tuple[str, ...], above: set[int], done: set[int]) -> tuple[str, ...]:
    """The path at which a value contains itself; () where none does."""
    if not isinstance(node, dict | list) or id(node) in done:
        return ()
    if id(node) in above:
        return path
    items = node.items() if isinstance(node, dict) else enumerate(node)
    inner = (_circular(value, (*path, str(key)), above | {id(node)}, done) for key, value in items)
    found = next((place for place in inner if place), ())
    done.add(id(node))
    return found


def _of_names(content: dict[str, Any]) -> Found:
    """Keys that hold a name, a number or a mapping of one."""
    cap, project, controller = content.get("run_cap"), content.get("project"), content.get("controller")
    if cap is not None and not (distributions.is_integer(cap) and 1 <= cap <= distributions.COUNTABLE):
        yield ("run_cap",), f"must be a whole number from 1; got {cap!r}", True
    if isinstance(content.get("kind"), str) and content["kind"] != "sweep":
        yield ("kind",), f"must be sweep; got {content['kind']!r}", True
    if isinstance(project, str):
        yield from of_value("project", project, ("project",))
    types = ("local", "cloud")
    if controller is not None and not (isinstance(controller, dict) and controller.get("type") in types):
        yield ("controller",), f"must be {{type: local}} or {{type: cloud}}; got {controller!r}", True
    if "scheduler" in content:
        scheduler = content["scheduler"]
        if not isinstance(scheduler, dict) or scheduler.get("engine") != "wandb":
            yield ("scheduler",), "must be {engine: wandb}; W&B has no other engine yet", True
        if "early_terminate" in content:
            yield ("early_terminate",), "must be left out if there is a scheduler", True


def _of_metric(content: dict[str, Any]) -> Found:
    metric = content.get("metric")
    if metric is None:
        if "metric" not in content and (content.get("method") == "bayes" or "early_terminate" in content):
            text = "is missing; bayes and early_terminate need 'metric: {name: val_acc, goal: maximize}'"
            yield ("metric",), text, True
        return
    if not isinstance(metric, dict):
        yield ("metric",), "must be a mapping, as in {name: val_acc, goal: maximize}", True
        return
    for key in metric:
        if key not in METRIC_KEYS:
            yield ("metric", str(key)), unknown_keys(key, "a key of a metric", METRIC_KEYS), True
    if "target" in metric:
        try:
            distributions.number(metric, "target")
        except UserError as error:
            yield ("metric", "target"), str(error), True
    for key, choices in IMPUTE.items():
        if key in metric and metric[key] not in choices:
            yield ("metric", key), f"must be one of {', '.join(choices)}; got {metric[key]!r}", True
    name, goal = metric.get("name"), metric.get("goal", "minimize")
    if goal not in GOALS:
        yield ("metric", "goal"), f"must be maximize or minimize; got {goal!r}", True
    if isinstance(name, str) and "test" in re.split(r"[_/.]", name.lower()):
        yield ("metric", "name"), f"{name} is of the test split, which a search must not see; use val_acc", True
    elif name not in EPOCH_METRICS:
        text = f"must be a metric that runs log every epoch: {', '.join(EPOCH_METRICS)}; got {name!r}"
        yield ("metric", "name"), text, True
    elif goal in GOALS and (goal == "minimize") != (name in LOWER_IS_BETTER):
        right = "minimize" if name in LOWER_IS_BETTER else "maximize"
        text = f"must be {right} for {name}{'' if 'goal' in metric else '; W&B minimizes by default'}"
        yield ("metric", "goal"), text, True


def _of_command(content: dict[str, Any]) -> Found:
    command = content.get("command")
    if command is None:
        if "command" not in content and not content.get("program"):
            yield ("command",), f"is missing; agents need {COMMAND}", True
        return
    if not isinstance(command, list) or not command or not all(isinstance(w, str | int | float) for w in command):
        yield ("command",), f"must be a list of words and numbers, as in {COMMAND}", True
        return
    words = list(map(str, command))
    if (train := file.train_of(words)) is None:
        if "ctkeras" in words:
            verb = "".join(words[words.index("ctkeras") + 1 :][:1])
            yield ("command",), f"must start ctkeras train; it starts ctkeras {verb}".rstrip(), True
        return  # another program, about which nothing is known
    for place, word in enumerate(words):
        if place > train and word.startswith("${") and word not in file.MACROS and not _has_variable(word):
            text = f"{word} passes arguments that ctkeras train refuses; use ${{args}}, or leave it out"
            yield ("command", str(place)), text, True
    for option in file.options_of(words):
        path = ("command", str(option.places[0]))
        if option.name in OTHER_OPTIONS:
            continue
        if option.name not in FIELDS:
            yield path, f"--{option.name} {unknown_keys(option.name, 'an option of the train verb', FIELDS)}", True
        elif option.value is None:
            yield path, f"--{option.name} needs a value: {describe(option.name)}", True
        elif not _has_variable(option.value):
            yield from of_value(option.name, option.value, path)


def _has_variable(word: str) -> bool:
    return file.VARIABLE.search(word) is not None


def _of_wandb(content: dict[str, Any]) -> Found:
    """What concerns W&B's engine only."""
    if content.get("method") in ("random", "bayes") and "run_cap" not in content:
        yield ("method",), f"{content['method']} at W&B never ends without run_cap, as in 'run_cap: 45'", False


def _of_local(content: dict[str, Any], *, sound: bool) -> Found:
    """What concerns the local engine only: what it lacks.

    Args:
        content: the sweep.
        sound: whether no engine finds an error in it; if not, what needs a sound sweep is left out.
    """
    for key in NOT_LOCAL:
        if key in content:
            yield (key,), "the local engine does not have it; remove it, or use sweep create and sweep agent", True
    metric = content.get("metric")
    for key in METRIC_KEYS[2:]:
        if isinstance(metric, dict) and key in metric:
            yield ("metric", key), "the local engine does not have it; it has name and goal", True
    if content.get("method") in ("random", "bayes") and "run_cap" not in content:
        text = "without run_cap needs sweep run --count, as in --count 45, on the local engine"
        yield ("method",), f"{content['method']} {text}", False
    yield from _of_local_command(content)
    if sound:
        yield from _of_local_search(content)


def _of_local_command(content: dict[str, Any]) -> Found:
    """The local engine starts no command: it trains in processes of its own, with the command's options as parameters."""
    command = content.get("command")
    if "command" not in content and content.get("program"):
        yield ("program",), f"the local engine only runs ctkeras train: add 'command: {COMMAND}'", True
    if not isinstance(command, list) or not command:
        return
    if file.train_of(command) is None:
        yield ("command",), f"the local engine only runs ctkeras train: {COMMAND}", True
    for option in file.options_of(command):
        path = ("command", str(option.places[0]))
        names = file.VARIABLE.findall(option.value or "")
        if option.name in OTHER_OPTIONS and option.name not in file.SWITCHES:
            text = f"--{option.name} is not read by the local engine; give hyperparameters as parameters"
            yield path, text, True
        elif missing := [name for name in names if file.with_variables(f"${{envvar:{name}}}") == name]:
            yield path, f"needs the environment variable {missing[0]}, which is not set here", False
        elif names and option.name in FIELDS:
            for _, text, _ in of_value(option.name, file.with_variables(str(option.value)), path):
                yield path, f"{text}, which the local engine reads from {option.value}", True


def _of_local_search(content: dict[str, Any]) -> Found:
    """Whether there is something to search, under names that the local engine can distinguish."""
    names: set[str] = set()
    several = content["method"] == "grid" or content.get("run_cap", 1) == 1
    for path, spec in file.leaves(content["parameters"]):
        name = ".".join(path)
        if name in names:
            yield (
                ("parameters", *path),
                f"the local engine cannot distinguish two parameters that are both {name}",
                True,
            )
        names.add(name)
        choices = distributions.choices(spec)
        several = several or choices is None or choices > 1
    if not several:
        text = "the local engine has nothing to search (no parameter has several values)"
        yield ("parameters",), f"{text}: {content['run_cap']} trials would repeat one run; use ctkeras train", True
