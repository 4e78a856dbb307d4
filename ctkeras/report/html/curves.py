"""Charts of curves as inline SVG: learning curves, runs still training by epoch, reliability."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ctkeras.report.html.charts import dot, element, label, line, path, picture, scale, ticks


def learning(
    lines: Sequence[tuple[str, str, Sequence[float]]],
    *,
    bounds: tuple[float, float],
    epochs: int,
    best_epoch: int,
    ident: str,
    title: str,
    description: str,
    width: float = 328,
    height: float = 190,
) -> str:
    """One run's curves over its epochs, each with its name at its end.

    Args:
        lines: (name, CSS class, one value per epoch from epoch 1); a value that is not finite leaves a gap.
        bounds: of the vertical scale, the same for all panels side by side.
        epochs: the horizontal scale's end.
        best_epoch: the epoch to mark; 0 marks none.
        ident: unique on the page.
        title: see charts.picture.
        description: see charts.picture.
        width: px.
        height: px.
    """
    room = max(len(name) for name, _, _ in lines) * 6.6 + 12
    left, right, top, bottom = 36.0, width - room, 10.0, height - 26.0
    x, y = scale(1, max(2, epochs), left, right), scale(*bounds, bottom, top)
    body: list[str] = []
    for tick in ticks(*bounds, 4):
        body += [line(left, y(tick), right, y(tick), "grid")]
        body += [label(left - 6, y(tick) + 4, f"{tick:g}", anchor="end", class_="axis")]
    for tick in _whole(ticks(1, max(2, epochs), 4)):
        body.append(label(x(tick), bottom + 17, str(tick), anchor="middle", class_="axis"))
    body.append(label(right + 18, bottom + 17, "epoch", class_="axis"))
    ends = []
    for name, class_, values in lines:
        shown = [(x(i), y(min(max(v, bounds[0]), bounds[1]))) for i, v in enumerate(values, 1) if math.isfinite(v)]
        if shown:
            body.append(path(shown, f"curve {class_}") if len(shown) > 1 else dot(*shown[0], 3, f"point {class_}"))
            ends.append([shown[-1][1], name, class_])
            if 0 < best_epoch <= len(values) and class_ == "first" and math.isfinite(values[best_epoch - 1]):
                at = min(max(values[best_epoch - 1], bounds[0]), bounds[1])
                body.append(dot(x(best_epoch), y(at), 4.5, "best"))
    body += _end_labels(ends, right + 8, top, bottom)
    return picture(body, width=width, height=height, ident=ident, title=title, description=description)


def _whole(values: Sequence[float]) -> list[int]:
    """The whole numbers among the values."""
    return [int(value) for value in values if value == int(value)]


def _end_labels(ends: list[Any], x: float, top: float, bottom: float) -> list[str]:
    """Names beside the ends of curves, moved apart where they would overlap."""
    ends.sort()
    for before, after in itertools.pairwise(ends):
        after[0] = max(after[0], before[0] + 15)
    over = max(0.0, ends[-1][0] - bottom) if ends else 0.0
    return [label(x, max(top, y - over) + 4, name, class_=f"name {class_}") for y, name, class_ in ends]


def remaining(
    ends: Sequence[int],
    *,
    limit: int,
    stopped: Sequence[int],
    width: float,
    ident: str,
    title: str,
    description: str,
) -> str:
    """How many runs were still training at each epoch: a falling staircase; the area above it was never trained.

    Args:
        ends: each run's last epoch.
        limit: the most epochs that a run could have.
        stopped: the epoch at which each stopped run ended; the chart labels each with its number of runs.
        width: px.
        ident: unique on the page.
        title: see charts.picture.
        description: see charts.picture.
    """
    left, right, top, bottom = 40.0, width - 12.0, 22.0, 220.0
    x, y = scale(0, max(1, limit), left, right), scale(0, max(1, len(ends)), bottom, top)
    stair, alive = [(x(0), y(len(ends)))], len(ends)
    for epoch, count in sorted(Counter(min(end, limit) for end in ends).items()):
        stair += [(x(epoch), y(alive)), (x(epoch), y(alive - count))]
        alive -= count
    body = [element("rect", x=left, y=top, width=right - left, height=bottom - top, class_="saved")]
    for tick in _whole(ticks(0, len(ends), 4)):
        body += [line(left, y(tick), right, y(tick), "grid")]
        body += [label(left - 6, y(tick) + 4, str(tick), anchor="end", class_="axis")]
    body.append(path([*stair, (right, bottom), (left, bottom)], "trained"))
    body.append(path(stair, "edge"))
    body.append(label(left, 13, "runs still training", class_="axis"))
    for tick in _whole(ticks(0, limit, 4 if width < 500 else 8)):
        body.append(label(x(tick), bottom + 17, str(tick), anchor="middle", class_="axis"))
    body.append(label(right, bottom + 33, "epoch", anchor="end", class_="axis"))
    for epoch in sorted(set(stopped)):
        count, left_over = stopped.count(epoch), sum(end > epoch for end in ends)
        at = y(left_over + count / 2)
        body.append(label(min(x(epoch) + 6, right - 90), at + 4, f"{count} stopped", class_="strong"))
    return picture(body, width=width, height=bottom + 40, ident=ident, title=title, description=description)


def reliability(
    counts: Sequence[float],
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
    *,
    width: float,
    ident: str,
    title: str,
    description: str,
) -> str:
    """How often answers of a given confidence were right; on the diagonal, confidence equals accuracy.

    Args:
        counts: images per bin.
        confidence: mean confidence per bin; None where it is empty.
        accuracy: share of correct answers per bin; None where it is empty.
        width: px.
        ident: unique on the page.
        title: see charts.picture.
        description: see charts.picture.
    """
    left, right, top = 40.0, width - 14.0, 26.0
    bottom = top + (right - left) * 0.86
    x, y = scale(0, 1, left, right), scale(0, 1, bottom, top)
    body = [label(0, 13, "share correct", class_="axis")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body += [line(left, y(tick), right, y(tick), "grid"), line(x(tick), top, x(tick), bottom, "grid")]
        body += [label(left - 6, y(tick) + 4, f"{tick:g}", anchor="end", class_="axis")]
        body += [label(x(tick), bottom + 17, f"{tick:g}", anchor="middle", class_="axis")]
    body += [
        label(right, bottom + 34, "confidence", anchor="end", class_="axis"),
        line(x(0), y(0), x(1), y(1), "ideal"),
        label(x(0.04), y(0.93), "underconfident", class_="axis"),
        label(x(0.97), y(0.05), "overconfident", anchor="end", class_="axis"),
    ]
    largest = max(max(counts, default=1), 1)
    for count, mean, share in zip(counts, confidence, accuracy, strict=True):
        if count and mean is not None and share is not None:
            body.append(line(x(mean), y(mean), x(mean), y(share), "gap"))
            body.append(dot(x(mean), y(share), 3 + 9 * math.sqrt(count / largest), "bubble"))
    return picture(body, width=width, height=bottom + 40, ident=ident, title=title, description=description)
