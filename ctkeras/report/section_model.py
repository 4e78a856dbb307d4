"""The report's part on the model: what it mistakes for what, whether its probabilities mean what they say, its worst errors."""

import functools
from collections.abc import Sequence

import numpy as np

from ctkeras import calibration, evaluation
from ctkeras.config import UserError
from ctkeras.report import charts, curves, page
from ctkeras.report.findings import Findings
from ctkeras.report.page import Html, Section, p, tag
from ctkeras.runs.predictions import Predictions, read_predictions

WORST = 6  # errors shown; each is two pictures
PICTURE = 224  # px; of an image in the report
QUALITY = 88  # of JPEG; six pairs take a tenth of a megabyte
MOST_CLASSES = 20  # a confusion matrix of more can't be read as a picture


def answers(found: Findings) -> Predictions | None:
    """The chosen model's answers that the sections below are of: on test when it was opened, else on validation."""
    folder = found.chosen.folder
    if folder is None:
        return None
    try:
        return (read_predictions(folder, "test") if found.test else None) or read_predictions(folder, "valid")
    except UserError:
        return None


def split_of(found: Findings) -> str:
    """The split that `answers` are of, in words."""
    try:
        opened = found.test and found.chosen.folder and read_predictions(found.chosen.folder, "test")
    except UserError:
        opened = None
    return "test" if opened else "validation"


def _missing(ident: str, heading: str, found: Findings) -> Section:
    """A section that can't be had without predictions."""
    why = (
        "predictions are in run folders, not at W&B"
        if found.chosen.folder is None
        else ("its predictions.csv is missing or damaged")
    )
    return page.section(ident, heading, p(f"Not shown: {why}."))


def confusion(found: Findings) -> Section:
    """The confusion matrix and each class's numbers."""
    given = answers(found)
    heading = f"What it mistakes for what, on {split_of(found)}"
    if given is None:
        return _missing("confusion", "What it mistakes for what", found)
    names, predicted = given.class_names, given.probabilities.argmax(-1)
    counts = np.zeros((len(names),) * 2, int)
    np.add.at(counts, (given.labels, predicted), 1)
    wrong = counts - np.diag(counts.diagonal())
    said = "It made no mistake."
    if wrong.any():
        true, called = np.unravel_index(wrong.argmax(), wrong.shape)
        said = f"Most often, {names[true]} was called {names[called]}: {wrong.max()} of {counts[true].sum()} images."
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
            draw, "confusion-chart", "Images; shade and percentage are shares of the truth's row.", data
        )
    files = found.files("predictions.csv", *(["metrics_test.json"] if found.test else []), runs=[found.chosen])
    return page.section(
        "confusion", heading, p(said), drawn, _by_class(found, given, counts), files=files, short="Mistakes"
    )


def _by_class(found: Findings, given: Predictions, counts: np.ndarray) -> Html:
    """Precision, recall and more by class: with intervals from metrics_test.json, else counted."""
    kinds = ("precision", "recall", "specificity", "auc", "ap")
    names, lines = given.class_names, []
    hits, true, called = counts.diagonal(), counts.sum(1), counts.sum(0)
    for i, name in enumerate(names):
        if found.test:
            cells = [page.three(found.test, evaluation.class_key(kind, name)) for kind in kinds]
        else:
            rest = counts.sum() - true[i]
            shares = ((hits[i], called[i]), (hits[i], true[i]), (rest - called[i] + hits[i], rest))
            cells = [page.number(a / b if b else None) for a, b in shares]
        lines.append([name, int(true[i]), *cells])
    shown = kinds if found.test else kinds[:3]
    words = {"auc": "AUC", "ap": "average precision"}
    columns = ["class", "images", *(words.get(kind, kind) for kind in shown)]
    caption = "By class, against the rest" + (", with 95% intervals" if found.test else "")
    return page.table(columns, lines, caption=caption, numbers=range(1, len(columns)))


