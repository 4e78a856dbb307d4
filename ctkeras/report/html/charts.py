"""Charts as inline SVG: pure functions from numbers to text, in colours that the page sets for light and dark.

Written by hand because the page must work without scripts and without any other file.
"""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

FONT = 13  # px; the page shows charts at their own size, so this is the size on the screen
LETTER, BOLD = 7.4, 8.3  # px; mean width of a letter at that size, in the widest of the usual system fonts
WIDE, NARROW = 760, 328  # px; the page's column on a desktop and on a phone of 360 px


class Row(NamedTuple):
    """One line of a row chart."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""  # shown at the end of the line
    others: tuple[float, ...] = ()  # further values on the same scale, drawn small
    lead: bool = False  # drawn in the accent colour


def element(name: str, content: str = "", /, **attributes: Any) -> str:
    """One SVG element; its content must be escaped already, attributes are escaped here.

    Args:
        name: of the element.
        content: what is inside.
        attributes: numbers are rounded to a tenth of a pixel, None is omitted; class_ means class, x_y means x-y.
    """
    shown = []
    for key, value in attributes.items():
        if value is None:
            continue
        written = f"{round(value, 1):g}" if isinstance(value, float) else str(value)
        shown.append(f' {key.rstrip("_").replace("_", "-")}="{html.escape(written)}"')
    return f"<{name}{''.join(shown)}>{content}</{name}>" if content else f"<{name}{''.join(shown)}/>"


def label(x: float, y: float, text: str, *, anchor: str = "start", class_: str | None = None, room: float = 0) -> str:
    """Text at a place; cut to `room` pixels, when given, with the full text as its tooltip."""
    shown = fit(text, room) if room else text
    whole = element("title", html.escape(text)) if shown != text else ""
    place = None if anchor == "start" else anchor
    return element("text", html.escape(shown) + whole, x=float(x), y=float(y), text_anchor=place, class_=class_)


def fit(text: str, room: float) -> str:
    """Text cut to about `room` pixels, with an ellipsis where it was cut."""
    letters = max(2, int(room / LETTER))
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def dot(x: float, y: float, radius: float, class_: str) -> str:
    """A filled circle."""
    return element("circle", cx=float(x), cy=float(y), r=float(radius), class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str | None, **attributes: Any) -> str:
    """A line through points."""
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{drawn}", class_=class_, **attributes)


def picture(
    body: Iterable[str], *, width: float, height: float, ident: str, title: str, description: str, class_: str = ""
) -> str:
    """An SVG picture with the title and description that a screen reader reads instead.

    Args:
        body: elements.
        width: px.
        height: px.
        ident: unique on the page.
        title: what it shows, in a few words.
        description: what can be seen in it, in a sentence.
        class_: for the page's style sheet.
    """
    named = element("title", html.escape(title) or " ", id=f"{ident}-title")
    named += element("desc", html.escape(description) or " ", id=f"{ident}-desc")
    return element(
        "svg",
        named + "".join(body),
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        class_=f"chart {class_}".strip(),
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within low and high, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)] or [low]


def scale(low: float, high: float, start: float, end: float) -> Any:
    """A function from a value between low and high to a pixel between start and end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def domain(values: Iterable[float | None], *, within: tuple[float, float] | None = None) -> tuple[float, float]:
    """The range of values with a margin of 5% at each end, limited to `within`."""
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 0.05
    low, high = low - margin, high + margin
    return (max(low, within[0]), min(high, within[1])) if within else (low, high)


def rows(
    data: Sequence[Row],
    *,
    width: float,
    ident: str,
    title: str,
    description: str,
    axis: str,
    bounds: tuple[float, float] | None = None,
    bars: bool = False,
) -> str:
    """Dots with intervals, or bars from zero, one per line and labelled directly; on a narrow page labels are above.

    Args:
        data: the lines, drawn in this order.
        width: px; below 500 the layout is the narrow one.
        ident: unique on the page.
        title: see `picture`.
        description: see `picture`.
        axis: what the scale shows, with its unit.
        bounds: of the scale; None uses those of the data.
        bars: draw bars from zero.
    """
    narrow, step = width < 500, 46 if width < 500 else 36
    ends = [value for row in data for value in (row.value, row.low, row.high, *row.others)]
    low, high = bounds or domain([*ends, 0.0] if bars else ends)
    low = min(low, 0.0) if bars else low
    texts = max((len(row.text) * (BOLD if row.lead else LETTER) for row in data), default=0)
    names = min(0.45 * width, max((len(row.label) * (BOLD if row.lead else LETTER) for row in data), default=0))
    left, right = (6.0, width - 6.0) if narrow else (names + 16, width - texts - 16)
    x, top, bottom = scale(low, high, left, right), 26, 26 + step * len(data)
    body = [label(left, 12, axis, class_="axis")]
    for tick in ticks(low, high, 4 if narrow else 6):
        body += [line(x(tick), top, x(tick), bottom, "grid")]
        body += [label(x(tick), bottom + 16, f"{tick:g}", anchor="middle", class_="axis")]
    for number, row in enumerate(data):
        y = top + step * number + (30 if narrow else step / 2)
        body += _row(row, x, y, bars=bars)
        body += _row_words(row, left, right, y, width=width, narrow=narrow)
    return picture(body, width=width, height=bottom + 24, ident=ident, title=title, description=description)


