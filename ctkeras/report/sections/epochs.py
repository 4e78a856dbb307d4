"""The report's part on epochs and time: learning curves, runs that were stopped early, what caching and stopping saved."""

import functools
import math
from collections import Counter

from ctkeras.report import savings
from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, curves, page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import number as words_number
from ctkeras.report.html.words import plural
from ctkeras.report.results import Run, described
from ctkeras.runtime.console import seconds_text

CURVES = 4  # runs whose learning curves are shown


def learning_curves(found: Findings) -> Section:
    """Training and validation curves of the winner and the next best runs, in panels that share a scale."""
    others = [run for run in found.runs if run is not found.chosen]
    top = [run for run in (found.chosen, *others) if run.history][:CURVES]
    if not top:
        return page.section("curves", "Learning curves", p("Not shown: no run has a readable history.csv."))
    epochs = max(int(row["epoch"]) for run in top for row in run.history)
    acc = charts.domain([v for run in top for v in _column(run, "val_acc") + _column(run, "train_acc")], within=(0, 1))
    losses = [v for run in top for v in _column(run, "val_loss") + _column(run, "train_loss") if math.isfinite(v)]
    loss = (0.0, 1.05 * min(max(losses, default=1.0), 3 * sorted(losses)[len(losses) // 2] if losses else 1.0))
    panels = []
    for number, run in enumerate(top):
        best = int(run.metrics.get("best_epoch", 0))
        drawn = []
        for kind, bounds in (("acc", acc), ("loss", loss)):
            word = "accuracy" if kind == "acc" else "loss"
            lines = [
                ("training", "second", _column(run, f"train_{kind}")),
                ("validation", "first", _column(run, f"val_{kind}")),
            ]
            text = f"Validation {word} at epoch {best}, the best one: {_at(run, f'val_{kind}', best)}."
            title = f"{word.capitalize()} of {run.name}, training and validation, by epoch"
            ident = f"curve-{number}-{kind}"
            svg = curves.learning(
                lines, bounds=bounds, epochs=epochs, best_epoch=best, ident=ident, title=title, description=text
            )
            drawn.append(page.join([tag("p", word, class_="panel-name"), Html(svg)]))
        head = tag("h3", described(run), tag("small", " ", tag("code", run.name)))
        panels.append(
            tag("div", head, tag("div", *(tag("div", part) for part in drawn), class_="pair"), class_="panel")
        )
    if all(run.config.get("optimizer") == "lbfgs" for run in top):
        words = "These heads were solved to their optimum at once, so each has one row and no learning rate."
        tables = [page.details("The same numbers as tables", *(_epochs(run) for run in top))]
        return page.section("curves", "Learning curves", p(words), *tables, files=found.files("history.csv", runs=top))
    words = "The ring marks the epoch whose weights were saved: the best val_acc, ties by val_loss. "
    words += "Where the validation curve departs from the training curve, the model overfits."
    if losses and max(losses) > loss[1]:
        words += f" Losses above {loss[1]:.2g} are drawn at the upper edge; the tables have them."
    return page.section(
        "curves",
        f"Learning curves of {len(top)} runs, the winner first" if len(top) > 1 else "Learning curves",
        p(words),
        *panels,
        page.details("The same numbers as tables", *(_epochs(run) for run in top)),
        files=found.files("history.csv", runs=top),
        short="Learning curves",
    )


def _column(run: Run, name: str) -> list[float]:
    return [row.get(name, math.nan) for row in run.history]


def _at(run: Run, name: str, epoch: int) -> str:
    """A value at an epoch, counted from 1."""
    return next((f"{row.get(name, math.nan):.3f}" for row in run.history if row["epoch"] == epoch), "–")


def _epochs(run: Run) -> Html:
    """A run's history as a table."""
    columns = ["epoch", "train_acc", "val_acc", "train_loss", "val_loss"]
    columns += [] if run.config.get("optimizer") == "lbfgs" else ["lr"]
    lines = [[int(row["epoch"]), *(f"{row.get(name, math.nan):.4g}" for name in columns[1:])] for row in run.history]
    return page.table(columns, lines, caption=f"Epochs of {run.name}", numbers=range(len(columns)))


def hyperband(found: Findings) -> Section | None:
    """Runs that hyperband stopped, and the epochs that this saved."""
    stopped = savings.stopped(found.runs, by=("hyperband",))
    if not stopped:
        words = "Hyperband stopped no run: the search had no early_terminate, or no run was worse than its rule allows."
        return page.section("hyperband", "Runs stopped early", p(words)) if len(found.runs) > 1 else None
    limit = max(int(run.config["max_epochs"]) for run in found.runs)
    ends = [int(run.metrics.get("epochs", 0)) for run in found.runs]
    saved, planned = sum(s.limit - s.epochs for s in stopped), sum(int(run.config["max_epochs"]) for run in found.runs)
    seconds = sum(stop.seconds for stop in stopped)
    said = f"Hyperband stopped {len(stopped):,} of {plural(len(ends), 'run')}: {saved:,} of {planned:,} epochs"
    said += f" ({saved / planned:.0%}) were not trained, about {seconds_text(seconds)} at the pace of each run."
    by_epoch = Counter(stop.epochs for stop in stopped)
    draw = functools.partial(
        curves.remaining,
        ends,
        limit=limit,
        stopped=[stop.epochs for stop in stopped],
        title="Runs still training by epoch",
        description=said,
    )
    data = page.table(
        ["stopped after epoch", "runs"],
        [[epoch, count] for epoch, count in sorted(by_epoch.items())],
        caption="Runs stopped by hyperband",
        numbers=(1,),
    )
    return page.section(
        "hyperband",
        "Runs stopped early",
        p(said),
        page.figure(draw, "hyperband-chart", "Blue: trained epochs. Pale orange: epochs that were not trained.", data),
        files=found.files("metrics.json", "history.csv"),
    )


def _compiled(found: Findings) -> str:
    """How many programs were compiled for how many runs; '' where the runs didn't record it."""
    counts = [run.metrics.get("train_programs_compiled") for run in found.runs]
    known = [count for count in counts if isinstance(count, int)]
    if not known:
        return ""
    return f" {plural(sum(known), 'training program was', 'training programs were')} compiled for {plural(len(known), 'run')}."


def time_saved(found: Findings) -> Section | None:
    """Where the time went, and what caching and stopping early saved."""
    parts = [spent for run in found.runs if (spent := savings.spent(run)) is not None]
    if not parts:
        return None
    training, compiling, rest = (sum(column) for column in zip(*parts, strict=True))
    programs, prepared = savings.programs_reused(found.runs), savings.preparation_reused(found.runs)
    pruned = savings.stopped(found.runs, by=("hyperband", "early_stopping"))
    compiling_saved, rest_saved = (sum(reused.saved for reused in group) for group in (programs, prepared))
    spent_rows = [("training", training), ("compiling programs", compiling), ("everything else", rest)]
    saved_rows = [("programs reused", compiling_saved), ("images and features reused", rest_saved)]
    saved_rows.append(("epochs not trained", sum(stop.seconds for stop in pruned)))
    unit, name = (60.0, "minutes") if max(v for _, v in spent_rows + saved_rows) > 180 else (1.0, "seconds")
    rows = [charts.Row(f"spent: {n}", v / unit, text=seconds_text(v)) for n, v in spent_rows]
    rows += [charts.Row(f"saved: {n}", v / unit, text=seconds_text(v), lead=True) for n, v in saved_rows]
    spent, saved = sum(v for _, v in spent_rows), sum(v for _, v in saved_rows)
    said = f"The runs took {seconds_text(spent)}; reuse and early stopping saved about {seconds_text(saved)}.{_compiled(found)}"
    draw = functools.partial(
        charts.rows,
        rows,
        bars=True,
        title="Time spent and time saved",
        description=said,
        axis=f"{name}, sum over all runs",
    )
    one_digit = functools.partial(words_number, digits=1)
    data = page.table(
        ["reused", "runs", "first run, seconds", "later runs, mean", "saved, seconds"],
        [
            [f"{what}: {reused.what}", reused.runs, *map(one_digit, (reused.first, reused.later, reused.saved))]
            for what, group in (("programs", programs), ("images and features", prepared))
            for reused in group
        ],
        caption="What caching saved, by architecture and training",
        numbers=(1, 2, 3, 4),
    )
    method = (
        "An estimate: among runs that share a program (or images and features), the first by name shows what each would "
        "have cost; the difference to later runs was saved. Each epoch that was not trained counts as the run's median epoch."
    )
    return page.section(
        "time",
        "Time spent and saved",
        p(said),
        page.figure(
            draw,
            "time-chart",
            "Orange: time saved. Everything else: images, features, building, exporting.",
            data,
        ),
        p(method, class_="fine"),
        files=found.files("metrics.json", "history.csv"),
    )