def reliability(found: Findings) -> Section:
    """Whether a confidence of 0.8 is right in eight of ten."""
    given = answers(found)
    if given is None:
        return _missing("reliability", "Does its confidence mean what it says?", found)
    confidence, right = given.probabilities.max(-1), given.probabilities.argmax(-1) == given.labels
    count, mean, share = (row[0] for row in calibration.reliability(np.ones((1, len(right))), confidence, right))
    means, shares = ([None if np.isnan(v) else float(v) for v in row] for row in (mean, share))
    ece = float(calibration.error(count[None], mean[None], share[None])[0])
    side = "too sure of itself" if confidence.mean() > right.mean() else "too cautious"
    said = (
        f"On {split_of(found)} it is right in {right.mean():.1%}, and says {confidence.mean():.1%} on average: {side}."
    )
    if abs(confidence.mean() - right.mean()) < 0.02:
        said = (
            f"On {split_of(found)} it is right in {right.mean():.1%}, and says so: {confidence.mean():.1%} on average."
        )
    data = page.table(
        ["confidence", "images", "mean confidence", "share right"],
        [
            [f"{i / calibration.BINS:.2f}–{(i + 1) / calibration.BINS:.2f}", int(n), page.number(c), page.number(s)]
            for i, (n, c, s) in enumerate(zip(count, means, shares, strict=True))
            if n
        ],
        caption="Reliability by bin of confidence",
        numbers=(1, 2, 3),
    )
    svg = curves.reliability(
        count.tolist(), means, shares, width=328, ident="reliability-chart", title="Reliability curve", description=said
    )
    ece_shown = page.three(found.test, "ece") if "ece" in found.test else page.number(ece)
    facts = [["expected calibration error (ECE, 15 bins)", ece_shown]]
    if "temperature" in found.test:
        facts.append(["temperature fitted on validation", page.number(found.test["temperature"])])
    if "ece_calibrated" in found.test:
        facts.append(["ECE at that temperature", page.three(found.test, "ece_calibrated")])
    words = "On the diagonal, a confidence of 0.8 is right in eight of ten; a larger dot stands for more images."
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
    heading = "Does its confidence mean what it says?"
    return page.section("reliability", heading, p(said), side_by_side, files=files, short="Confidence")


def worst_errors(found: Findings) -> Section:
    """The errors it was surest of, each with what it looked at."""
    heading, given = f"Its worst errors on {split_of(found)}", answers(found)
    if given is None:
        return _missing("errors", "Its worst errors", found)
    predicted = given.probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != given.labels)
    order = wrong[np.argsort(-given.probabilities[wrong].max(-1), kind="stable")][:WORST]
    files = found.files("predictions.csv", runs=[found.chosen])
    if not len(order):
        return page.section("errors", heading, p("There are none: every image was called what it is."), files=files)
    pictures, why = _pictures(found, [given.files[i] for i in order], predicted[order])
    cards = []
    for place, i in enumerate(order):
        true, called = given.class_names[given.labels[i]], given.class_names[predicted[i]]
        words = [tag("strong", true), " called ", tag("strong", called), f" at {given.probabilities[i].max():.2f}"]
        shown = []
        if pictures:
            alts = (f"The image {given.files[i]}", f"The same image with what spoke for {called} in colour")
            shown = [page.image(data, alt=alt, size=PICTURE) for data, alt in zip(pictures[place], alts, strict=False)]
        caption = tag("figcaption", *words, tag("code", given.files[i]))
        cards.append(tag("figure", tag("div", *shown, class_="twin") if shown else "", caption, class_="error"))
    count = f"{len(wrong):,} of {len(given.labels):,} images were called what they are not; these it was surest of."
    note = p(f"Without pictures: {why}.") if why else None
    heat = "Colour: Grad-CAM (Selvaraju et al. 2017), what spoke for the wrong answer." if pictures else None
    files += found.files("model.keras", runs=[found.chosen]) if pictures else []
    private = "These images are part of this file: share it as you would share them." if pictures else None
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


def _pictures(found: Findings, files: Sequence[str], classes: np.ndarray) -> tuple[list[tuple[str, ...]], str]:
    """Each image, and it under its heat map, as data URIs; or why there are none."""
    folder = found.chosen.folder
    if found.source is None:
        return [], found.no_data
    if folder is None or not (folder / "model.keras").exists():
        return [], "the run has left no model.keras"
    from ctkeras import decoded, explain, export, images, overlay, runtime

    try:
        runtime.configure()
        model, _ = export.open_model(folder)
        split = "test" if split_of(found) == "test" else "valid"
        loaded = decoded.load_split(found.source, split, int(model.input.shape[1]))
        gray = np.stack([loaded.images[loaded.files.index(file)] for file in files])
        heat = explain.heat_maps(model, images.as_rgb(gray), classes)
    except (UserError, ValueError) as error:
        return [], f"the images can't be explained ({' '.join(str(error).split())[:200]})"
    large = [overlay.fitted(image, PICTURE) for image in gray]
    return [
        (page.jpeg_uri(image, quality=QUALITY), page.jpeg_uri(overlay.overlay(image, warm), quality=QUALITY))
        for image, warm in zip(large, heat, strict=True)
    ], ""
