"""The report's part on all thresholds: ROC and precision-recall curves of each class, and the decision curve."""

from collections.abc import Callable

import numpy as np

from ctkeras.evaluation import curves
from ctkeras.report.findings import Findings
from ctkeras.report.html import lines, page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import number
from ctkeras.report.sections.model import answers, split_of
from ctkeras.runs.predictions import Predictions

NORMAL = "normal"  # the class that a decision curve leaves alone
WIDTH = 328  # px; two charts fit beside each other on a desktop, one on a phone
SHARE = lines.Axis("", 0.0, 1.0, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")))


def thresholds(found: Findings) -> Section | None:
    """ROC and precision-recall of up to six classes, and net benefit; None without predictions of two classes."""
    given = answers(found)
    if given is None or len(np.unique(given.labels)) < 2:
        return None
    groups = np.unique([found.groups.get(file, -1 - i) for i, file in enumerate(given.files)], return_inverse=True)[1]
    classes = [i for i in np.unique(given.labels) if i < len(given.class_names)][: lines.MOST_LINES]
    panels = [
        *_panels(given, classes, groups, curves.roc, "ROC", "share of other images called it", "sensitivity"),
        *_panels(given, classes, groups, curves.precision_recall, "Precision and recall", "recall", "precision"),
    ]
    if NORMAL in given.class_names:
        panels.append(_decision(given, groups))
    what = found.grouped_by or "images"
    words = f"On {split_of(found)}, each class against all others; bands: 95%, bootstrap over {what}."
    return page.section(
        "thresholds",
        "At every threshold",
        p(words),
        tag("div", *panels, class_="small-charts"),
        p("A precision is the highest one with at least that recall.", class_="fine"),
        files=found.files("predictions.csv", runs=[found.chosen]),
        short="ROC and decision curves",
    )


def _panels(
    given: Predictions,
    classes: list[int],
    groups: np.ndarray,
    curve: Callable[..., curves.Curve],
    title: str,
    x: str,
    y: str,
) -> list[Html]:
    """One small chart for each class, so that bands do not hide each other."""
    panels = []
    for place, label in enumerate(classes):
        drawn = curve(given.labels, given.probabilities, label, groups=groups)
        name, half = given.class_names[label], len(drawn.x) // 2
        said = f"At {x} {number(drawn.x[half], 2)}, {y} {number(drawn.y[half])}."
        values = (drawn.y.tolist(), drawn.low.tolist(), drawn.high.tolist())
        svg = lines.chart(
            [lines.Line("", drawn.x.tolist(), *values)],
            x=SHARE._replace(words=x),
            y=SHARE._replace(words=y),
            width=WIDTH,
            height=200,
            diagonal=curve is curves.roc,
            ident=f"{y}-{place}",
            title=f"{title} of {name}",
            description=said,
        )
        panels.append(tag("div", tag("h3", f"{title}: {name}"), Html(svg)))
    return panels


def _decision(given: Predictions, groups: np.ndarray) -> Html:
    """Net benefit of acting on what is probably not normal, beside acting on all images and on none."""
    label = given.class_names.index(NORMAL)
    drawn = curves.net_benefit(given.labels, given.probabilities, label, groups=groups)
    every = curves.act_on_all(given.labels, label)
    top = max(0.05, float(np.nanmax(drawn.high)), float(every.max()))
    svg = lines.chart(
        [
            lines.Line("the model", drawn.x.tolist(), drawn.y.tolist(), drawn.low.tolist(), drawn.high.tolist()),
            lines.Line("act on all", drawn.x.tolist(), every.tolist(), class_="second"),
        ],
        x=lines.Axis("threshold probability", 0.0, 1.0, ((0.0, "0"), (0.5, "0.5"), (1.0, "1"))),
        y=lines.Axis("net benefit", -0.1 * top, 1.05 * top),
        level=(0.0, "act on none"),
        width=WIDTH,
        height=220,
        ident="net-benefit",
        title="Decision curve, other classes against normal",
        description=f"At a threshold of {number(drawn.x[len(drawn.x) // 2], 2)}, {number(drawn.y[len(drawn.x) // 2])}.",
    )
    return tag("div", tag("h3", "Decision curve: others against normal"), Html(svg))
