"""Parallel coordinates as inline SVG: one line per run, through its hyperparameters to its result."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ctkeras.report.html.charts import FONT, LETTER, element, label, line, path, picture, scale
from ctkeras.report.html.charts import ticks as charts_ticks
from ctkeras.runtime.console import value_text

SHADES = 5  # classes q0 (worst) to q4 (best), a fifth of the runs each; the eye cannot distinguish more in thin lines
_LOG_SPAN = 20  # a number that spans more than this ratio is shown on a logarithmic scale


class Axis(NamedTuple):
    """One axis: its name, where on it (0 to 1) each value lies, and the values that are labelled."""

    name: str
    place: Mapping[Any, float]
    ticks: tuple[tuple[float, str], ...]


def axis_of(name: str, values: Sequence[Any], *, bounds: tuple[float, float] | None = None) -> Axis:
    """An axis for values: text and up to five values evenly spaced, other numbers linear or, over a wide range, logarithmic.

    Args:
        name: of the axis.
        values: the values that occur; booleans, text or numbers, none missing.
        bounds: ends of a linear scale that is labelled with round numbers; None uses the values' own range.
    """
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if bounds is None and (not number or len(distinct) <= 5):
        where = scale(0, max(1, len(distinct) - 1), 0.0, 1.0) if len(distinct) > 1 else (lambda i: 0.5)
        place = {value: where(i) for i, value in enumerate(distinct)}
        return Axis(name, place, tuple((place[value], value_text(value)) for value in distinct))
    low, high = bounds or (distinct[0], distinct[-1])
    if bounds is not None:
        where = scale(low, high, 0.0, 1.0)
        named = tuple((where(tick), value_text(tick)) for tick in charts_ticks(low, high, 4))
        return Axis(name, {value: where(value) for value in distinct}, named)
    if low > 0 and high / low > _LOG_SPAN:
        where = scale(math.log(low), math.log(high), 0.0, 1.0)
        return Axis(
            name,
            {value: where(math.log(value)) for value in distinct},
            ((0.0, value_text(low)), (1.0, value_text(high))),
        )
    where = scale(low, high, 0.0, 1.0)
    return Axis(name, {value: where(value) for value in distinct}, ((0.0, value_text(low)), (1.0, value_text(high))))


def coordinates(
    axes: Sequence[Axis],
    runs: Sequence[Sequence[Any]],
    *,
    shades: Sequence[int],
    groups: Sequence[int],
    width: float,
    ident: str,
    title: str,
    description: str,
) -> str:
    """Draws the runs, the last one on top in the accent colour; on a narrow page the axes are horizontal, one below another.

    Args:
        axes: the last one shows the result.
        runs: for each run, worst first, one value per axis.
        shades: 0 to SHADES - 1, one per run.
        groups: one per run; the page's script can show a single group.
        width: px; below 500 the layout is the narrow one.
        ident: unique on the page.
        title: see charts.picture.
        description: see charts.picture.
    """
    narrow = width < 500
    if narrow:
        start, end, first = 12.0, width - 12.0, 30.0
        gap = 72.0 if any(_crowded(axis, end - start) for axis in axes) else 58.0
        height = first + gap * (len(axes) - 1) + 34
        point = [lambda v, n=n: (start + v * (end - start), first + gap * n) for n in range(len(axes))]
    else:
        room = max(len(text) for _, text in axes[-1].ticks) * LETTER + 12
        widest = max((len(text) for _, text in axes[0].ticks), default=0) * LETTER
        start, end, top, bottom, height = min(160.0, widest) + 14, width - max(room, 46.0), 50.0, 330.0, 346.0
        gap = (end - start) / max(1, len(axes) - 1)
        point = [lambda v, n=n: (start + gap * n, bottom - v * (bottom - top)) for n in range(len(axes))]
    body = []
    for number, (run, shade, group) in enumerate(zip(runs, shades, groups, strict=True)):
        places = [at(axis.place[value]) for at, axis, value in zip(point, axes, run, strict=True)]
        class_ = "run winner" if number == len(runs) - 1 else f"run q{shade}"
        body.append(path(places, class_, data_r=number, data_g=group))
    crowded = max(len(axis.name) for axis in axes) * (LETTER + 1) + 16 > gap
    for number, axis in enumerate(axes):
        if narrow:
            body += _axis_across(axis, point[number])
        else:
            side = "start" if number == 0 else "end" if number == len(axes) - 1 else "middle"
            body += _axis_up(axis, point[number], side, gap, high=crowded and number % 2 == 1)
    return picture(
        body, width=width, height=height, ident=ident, title=title, description=description, class_="parallel"
    )


def _axis_up(axis: Axis, at: Any, side: str, gap: float, *, high: bool) -> list[str]:
    """A vertical axis: values left of the first axis and right of the others, the name above at one of two heights."""
    (x, bottom), (_, top) = at(0.0), at(1.0)
    name_x = {"start": x - 6, "end": x + 40, "middle": x}[side]
    body = [line(x, top, x, bottom, "spine")]
    body.append(label(name_x, top - (36 if high else 16), axis.name, anchor=side, class_="strong"))
    for place, text in axis.ticks:
        anchor, text_x = ("end", x - 7) if side == "start" else ("start", x + 7)
        room = x - 7 if side == "start" else max(40.0, gap - 12)
        body.append(label(text_x, at(place)[1] + 4, text, anchor=anchor, class_="tick", room=room))
    return body


def _axis_across(axis: Axis, at: Any) -> list[str]:
    """A horizontal axis: its name above, its values below."""
    (left, y), (right, _) = at(0.0), at(1.0)
    body = [line(left, y, right, y, "spine"), label(left, y - 8, axis.name, class_="strong tick")]
    rows = 2 if _crowded(axis, right - left) else 1  # of labels, used alternately
    room = rows * (right - left) / max(1, len(axis.ticks))
    for number, (place, text) in enumerate(axis.ticks):
        anchor = "start" if place < 0.1 else "end" if place > 0.9 else "middle"
        down = (FONT + 2) * (1 + number % rows)
        body.append(label(at(place)[0], y + down, text, anchor=anchor, class_="tick", room=room))
    return body


def _crowded(axis: Axis, room: float) -> bool:
    """Whether an axis' labels would overlap in a single row."""
    return sum(len(text) + 1 for _, text in axis.ticks) * LETTER > room


def shades(values: Sequence[float]) -> list[int]:
    """A shade for each value by its rank, a fifth of the values per shade; equal values share one.

    Args:
        values: ascending.
    """
    first = {value: i for i, value in reversed(list(enumerate(values)))}
    return [min(SHADES - 1, first[value] * SHADES // max(1, len(values))) for value in values]


def swatch() -> str:
    """The shades in a row, for a legend."""
    boxes = "".join(element("rect", x=i * 18, y=0, width=18, height=8, class_=f"swatch q{i}") for i in range(SHADES))
    return element("svg", boxes, width=SHADES * 18, height=8, aria_hidden="true", class_="legend")
