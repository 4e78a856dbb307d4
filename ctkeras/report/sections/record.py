"""The report's last part: how to reproduce the results, the model card, and what was left out."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctkeras import __version__
from ctkeras.config import FIELDS
from ctkeras.errors import UserError
from ctkeras.models.contract import INTENDED_USE
from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Section, p, tag
from ctkeras.report.html.words import millions, number, plural, three
from ctkeras.report.results import Run, described
from ctkeras.runs.folder import FINISHED, read_contract

WARNING = "Not for diagnosis."
LIMITS = (
    "Trained and evaluated only on the data set named above: single slices without patient identifiers, so slices of one "
    "patient may be in several splits. It has not been tested on other scanners, protocols, populations or diseases, and "
    "it answers with one of its classes for any image."
)


def shown_path(path: str) -> str:
    """A path relative to the current folder when it lies below it, otherwise as it is: the page may leave this machine."""
    below = os.path.isabs(path) and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if below else path


def train_command(run: Run) -> str:
    """The command that trains a run again, with every option that is not at its default, quoted for a shell."""
    options = []
    for name, value in run.config.items():
        if value != FIELDS[name].default:
            written = str(value).lower() if isinstance(value, bool) else str(value)  # a float keeps all its digits
            written = shown_path(written) if name in ("data", "output_dir", "weights_dir") else written
            options.append(f"--{name} {shlex.quote(written)}")
    return " ".join(["python -m ctkeras train", *options])


def reproduce(found: Findings) -> Section:
    """The commands, the versions and the data's fingerprint."""
    run, place, sweep = found.chosen, found.results.place, found.results.sweep
    commands = [("Train the same model", train_command(run))]
    if place is not None:
        evaluate = f"python -m ctkeras evaluate {shlex.quote(shown_path(str(run.folder)))} --split test"
        commands.append(("Open the test split, once, after every choice has been made", evaluate))
    else:
        commands.append(("Download the best model", f"python -m ctkeras sweep best {shlex.quote(sweep)} --download"))
    commands.append(("Write this report", f"python -m ctkeras report {shlex.quote(shown_path(str(place or sweep)))}"))
    if isinstance(whole := found.results.study.get("command"), str):
        commands.insert(0, ("Run the whole study", whole))
    blocks = []
    for words, command in commands:
        blocks += [p(words, ":"), page.command(command)]
    facts: list[list[Any]] = [
        ["versions", run.metrics.get("versions")],
        ["data fingerprint", tag("code", run.metrics.get("data_fingerprint"), class_="wrap")],
        ["seed", run.config["seed"]],
    ]
    return page.section(
        "reproduce",
        "How to reproduce this",
        *blocks,
        page.table(["", ""], facts, caption="Versions, data and seed of this run"),
        files=found.files("config.json", "metrics.json", runs=[run]),
    )


def contract_of(run: Run) -> dict[str, Any]:
    """The exported model's contract; empty when it is missing or damaged."""
    if run.folder is None:
        return {}
    try:
        return read_contract(run.folder)
    except UserError:
        return {}


def model_card(found: Findings) -> Section:
    """The model card: what the model is, takes and returns, what it was trained on, its use and its limits."""
    run, contract = found.chosen, contract_of(found.chosen)
    use = contract.get("intended_use") or INTENDED_USE
    rows: list[list[Any]] = [
        ["Use", tag("strong", use)],
        ["Model", _model(run)],
        ["Input", _input(contract)],
        ["Output", _output(contract)],
        ["Trained on", _trained_on(run)],
        ["Accuracy", _accuracy(found)],
        ["Limits", LIMITS],
        ["Trained with", run.metrics.get("versions")],
        ["Page written by", f"ctkeras {__version__}"],
    ]
    return page.section(
        "card",
        "Model card",
        p(tag("strong", use if WARNING in str(use) else f"{WARNING} {use}"), class_="warning"),
        page.table(["", ""], rows, caption="Model card", hidden_caption=True),
        files=found.files("contract.json", "config.json", "metrics.json", runs=[run]),
    )


def _model(run: Run) -> str:
    start = "ImageNet weights" if run.config["pretrained"] else "random weights"
    return f"{described(run)}, from {start}; {millions(run.number('params_total'))} parameters"


def _input(contract: Mapping[str, Any]) -> str | None:
    shape = contract.get("input_shape")
    if not isinstance(shape, list):
        return None
    known = (contract.get(f"input_{name}") for name in ("colour", "range", "resize"))
    return "; ".join([" × ".join(map(str, shape)), *(str(value) for value in known if value is not None)])


def _output(contract: Mapping[str, Any]) -> str | None:
    names = contract.get("class_names")
    return f"a probability for each of {', '.join(map(str, names))}" if isinstance(names, list) else None


def _trained_on(run: Run) -> str:
    data = run.config["data"] or "a data set that config.json does not name"
    return f"{data}, fingerprint {str(run.metrics.get('data_fingerprint', 'unknown'))[:16]}"


def _accuracy(found: Findings) -> str:
    test = f"; test {three(found.test, 'acc')}" if found.test else "; the test split has not been opened"
    return f"validation {found.chosen.val_acc:.3f}{test}"


def _interruption(run: Run) -> str:
    """What interrupted a run that can be resumed; '' for a run that ended by itself."""
    by = run.metrics.get("stopped_by")
    if not isinstance(by, str) or by in (*FINISHED, "nan"):
        return ""
    return f"interrupted ({by}) after {number(run.metrics.get('epochs'), 0)} epochs"


def left_out(found: Findings) -> Section | None:
    """Folders that could not be used, runs without learning curves and interrupted runs, each with the reason."""
    skipped, damaged = found.results.skipped, [(run.name, run.damage) for run in found.runs if run.damage]
    interrupted = [(run.name, _interruption(run)) for run in found.runs if _interruption(run)]
    if not skipped and not damaged and not interrupted:
        return None
    items = [tag("li", tag("code", name), ": ", reason) for name, reason in (*skipped, *damaged, *interrupted)]
    words = []
    if skipped:
        entries = plural(len(skipped), "entry", "entries")
        words.append(f"{entries} could not be used and {'is' if len(skipped) == 1 else 'are'} not counted above.")
    if damaged:
        words.append(f"{plural(len(damaged), 'run is', 'runs are')} shown without learning curves.")
    if interrupted:
        count = plural(len(interrupted), "run was", "runs were")
        words.append(f"{count} interrupted and may be resumed; the numbers so far count above.")
    return page.section(
        "skipped", "Left out", p(" ".join(words)), page.details("Which, and why", tag("ul", *items, class_="plain"))
    )
