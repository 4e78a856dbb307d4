"""The report's part on robustness: accuracy when images get noisier, blurred, rotated and so on."""

from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, lines, page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import known, number, with_interval

FILE = "robustness.json"
WIDTH = 328  # px; two fit beside each other on a desktop, one on a phone


def robustness(found: Findings) -> Section | None:
    """One small chart per change and the worst case in words; None where it was not measured."""
    rows = [row for row in found.rows(FILE) if known(row.get("strength")) and known(row.get("acc"))]
    if not rows:
        return None
    values = found.measured[FILE]
    changes: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["strength"]):
        changes.setdefault(str(row.get("change", "change")), []).append(row)
    plain = float(values["acc"]) if known(values.get("acc")) else None
    ends = [row.get(name) for row in rows for name in ("acc", "low", "high")]
    bounds = charts.domain(
        [*(float(v) for v in ends if known(v)), *([plain] if plain is not None else [])], within=(0, 1)
    )
    panels = [_panel(name, each, plain, bounds, i) for i, (name, each) in enumerate(changes.items())]
    split = {"valid": "validation", "test": "test"}.get(
        str(values.get("split")), str(values.get("split", "validation"))
    )
    count = f"{number(values.get('n'), 0)} {split} images" if known(values.get("n")) else f"The {split} images"
    said = f"{count}, changed before the model sees them; unchanged, its accuracy is {number(plain)}. "
    worst = values.get("worst")
    return page.section(
        "robustness",
        "Robustness",
        p(said, str(worst) if isinstance(worst, str) and worst else _worst(rows, plain)),
        tag("div", *panels, class_="small-charts"),
        page.details("The same numbers as a table", _table(changes)),
        files=found.files(FILE, runs=[found.chosen]),
    )


def _panel(
    name: str, rows: Sequence[Mapping[str, Any]], plain: float | None, bounds: tuple[float, float], place: int
) -> Html:
    """One change's chart: accuracy by strength, with its interval."""
    x = [float(row["strength"]) for row in rows]
    low, high = ([row[end] if known(row.get(end)) else None for row in rows] for end in ("low", "high"))
    least = min(rows, key=lambda row: row["acc"])
    unit = str(rows[0].get("unit") or "strength")
    said = f"Lowest accuracy {number(least['acc'])}, at {least['strength']:g} {unit}."
    drawn = lines.chart(
        [lines.Line("", x, [row["acc"] for row in rows], low, high, dots=True)],
        x=lines.Axis(unit, min(x), max(x) if len(set(x)) > 1 else min(x) + 1),
        y=lines.Axis("accuracy", *bounds),
        level=None if plain is None else (plain, "unchanged"),
        width=WIDTH,
        height=190,
        ident=f"robustness-{place}",
        title=f"Accuracy under {name}",
        description=said,
    )
    return tag("div", tag("h3", name), Html(drawn))


def _table(changes: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
    """All changes and strengths."""
    rows = [
        [
            name,
            f"{row['strength']:g} {row.get('unit') or ''}".strip(),
            with_interval(row["acc"], row.get("low"), row.get("high")),
        ]
        for name, each in changes.items()
        for row in each
    ]
    return page.table(
        ["change", "strength", "accuracy (95% interval)"], rows, caption="Accuracy by change", numbers=(2,)
    )


def _worst(rows: Sequence[Mapping[str, Any]], plain: float | None) -> str:
    """The lowest accuracy in words."""
    row = min(rows, key=lambda row: row["acc"])
    words = f"The lowest accuracy is {number(row['acc'])}, under {row.get('change')} of {row['strength']:g} "
    words += f"{row.get('unit') or ''}".strip()
    return words + (f": {100 * (plain - row['acc']):.0f} points below." if plain is not None else ".")
