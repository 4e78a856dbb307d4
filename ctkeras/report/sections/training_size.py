"""The report's part on training size: accuracy when a share of the groups is used, and what more would bring."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, lines, page
from ctkeras.report.html.page import Section, p
from ctkeras.report.html.words import known, number, with_interval

FILE = "learning.json"


def by_training_size(found: Findings) -> Section | None:
    """Accuracy by number of training groups, from grouped folds; None where it was not measured."""
    rows = [row for row in found.rows(FILE) if known(row.get("groups")) and known(row.get("acc"))]
    if not rows:
        return None
    rows.sort(key=lambda row: row["groups"])
    values = found.measured[FILE]
    what = "patients" if found.grouped_by == "patients" else "groups"
    said = f"With {rows[0]['groups']:,.0f} {what} the accuracy is {number(rows[0]['acc'])}, with {rows[-1]['groups']:,.0f} "
    said += f"it is {number(rows[-1]['acc'])}."
    sentence = values.get("sentence")
    folds = f" {values['folds']:.0f}" if known(values.get("folds")) else ""
    return page.section(
        "training-size",
        "Accuracy by training size",
        p(said, f" {sentence}" if isinstance(sentence, str) else ""),
        page.figure(_drawing(rows, what, said), "training-size-chart", _caption(folds), _table(rows, what)),
        files=found.files(FILE, runs=[found.chosen]),
        short="Training size",
    )


def _caption(folds: str) -> str:
    return f"Out of fold, in{folds} folds that part no group; band: 95% interval."


def _drawing(rows: Sequence[Mapping[str, Any]], what: str, said: str) -> Any:
    """The chart, but for its width and ident."""
    x = [float(row["groups"]) for row in rows]
    low, high = ([row[end] if known(row.get(end)) else None for row in rows] for end in ("low", "high"))
    ends = [float(row[name]) for row in rows for name in ("acc", "low", "high") if known(row.get(name))]
    return functools.partial(
        lines.chart,
        [lines.Line("", x, [row["acc"] for row in rows], low, high, dots=True)],
        x=lines.Axis(f"{what} in training", 0.0, max(x) or 1.0),
        y=lines.Axis("accuracy", *charts.domain(ends, within=(0, 1))),
        title="Accuracy by training size",
        description=said,
    )


def _table(rows: Sequence[Mapping[str, Any]], what: str) -> Any:
    lines_ = [
        [
            f"{row['share']:.0%}" if known(row.get("share")) else "–",
            f"{row['groups']:,.0f}",
            number(row.get("images"), 0),
            with_interval(row["acc"], row.get("low"), row.get("high")),
        ]
        for row in rows
    ]
    columns = ["share", what, "images", "accuracy (95% interval)"]
    return page.table(columns, lines_, caption="Accuracy by training size", numbers=(1, 2, 3))
