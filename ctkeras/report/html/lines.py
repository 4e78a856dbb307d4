"""Line charts with bands as inline SVG: curves over a number, each with its 95% interval and its name at its end."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ctkeras.report.html.charts import LETTER, dot, element, label, line, path, picture, scale, ticks

CLASSES = ("first", "second", "third", "fourth", "fifth", "sixth")  # of the style sheet, one per line
MOST_LINES = len(CLASSES)


class Line(NamedTuple):
    """One curve; the sequences have one value per point, NaN or None where nothing is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()  # of the band; empty for none
    high: Sequence[float | None] = ()
    class_: str = "first"
    dots: bool = False  # mark each point


class Axis(NamedTuple):
    """A scale: its words, its ends, and which values are written; '' and () leave that to the chart."""

    words: str
    low: float
    high: float
    marks: tuple[tuple[float, str], ...] = ()


def chart(
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    width: float,
    ident: str,
    title: str,
    description: str,
    height: float = 230,
    diagonal: bool = False,
    level: tuple[float, str] | None = None,
) -> str:
    """Curves with bands on one pair of scales; names appear in a legend above, so that no width cuts them off.

    Args:
        lines: at most MOST_LINES; further ones are left out.
        x: the horizontal scale.
        y: the vertical scale.
        width: px.
        ident: unique on the page.
        title: see charts.picture.
        description: see charts.picture.
        height: px, of the area below the legend.
        diagonal: draw the line of a guess, from the lower left to the upper right.
        level: a value on the vertical scale to mark with a dotted line, and its name.
    """
    legend, top = _legend(lines, width) if len(lines) > 1 or (lines[:1] and lines[0].name) else ([], 8.0)
    left, right, top = 42.0, width - 12.0, top + 18.0
    bottom = top + height - 60
    to_x, to_y = scale(x.low, x.high, left, right), scale(y.low, y.high, bottom, top)
    body = [*legend, label(left, top - 8, y.words, class_="axis")]
    for at, words in y.marks or [(tick, f"{tick:g}") for tick in ticks(y.low, y.high, 4)]:
        body += [line(left, to_y(at), right, to_y(at), "grid")]
        body += [label(left - 6, to_y(at) + 4, words, anchor="end", class_="axis")]
    for at, words in x.marks or [(tick, f"{tick:g}") for tick in ticks(x.low, x.high, 5 if width > 250 else 3)]:
        body.append(line(to_x(at), bottom, to_x(at), bottom + 4, "grid"))
        body.append(label(to_x(at), bottom + 17, words, anchor="middle", class_="axis"))
    body.append(label(right, bottom + 33, x.words, anchor="end", class_="axis"))
    if diagonal:
        body.append(line(to_x(x.low), to_y(y.low), to_x(x.high), to_y(y.high), "ideal"))
    if level is not None and y.low <= level[0] <= y.high:
        body += [line(left, to_y(level[0]), right, to_y(level[0]), "ideal")]
        body += [label(right, to_y(level[0]) - 5, level[1], anchor="end", class_="axis")]
    shown = lines[:MOST_LINES]
    body += [band for each in shown for band in _band(each, to_x, to_y, y)]
    body += [part for each in shown for part in _curve(each, to_x, to_y, y)]
    return picture(body, width=width, height=bottom + 40, ident=ident, title=title, description=description)


def _legend(lines: Sequence[Line], width: float) -> tuple[list[str], float]:
    """The lines' names with their colours, in as many rows as they need, and the height used, px."""
    body, x, y = [], 2.0, 14.0
    for each in lines[:MOST_LINES]:
        space = min(width - 4, 26 + len(each.name) * LETTER + 16)
        if x > 2.0 and x + space > width:
            x, y = 2.0, y + 19
        body.append(line(x, y - 4, x + 18, y - 4, f"curve {each.class_}"))
        body.append(label(x + 24, y, each.name, class_=f"name {each.class_}", room=width - x - 26))
        x += space
    return body, y + 6


def _points(each: Line, values: Sequence[float | None], y: Axis) -> list[tuple[float, float]]:
    """A line's known points, within the vertical scale."""
    pairs = zip(each.x, values, strict=False)
    return [
        (a, min(max(b, y.low), y.high)) for a, b in pairs if b is not None and math.isfinite(a) and math.isfinite(b)
    ]


def _band(each: Line, to_x, to_y, y: Axis) -> list[str]:
    """The area between a line's bounds."""
    low, high = _points(each, each.low, y), _points(each, each.high, y)
    if len(low) < 2 or len(high) < 2:
        return []
    around = [(to_x(a), to_y(b)) for a, b in [*high, *reversed(low)]]
    return [path(around, f"band {each.class_}")]


def _curve(each: Line, to_x, to_y, y: Axis) -> list[str]:
    """A line and, where asked for, its points with their values as tooltips."""
    points = [(to_x(a), to_y(b)) for a, b in _points(each, each.y, y)]
    body = [path(points, f"curve {each.class_}")] if len(points) > 1 else []
    if each.dots or len(points) == 1:
        body += [dot(a, b, 3.2, f"point {each.class_}") for a, b in points]
    return [element("g", "".join(body))] if body else []