def _row(row: Row, x: Any, y: float, *, bars: bool) -> list[str]:
    """The marks of one line."""
    kind = " lead" if row.lead else ""
    body = [dot(x(value), y, 2.5, "other") for value in row.others]
    if bars:
        start, end = sorted((x(0.0), x(row.value)))
        body.append(element("rect", x=start, y=y - 7, width=max(1.0, end - start), height=14.0, class_=f"bar{kind}"))
    if row.low is not None and row.high is not None:
        body.append(line(x(row.low), y, x(row.high), y, f"{'whisker' if bars else 'interval'}{kind}"))
    if not bars:
        body.append(dot(x(row.value), y, 6, f"dot{kind}"))
    return body


def _row_words(row: Row, left: float, right: float, y: float, *, width: float, narrow: bool) -> list[str]:
    """The label and the text of one line: beside it, or above it on a narrow page."""
    bold, cut = ("strong", LETTER / BOLD) if row.lead else (None, 1)
    if narrow:
        room = (width - 12 - len(row.text) * LETTER / cut - 8) * cut
        return [
            label(left, y - 13, row.label, class_=bold, room=room),
            label(right, y - 13, row.text, anchor="end", class_=bold),
        ]
    return [
        label(left - 12, y + 4.5, row.label, anchor="end", class_=bold, room=(left - 8) * cut),
        label(right + 12, y + 4.5, row.text, class_=bold),
    ]


def matrix(
    counts: Sequence[Sequence[int]], names: Sequence[str], *, width: float, ident: str, title: str, description: str
) -> str:
    """A confusion matrix: rows are true classes, columns are answers; a cell's shade is its share of the row.

    Args:
        counts: C rows of C numbers of images.
        names: C class names.
        width: px.
        ident: unique on the page.
        title: see `picture`.
        description: see `picture`.
    """
    left = min(max(len(name) for name in names) * LETTER + 12, width * 0.36)
    cell = min(76.0, (width - left - 4) / len(names))
    tall, top = min(cell, 56.0), 24.0
    bottom = top + tall * len(names)
    body = [label(left, 13, "each row: a true class", class_="axis")]
    for i, name in enumerate(names):
        body.append(label(left - 8, top + tall * i + tall / 2 + 4.5, name, anchor="end", room=left - 8))
        # Below and slanted to the left, where the names of the rows leave room on a page of any width.
        words = label(0, 0, name, anchor="end", room=left + cell * i)
        x, y = left + cell * (i + 0.5) + 5, bottom + 14
        body.append(element("g", words, transform=f"translate({x:.1f} {y:.1f}) rotate(-38)"))
    for i, row in enumerate(counts):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            share = count / total
            x, y = left + cell * j, top + tall * i
            box = {"x": x + 1, "y": y + 1, "width": cell - 2, "height": tall - 2, "rx": 3}
            body.append(element("rect", **box, class_="cell"))
            body.append(element("rect", **box, class_="hit" if i == j else "miss", fill_opacity=f"{share:.2f}"))
            body += _cell_words(count, share, x + cell / 2, y + tall / 2, small=cell < 40)
    slant = max(min(len(name) * LETTER, left + cell * i) for i, name in enumerate(names)) * 0.62
    height = bottom + slant + 24
    body.append(
        label(left + cell * len(names), height - 4, "each column: the model's answer", anchor="end", class_="axis")
    )
    return picture(body, width=width, height=height, ident=ident, title=title, description=description)


def _cell_words(count: int, share: float, x: float, y: float, *, small: bool) -> list[str]:
    """A cell's count and its share of the row, in a colour that is readable on its shade."""
    class_ = "on" if share > 0.55 else "zero" if count == 0 else None
    if small or count == 0:
        return [label(x, y + 4.5, str(count), anchor="middle", class_=class_)]
    tiny = f"tiny {class_ or ''}".strip()
    return [
        label(x, y + 0.5, str(count), anchor="middle", class_=f"strong {class_ or ''}".strip()),
        label(x, y + 14.5, f"{share:.0%}", anchor="middle", class_=tiny),
    ]
