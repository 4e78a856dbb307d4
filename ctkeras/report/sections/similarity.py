"""The report's part on similarity: accuracy by how much a test image resembles its most similar training image."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, page
from ctkeras.report.html.page import Section, p
from ctkeras.report.html.words import known, number, with_interval


def by_similarity(found: Findings) -> Section | None:
    """Accuracy in four ranges of correlation, and the lookup's; of test where that was opened, otherwise of validation."""
    files = (("metrics_test.json", found.test), ("metrics_valid.json", found.measured.get("metrics_valid.json", {})))
    for file, values in files:
        if rows := _rows(values.get("by_similarity")):
            return _section(found, rows, file, "test" if file == "metrics_test.json" else "validation")
    return None


def _rows(listed: Any) -> list[Mapping[str, Any]]:
    """The ranges that hold an image, most similar first."""
    rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
    return [row for row in rows if known(row.get("n")) and row["n"] > 0 and known(row.get("acc"))]


def _section(found: Findings, rows: Sequence[Mapping[str, Any]], file: str, split: str) -> Section:
    named = [(_range(row), with_interval(row["acc"], row.get("low"), row.get("high"))) for row in rows]
    lines = [
        [name, f"{row['n']:,.0f}", text, number(row.get("lookup_acc"))]
        for row, (name, text) in zip(rows, named, strict=True)
    ]
    drawn = [_drawn(row, name, text) for row, (name, text) in zip(rows, named, strict=True)]
    said = f"Of the {split} images most like a training image ({named[0][0]}), {rows[0]['acc']:.1%} are right; "
    said += f"of those least like one ({named[-1][0]}), {rows[-1]['acc']:.1%}."
    draw = functools.partial(
        charts.rows, drawn, title="Accuracy by similarity to training", description=said, axis="accuracy", bounds=(0, 1)
    )
    columns = ["correlation with the most similar training image", "images", "accuracy (95% interval)", "lookup"]
    return page.section(
        "similarity",
        "Results by similarity to training",
        p(said if len(rows) > 1 else f"All {split} images are in one range."),
        page.figure(draw, "similarity-chart", "Large dots: the model, with 95% intervals. Small dots: the lookup."),
        page.table(
            columns, lines, caption=f"Accuracy on {split} by similarity", numbers=(1, 2, 3), hidden_caption=True
        ),
        p("Correlation of thumbnails of 32 × 32 pixels, cropped to the body.", class_="fine"),
        files=found.files(file, runs=[found.chosen]),
        short="By similarity",
    )


def _drawn(row: Mapping[str, Any], name: str, text: str) -> charts.Row:
    """A range as a line of the chart, without bounds that are not numbers."""
    low, high = (row.get(end) if known(row.get(end)) else None for end in ("low", "high"))
    lookup = (float(row["lookup_acc"]),) if known(row.get("lookup_acc")) else ()
    return charts.Row(name, row["acc"], low, high, text, lookup)


def _range(row: Mapping[str, Any]) -> str:
    """A range in words: above 0.97, 0.92 to 0.97, below 0.85."""
    low, high = (row.get(end) if known(row.get(end)) else None for end in ("from", "to"))
    if low is None:
        return "all" if high is None else f"below {high:g}"
    return f"above {low:g}" if high is None else f"{low:g} to {high:g}"
