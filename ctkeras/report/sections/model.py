"""The report's part on the model: its confusion matrix, its calibration, its worst errors."""

import functools
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.evaluation import calibration
from ctkeras.evaluation.answers import class_key
from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, curves, page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import known, number, three
from ctkeras.report.pictures import PICTURE, with_heat
from ctkeras.runs.predictions import Predictions, read_predictions, read_validation

WORST = 6  # errors shown, with two pictures each
WELL_CALIBRATED = 0.02  # largest gap between mean confidence and accuracy that is called so
MOST_CLASSES = 20  # a picture of a larger confusion matrix is unreadable


def answers(found: Findings) -> Predictions | None:
    """The chosen model's answers on test when that was opened, otherwise on validation."""
    folder = found.chosen.folder
    if folder is None:
        return None
    try:
        return (read_predictions(folder, "test") if found.test else None) or read_validation(folder)
    except UserError:
        return None


def split_of(found: Findings) -> str:
    """The split of `answers`, in words."""
    try:
        opened = found.test and found.chosen.folder and read_predictions(found.chosen.folder, "test")
    except UserError:
        opened = None
    return "test" if opened else "images out of fold" if found.chosen.metrics.get("folds") else "validation"


def _missing(ident: str, heading: str, found: Findings) -> Section:
    """A section that cannot be written without predictions."""
    at_wandb = found.chosen.folder is None
    why = "predictions are in run folders, not in W&B" if at_wandb else "its predictions.csv is missing or damaged"
    return page.section(ident, heading, p(f"Not shown: {why}."))


def confusion(found: Findings) -> Section:
    """The confusion matrix, and numbers for each class."""
    given = answers(found)
    heading = f"Which classes it confuses, on {split_of(found)}"
    if given is None:
        return _missing("confusion", "Which classes it confuses", found)
    names, predicted = given.class_names, given.probabilities.argmax(-1)
    counts = np.zeros((len(names),) * 2, int)
    np.add.at(counts, (given.labels, predicted), 1)
    wrong = counts - np.diag(counts.diagonal())
    said = "It made no mistakes."
    if wrong.any():
        true, called = np.unravel_index(wrong.argmax(), wrong.shape)
        share = f"{wrong.max()} of {counts[true].sum()} images of {names[true]}"
        said = f"Its most frequent mistake: {share} were called {names[called]}."
    data = page.table(
        ["truth \\ answer", *names],
        [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)],
        caption="Confusion matrix, images",
        numbers=range(1, len(names) + 1),
    )
    drawn = data
    if len(names) <= MOST_CLASSES:
        draw = functools.partial(charts.matrix, counts.tolist(), names, title="Confusion matrix", description=said)
        drawn = page.figure(
            draw, "confusion-chart", "Numbers of images; shade and percentage show the share of the row.", data
        )
    files = found.files("predictions.csv", *(["metrics_test.json"] if found.test else []), runs=[found.chosen])
    return page.section(
        "confusion", heading, p(said), drawn, _by_class(found, given, counts), files=files, short="Mistakes"
    )


def _by_class(found: Findings, given: Predictions, counts: np.ndarray) -> Html:
    """Precision, recall and more by class: from metrics_test.json with intervals, otherwise counted."""
    kinds = ("precision", "recall", "specificity", "auc", "ap")
    names, lines = given.class_names, []
    hits, true, called = counts.diagonal(), counts.sum(1), counts.sum(0)
    for i, name in enumerate(names):
        if found.test:
            cells: list[Any] = [_stacked(found, class_key(kind, name)) for kind in kinds]
        else:
            rest = counts.sum() - true[i]
            shares = ((hits[i], called[i]), (hits[i], true[i]), (rest - called[i] + hits[i], rest))
            cells = [number(a / b if b else None) for a, b in shares]
        lines.append([name, int(true[i]), *cells])
    shown = kinds if found.test else kinds[:3]
    words = {"auc": "AUC", "ap": "average precision"}
    columns = ["class", "images", *(words.get(kind, kind) for kind in shown)]
    caption = "Each class against the others" + (", with 95% intervals" if found.test else "")
    table = page.table(columns, lines, caption=caption, numbers=range(1, len(columns)))
    return tag("div", table, class_="tight")


def _stacked(found: Findings, name: str) -> Html:
    """A metric with its bounds on a line of their own, so that five of them fit beside each other."""
    low, high = (found.test.get(f"{name}_{end}") for end in ("low", "high"))
    bounds = [tag("span", f"{number(low)}–{number(high)}", class_="bounds")] if known(low) and known(high) else []
    return page.join([number(found.test.get(name)), *bounds])


