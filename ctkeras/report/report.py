"""The report: one HTML file that shows what won, whether its lead is noise, and where each number comes from."""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from ctkeras import __version__
from ctkeras.errors import UserError
from ctkeras.report import findings, results
from ctkeras.report.findings import Findings
from ctkeras.report.html import page, words
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.runs.folder import require_folder
from ctkeras.runtime import files

NAME = "report.html"
MOST_BYTES = 10 * 2**20  # bytes; mail systems accept a file of this size


def write_report(folder: Path, out: Path | None = None, *, data: str = "", checklist: str = "") -> Path:
    """Writes the report of a run folder, a folder of run folders or a study's folder.

    Args:
        folder: the folder; only the report is written into it.
        out: the file to write; None means report.html in the folder.
        data: the data set, when it is no longer where the runs found it.
        checklist: claim, tripod-ai or metrics: also write it beside the page, as checklist-NAME.md; '' for none.

    Returns:
        The file's path.

    Raises:
        UserError: the folder has no run with a val_acc, or the file cannot be written.
    """
    return _write(results.read(folder), out or folder / NAME, data, checklist)


def write_sweep_report(sweep: str, out: Path | None = None, *, data: str = "", checklist: str = "") -> Path:
    """Writes the report of a W&B sweep.

    Args:
        sweep: ENTITY/PROJECT/SWEEP_ID.
        out: the file to write; None means report.html in the current folder.
        data: the data set.
        checklist: see write_report.

    Raises:
        UserError: no such sweep, or no run of it has a val_acc.
    """
    from ctkeras.tracking import sweeps

    return _write(results.from_wandb(sweep, *sweeps.read_runs(sweep)), out or Path(NAME), data, checklist)


def _write(read: results.Results, out: Path, data: str, checklist: str) -> Path:
    """Writes the page, and the checklist beside it, atomically."""
    if os.path.isdir(out):
        raise UserError(f"{out} is a folder; --out takes the file to write, such as {out / NAME}")
    require_folder(out.parent, "--out", announce=True)
    found = findings.find(read, data=data)
    texts = {out: compose(found, checklist)}
    if checklist:
        from ctkeras.report import checklist as checklists

        texts[out.with_name(f"checklist-{checklist}.md")] = checklists.markdown(found, checklist)
    try:
        for path, text in texts.items():
            with files.atomic(path) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}); pass another --out") from error
    return out


def compose(found: Findings, checklist: str = "") -> str:
    """The page as text: the answer first, then the search, the model, the data, and how to reproduce it."""
    from ctkeras.report import checklist as checklists
    from ctkeras.report.sections import (
        answer,
        data,
        epochs,
        labels,
        model,
        numbers,
        ranking,
        record,
        robustness,
        search,
        similarity,
        testsplit,
        timeline,
        training_size,
    )

    parts: list[tuple[str, Sequence[Section | None]]] = [
        (
            "The answer",
            [
                numbers.three_numbers(found),
                answer.won(found),
                answer.architectures(found),
                answer.seeds(found),
                testsplit.test_numbers(found),
                similarity.by_similarity(found),
            ],
        ),
        (
            "The search",
            [
                search.phases(found),
                search.hyperparameters(found),
                search.coordinates(found),
                search.what_mattered(found),
                epochs.learning_curves(found),
                epochs.hyperband(found),
                epochs.time_saved(found),
                timeline.timeline(found),
            ],
        ),
        (
            "The model",
            [
                model.confusion(found),
                ranking.thresholds(found),
                model.reliability(found),
                robustness.robustness(found),
                training_size.by_training_size(found),
                model.worst_errors(found),
            ],
        ),
        ("The data", [data.data_audit(found), labels.label_check(found)]),
        (
            "The record",
            [
                record.reproduce(found),
                record.model_card(found),
                checklists.section(found, checklist) if checklist else None,
                record.left_out(found),
            ],
        ),
    ]
    shown = [(name, [part for part in sections if part is not None]) for name, sections in parts]
    return page.document(f"{found.results.title}: report", _header(found), shown)


def _header(found: Findings) -> Html:
    """The title, the number of runs, when the page was written, and the warning."""
    title = tag("h1", found.results.title)
    runs = words.plural(len(found.runs), "run")
    models = words.plural(len({run.model_name for run in found.runs}), "architecture")
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    made = f"{runs}, {models} · written {now} by ctkeras {__version__}"
    caution = p("Research only. Not for diagnosis.", class_="caution")
    return page.join([p("ctkeras report", class_="kicker"), title, p(made, class_="made"), caution])
