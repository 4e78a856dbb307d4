"""The report's part on the search: its phases, the best hyperparameters, all runs, what mattered."""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.config import FIELDS, PLACES
from ctkeras.report import importance, results
from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, page, parallel, words
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.results import Run
from ctkeras.runtime.console import seconds_text, value_text

LINES = 240  # runs drawn in parallel coordinates; more would hide each other
TOP_LINES = 80  # of these, the best; the others are sampled from the rest
ENDED = {
    "solved": "solved to the optimum",
    "max_epochs": "trained all epochs",
    "early_stopping": "early stopping",
    "hyperband": "hyperband",
    "nan": "the loss became infinite or NaN",
}


def phases(found: Findings) -> Section | None:
    """What each phase of a study did, according to study.json."""
    listed = found.results.study.get("phases")
    rows = [phase for phase in listed if isinstance(phase, Mapping)] if isinstance(listed, list) else []
    if not rows:
        return None
    lines = []
    for phase in rows:
        best = phase.get("best")
        val_acc = best.get("val_acc") if isinstance(best, Mapping) else None
        seconds = phase.get("seconds")
        shown = seconds_text(seconds) if isinstance(seconds, int | float) else "–"
        counts = (phase.get(name) for name in ("trials", "failed", "stopped", "epochs_saved"))
        lines.append([phase.get("phase"), *counts, words.number(val_acc), shown, tag("code", phase.get("sweep_file"))])
    columns = ["phase", "trials", "failed", "stopped early", "epochs saved", "best val_acc", "time", "sweep file"]
    return page.section(
        "phases",
        "Phases of the search",
        page.table(columns, lines, caption="Phases of the search", numbers=range(1, 7), hidden_caption=True),
        files=["study.json"],
        short="Phases",
    )


def hyperparameters(found: Findings) -> Section:
    """The best hyperparameters of each of the top three architectures; with one architecture, its three best.

    The winner comes first.
    """
    top = found.by_architecture()[:3]
    if len(top) == 1:
        top = _different([found.chosen, *found.runs])[:3]
    varied = results.searched(found.runs)
    always = ["model_name", "freeze_backbone"]
    always += (
        [] if all(run.config["optimizer"] == "lbfgs" for run in top) else ["lr"]
    )  # without effect on a solved head
    shown = [name for name in FIELDS if name in varied or name in always]
    columns = ["hyperparameter", *(run.model_name for run in top)]
    lines: list[list[Any]] = [["validation accuracy", *(words.number(run.val_acc) for run in top)]]
    lines += [[name, *(value_text(run.config[name]) for run in top)] for name in shown if name != "model_name"]
    lines.append(["run", *(tag("code", run.name, class_="wrap") for run in top)])
    rest = [name for name in FIELDS if name not in shown and name not in PLACES]
    others = [[name, *(value_text(run.config[name]) for run in top)] for name in rest]
    all_columns = page.table(columns, others, caption="The hyperparameters that were equal in all runs, and the seed")
    heading = f"The {len(top)} best configurations" if len(top) > 1 else "Hyperparameters"
    return page.section(
        "hyperparameters",
        heading,
        page.table(columns, lines, caption=heading, hidden_caption=True),
        page.details("All others", all_columns),
        files=found.files("config.json", "metrics.json"),
        short="Hyperparameters",
    )


def _different(runs: Sequence[Run]) -> list[Run]:
    """The first run of each configuration, whatever its seed."""
    best: dict[tuple, Run] = {}
    names = results.searched(runs)
    for run in runs:
        best.setdefault(tuple(run.config[name] for name in names), run)
    return list(best.values())