def reliability(found: Findings) -> Section:
    """Whether answers with a confidence of 0.8 are right eight times out of ten."""
    given = answers(found)
    if given is None:
        return _missing("reliability", "Is its confidence reliable?", found)
    confidence, right = given.probabilities.max(-1), given.probabilities.argmax(-1) == given.labels
    count, mean, share = (row[0] for row in calibration.reliability(np.ones((1, len(right))), confidence, right))
    means, shares = ([None if np.isnan(v) else float(v) for v in row] for row in (mean, share))
    ece = float(calibration.error(count[None], mean[None], share[None])[0])
    side = "overconfident" if confidence.mean() > right.mean() else "underconfident"
    side = "well calibrated on average" if abs(confidence.mean() - right.mean()) < WELL_CALIBRATED else side
    said = f"On {split_of(found)}, {right.mean():.1%} of its answers are right and its mean confidence is "
    said += f"{confidence.mean():.1%}: it is {side}."
    data = page.table(
        ["confidence", "images", "mean confidence", "share correct"],
        [
            [f"{i / calibration.BINS:.2f}–{(i + 1) / calibration.BINS:.2f}", int(n), number(c), number(s)]
            for i, (n, c, s) in enumerate(zip(count, means, shares, strict=True))
            if n
        ],
        caption="Reliability by bin of confidence",
        numbers=(1, 2, 3),
    )
    svg = curves.reliability(
        count.tolist(), means, shares, width=328, ident="reliability-chart", title="Reliability curve", description=said
    )
    ece_shown = three(found.test, "ece") if "ece" in found.test else number(ece)
    facts = [["expected calibration error (ECE, 15 bins)", ece_shown], *_temperature(found)]
    words = "On the diagonal, answers with a confidence of 0.8 are right 8 times out of 10. Larger dots: more images."
    side_by_side = tag(
        "div",
        page.small_figure(svg, words, data),
        page.table(
            ["", "with 95% interval" if "ece" in found.test else ""],
            facts,
            caption="Calibration",
            numbers=(1,),
            hidden_caption=True,
        ),
        class_="beside",
    )
    files = found.files("predictions.csv", *(["metrics_test.json"] if found.test else []), runs=[found.chosen])
    heading = "Is its confidence reliable?"
    return page.section("reliability", heading, p(said), side_by_side, files=files, short="Confidence")


def _temperature(found: Findings) -> list[list[str]]:
    """What was done about calibration, and the calibration error before or after it."""
    test, own = found.test, found.chosen.metrics
    if "temperature" in own:  # in the exported model
        rows = [["logits are divided, in the model, by", number(own["temperature"])]]
        if "ece_uncalibrated" in test:
            return [*rows, ["ECE without that", three(test, "ece_uncalibrated")]]
        where = "out of fold" if own.get("folds") else "on validation"
        for name, words in (("val_ece", "ECE"), ("val_loss", "log-loss")):
            both = f"{number(own.get(name))}, {number(own.get(f'{name}_calibrated'))}"
            rows.append([f"{words} {where}, before and after", both])
        return rows
    rows = [["temperature fitted on validation", number(test["temperature"])]] if "temperature" in test else []
    shown = "ece_calibrated" in test
    return rows + ([["ECE at that temperature", three(test, "ece_calibrated")]] if shown else [])


def worst_errors(found: Findings) -> Section:
    """The errors it was most confident of, each with the parts of the image that led to it."""
    heading, given = f"Its worst errors on {split_of(found)}", answers(found)
    if given is None:
        return _missing("errors", "Its worst errors", found)
    predicted = given.probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != given.labels)
    order = wrong[np.argsort(-given.probabilities[wrong].max(-1), kind="stable")][:WORST]
    files = found.files("predictions.csv", runs=[found.chosen])
    if not len(order):
        return page.section("errors", heading, p("None: every image was classified correctly."), files=files)
    pictures, why = with_heat(found, [given.files[i] for i in order], predicted[order])
    cards = []
    for place, i in enumerate(order):
        true, called = given.class_names[given.labels[i]], given.class_names[predicted[i]]
        confidence = f", confidence {given.probabilities[i].max():.2f}"
        words = [tag("strong", true), " called ", tag("strong", called), confidence]
        shown = []
        if pictures:
            alts = (
                f"The image {given.files[i]}",
                f"The same image, coloured where the model saw evidence for {called}",
            )
            shown = [page.image(data, alt=alt, size=PICTURE) for data, alt in zip(pictures[place], alts, strict=False)]
        caption = tag("figcaption", *words, tag("code", given.files[i]))
        cards.append(tag("figure", tag("div", *shown, class_="twin") if shown else "", caption, class_="error"))
    count = f"{len(wrong):,} of {len(given.labels):,} images were misclassified; these are its most confident errors."
    note = p(f"The pictures are not shown: {why}.") if why else None
    heat = "Colour: evidence for the wrong answer, by Grad-CAM (Selvaraju et al. 2017)." if pictures else None
    files += found.files("model.keras", runs=[found.chosen]) if pictures else []
    private = "The images are part of this file: share it only with people who may see them." if pictures else None
    return page.section(
        "errors",
        heading,
        p(count),
        note,
        tag("div", *cards, class_="errors"),
        p(heat, " ", private, class_="fine") if pictures else None,
        files=files,
        short="Worst errors",
    )
