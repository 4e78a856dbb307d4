"""What several of the report's sections need, computed once: the chosen model, its test numbers, its data set."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError
from ctkeras.evaluation.comparison import Comparison, Interval, accuracy_interval, against, units
from ctkeras.report.noise import right_answers
from ctkeras.report.results import Results, Run, best_by_architecture
from ctkeras.runs import folder
from ctkeras.runtime import console

# Files of the chosen run's folder that other verbs write when they are asked to; any of them may be missing.
MEASURED = ("metrics_valid.json", "robustness.json", "labels.json", "learning.json")


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: it holds arrays
class Findings:
    """What a report is written from."""

    results: Results
    chosen: Run  # the winner, and the model that is described: a study's final one, otherwise the best run
    test: Mapping[str, Any]  # its metrics_test.json, empty when the test split hasn't been opened
    source: Any = None  # the data set, when it can be read
    audit: Any = None  # of the data set
    no_data: str = ""  # why the data set cannot be read
    measured: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # see MEASURED; by file name

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, best first; of equally accurate ones the chosen run first."""
        return self.results.runs

    @functools.cached_property
    def twins(self) -> Mapping[str, int]:
        """File to the number of its distinct image, empty without the data set."""
        return self.audit.twins() if self.audit is not None else {}

    @functools.cached_property
    def units(self) -> tuple[Mapping[str, int], str]:
        """File to the number of its unit in the test of a difference, and what a unit is."""
        files = [image.file for image in self.audit.images] if self.audit is not None else []
        numbers, unit = units(self.audit, files)
        return dict(zip(files, numbers.tolist(), strict=True)), unit

    @functools.cached_property
    def right(self) -> dict[str, Mapping[str, bool] | None]:
        """Run name to which validation images that run classified correctly."""
        return {run.name: right_answers(run) for run in self.runs}

    @functools.cached_property
    def groups(self) -> Mapping[str, int]:
        """File to the number of its group: its patient, or the slices similar to it; copies where no groups are known."""
        images = self.audit.images if self.audit is not None else ()
        return {image.file: image.group for image in images}

    @property
    def grouped_by(self) -> str:
        """What a group is, in the plural: patients, or groups of similar slices; '' without the data set."""
        if self.audit is None:
            return ""
        return "patients" if self.audit.grouped_by == "patient" else "groups of similar slices"

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """The audit's stored summary; {} without the data set."""
        from ctkeras.audit import summary

        return summary.of(self.source, self.audit, group_pattern=self.group_pattern) if self.audit else {}

    @property
    def group_pattern(self) -> str:
        """How the chosen run names the patient in a file's path; '' if it does not."""
        return str(self.chosen.config.get("group_pattern", ""))

    @functools.cached_property
    def lookup_apart(self) -> float | None:
        """Accuracy of the lookup on train and valid when no image may look into its own group; None without the data set."""
        from ctkeras.audit import lookup

        if self.audit is None:
            return None
        both = [lookup.lookup(self.audit, split, ("train", "valid")) for split in ("train", "valid")]
        parts = [(part.n, part.apart) for part in both if part.n and math.isfinite(part.apart)]
        return sum(n * acc for n, acc in parts) / sum(n for n, _ in parts) if parts else None

    def rows(self, name: str) -> list[Mapping[str, Any]]:
        """The rows of one of MEASURED's files, without those that are not JSON objects."""
        rows = self.measured.get(name, {}).get("rows")
        return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []

    def interval(self, run: Run) -> Interval | None:
        """A run's validation accuracy with its interval; None without predictions."""
        right = self.right[run.name]
        return accuracy_interval(right, self.twins) if right else None

    def against_chosen(self, run: Run) -> Comparison | None:
        """How far a run is behind the chosen one, image by image; None without predictions of the same images."""
        chosen, other = self.right[self.chosen.name], self.right[run.name]
        return against(chosen, other, self.units[0], unit=self.units[1]) if chosen and other else None

    def by_architecture(self) -> list[Run]:
        """One run per architecture: the chosen run first, then the best run of each other architecture, best first."""
        others = best_by_architecture(self.runs)
        return [self.chosen, *(run for run in others if run.model_name != self.chosen.model_name)]

    def audit_files(self) -> list[str]:
        """The name of the stored audit; none without the data set."""
        if self.audit is None:
            return []
        from ctkeras.audit import audit

        return [f"audit/{audit.folder(self.source).name}/audit.json in the cache"]

    def files(self, *names: str, runs: Sequence[Run] = ()) -> list[str]:
        """The names of files in the report: those of some runs, or of every run."""
        if self.results.place is None:
            return [f"the W&B sweep {self.results.sweep}"]
        if not runs:
            return [name if self.runs[0].folder == self.results.place else f"*/{name}" for name in names]
        return [name if run.folder == self.results.place else f"{run.name}/{name}" for run in runs for name in names]


def find(results: Results, *, data: str = "") -> Findings:
    """Gathers what the report is written from.

    Args:
        results: the runs.
        data: the data set, when it is no longer where the runs found it.
    """
    chosen = _final(results) or results.best
    test = _read(chosen, "metrics_test.json", "test numbers")
    measured = {name: _read(chosen, name, f"numbers from {name}") for name in MEASURED}
    source, audited, why = _data(data or chosen.config["data"], chosen)
    return Findings(_led_by(results, chosen), chosen, test, source, audited, why, measured)


def _read(run: Run, name: str, what: str) -> dict[str, Any]:
    """A JSON file of a run's folder; empty when it is missing or, with a note, when it is damaged."""
    if run.folder is None or not (run.folder / name).exists():
        return {}
    try:
        return folder.read_json(run.folder / name)
    except UserError as error:
        console.note(f"Note: {error}; the report has no {what}.")
        return {}


def _led_by(results: Results, chosen: Run) -> Results:
    """The results with the chosen run first among equally accurate ones, so that the report has one winner."""
    runs = sorted(results.runs, key=lambda run: (-run.val_acc, run is not chosen))
    return dataclasses.replace(results, runs=tuple(runs))


def _final(results: Results) -> Run | None:
    """The run of a study's final model."""
    final = results.study.get("final")
    name = final.get("folder") if isinstance(final, Mapping) else final
    if not isinstance(name, str) or not name:
        return None
    return next((run for run in results.runs if run.folder is not None and run.folder.name == Path(name).name), None)


def _data(spec: str, run: Run) -> tuple[Any, Any, str]:
    """The data set that runs were trained on and its audit, or why it cannot be read."""
    from ctkeras.audit import audit
    from ctkeras.data import sources

    if not spec:
        return None, None, "the runs do not record where their images are; pass --data"
    fingerprint = str(run.metrics.get("data_fingerprint", ""))
    try:
        source = sources.open_source(spec, slices=str(run.config.get("slices") or "all"))
        if fingerprint and source.fingerprint != fingerprint:
            return None, None, f"the images in {spec} are not those that the runs were trained on"
        return source, audit.load(source, group_pattern=str(run.config.get("group_pattern", ""))), ""
    except (UserError, OSError, json.JSONDecodeError) as error:
        return None, None, " ".join(str(error).split()) or type(error).__name__