def coordinates(found: Findings) -> Section | None:
    """All runs as parallel coordinates, and as a table."""
    names = results.searched(found.runs)
    if not names or len(found.runs) < 3:
        return None
    others = [run for run in found.runs if run is not found.chosen]
    drawn, rest = others[: TOP_LINES - 1], others[TOP_LINES - 1 :]
    drawn += random.Random(0).sample(rest, min(LINES - TOP_LINES, len(rest)))
    drawn.sort(key=lambda run: (run.val_acc, run.name))
    drawn.append(found.chosen)  # drawn last, and so on top
    axes = [parallel.axis_of(name, [run.config[name] for run in drawn]) for name in names]
    values = [run.val_acc for run in drawn]
    axes.append(parallel.axis_of("val_acc", values, bounds=charts.domain(values, within=(0, 1))))
    groups = sorted({run.model_name for run in drawn})
    draw = functools.partial(
        parallel.coordinates,
        axes,
        [[*(run.config[name] for name in names), run.val_acc] for run in drawn],
        shades=parallel.shades(values),
        groups=[groups.index(run.model_name) for run in drawn],
        title="Hyperparameters and validation accuracy of each run",
        description=f"One line per run through {', '.join(names)} to its val_acc; the winner is in the accent colour.",
    )
    count = (
        f"all {len(drawn):,} runs"
        if len(drawn) == len(found.runs)
        else f"{len(drawn):,} of {len(found.runs):,} runs: the best {TOP_LINES}, and a random sample of the others"
    )
    caption = page.join(
        [f"One line per run, {count}. Worse ", Html(parallel.swatch()), " better; the winner in the accent colour."]
    )
    columns = ["run", "val_acc", *names, "epochs", "ended by"]
    lines = [
        [run.name, words.number(run.val_acc), *(value_text(run.config[name]) for name in names), *_end(run)]
        for run in found.runs
    ]
    marked = found.runs.index(found.chosen)
    data = page.table(columns, lines, caption="All runs, best first", numbers=(1,), marked=marked)
    return page.section(
        "coordinates",
        "All runs at a glance",
        _chooser(drawn, groups),
        page.figure(draw, "coordinates-chart", caption, data),
        files=found.files("config.json", "metrics.json"),
        short="All runs",
    )


def _chooser(drawn: Sequence[Run], groups: Sequence[str]) -> Html:
    """Controls that the page's script shows and handles; hidden without it."""
    every = [tag("option", "all architectures", value="")]
    every += [tag("option", name, value=i) for i, name in enumerate(groups)]
    share = Html(f'<input type="range" id="best-share" min="1" max="{len(drawn)}" value="{len(drawn)}" step="1">')
    return tag(
        "div",
        tag("label", "Show the best ", tag("output", len(drawn), id="best-count", for_="best-share"), " runs ", share),
        tag("label", "of ", tag("select", *every, id="best-group")),
        class_="chooser",
        hidden=True,
    )


def _end(run: Run) -> list[str]:
    """How many epochs a run trained, and what ended it."""
    stopped_by = str(run.metrics.get("stopped_by", ""))
    return [f"{int(run.metrics.get('epochs', 0))}", ENDED.get(stopped_by, stopped_by or "–")]


def what_mattered(found: Findings) -> Section:
    """Hyperparameter importance, or why it cannot be computed."""
    names = results.searched(found.runs)
    ranked = importance.importance(found.runs, names)
    if ranked is None:
        few = f"it needs {importance.LEAST} runs with different hyperparameters and accuracies; got {len(found.runs)}."
        return page.section("importance", "What mattered", p("Not shown: ", few))
    shown = list(zip(ranked.names, ranked.loss, ranked.spread, strict=True))
    rows = [charts.Row(n, max(0.0, v), max(0.0, v - s), max(0.0, v + s), f"{max(0.0, v):.2f}") for n, v, s in shown]
    rows[0] = rows[0]._replace(lead=ranked.explained > 0)
    draw = functools.partial(
        charts.rows,
        rows,
        bars=True,
        title="Hyperparameter importance",
        description=f"{ranked.names[0]} mattered most: shuffling it reduces R² by {ranked.loss[0]:.2f}.",
        axis="R² lost when shuffled",
    )
    data = page.table(
        ["hyperparameter", "R² lost", "standard deviation"],
        [[n, words.number(v), words.number(s)] for n, v, s in shown],
        caption="Hyperparameter importance",
        numbers=(1, 2),
    )
    trust = f"On runs that it was not trained on, the forest explains {ranked.explained:.0%} of the variance (R²)."
    if ranked.explained <= 0.1:
        trust = (
            f"On runs that it was not trained on, the forest explains almost nothing (R² {ranked.explained:.2f}): within "
            "these ranges, the hyperparameters do not separate good runs from bad ones, so the order below means little."
        )
    return page.section(
        "importance",
        "What mattered",
        p(trust),
        page.figure(draw, "importance-chart", f"From {ranked.runs:,} runs.", data),
        p(importance.METHOD, ".", class_="fine"),
        files=found.files("config.json", "metrics.json"),
    )
