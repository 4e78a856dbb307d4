"""The report's part on labels: the images whose label looks wrong, by models that were not trained on them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import known, number, plural
from ctkeras.report.pictures import PICTURE, with_heat
from ctkeras.report.sections.record import contract_of

FILE = "labels.json"
SHOWN = 6  # images in the strip; the table has the others
LISTED = 50


def label_check(found: Findings) -> Section | None:
    """A strip of images with label and suggestion; None where labels were not checked."""
    if FILE not in found.measured or not isinstance(found.measured[FILE].get("rows"), list):
        return None
    rows, files = found.rows(FILE), found.files(FILE, runs=[found.chosen])
    heading, short = "Labels that look wrong", "Label check"
    if not rows:
        words = "None: no image's label is contradicted by models that were not trained on it."
        return page.section("labels", heading, p(words), files=files, short=short)
    by = found.measured[FILE].get("by", "the model")
    how = "out of fold" if by == "folds" else f"by {by}"
    words = f"{plural(len(rows), 'image')} whose label the probabilities {how} contradict, or that have two labels; "
    words += "the most doubtful first. "
    words += "A person who can read the images decides; nothing was changed."
    pictures, why = _pictures(found, rows[:SHOWN])
    cards = [_card(row, pictures[i] if pictures else None) for i, row in enumerate(rows[:SHOWN])]
    heat = "Colour: evidence for the suggested class, by Grad-CAM. Share this file only with people who may see the images."
    return page.section(
        "labels",
        heading,
        p(words),
        p(f"The pictures are not shown: {why}.") if why else None,
        tag("div", *cards, class_="errors"),
        p(heat, class_="fine") if pictures else None,
        page.details(f"The first {min(len(rows), LISTED)} as a table", _table(rows)),
        files=files + (found.files("model.keras", runs=[found.chosen]) if pictures else []),
        short=short,
    )


def _pictures(found: Findings, rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str]], str]:
    """Each image without and with evidence for the suggested class, or why they cannot be shown."""
    names = contract_of(found.chosen).get("class_names")
    if not isinstance(names, list) or any(row.get("suggested") not in names for row in rows):
        return [], "contract.json has no class names that the suggestions are among"
    return with_heat(found, [str(row.get("file")) for row in rows], [names.index(row["suggested"]) for row in rows])


def _card(row: Mapping[str, Any], pictures: tuple[str, str] | None) -> Html:
    """One image: its pictures, its label, what is suggested instead."""
    shown: list[Html] = []
    if pictures:
        alts = (f"The image {row.get('file')}", f"The same image, coloured where the model saw {row.get('suggested')}")
        shown = [page.image(data, alt=alt, size=PICTURE) for data, alt in zip(pictures, alts, strict=True)]
    words = ["labelled ", tag("strong", row.get("label")), f"{_share(row, 'p_label')}, suggested "]
    words += [tag("strong", row.get("suggested")), _share(row, "p_suggested")]
    words += [f"; {row['reason']}"] if isinstance(row.get("reason"), str) else []
    caption = tag("figcaption", *words, tag("code", row.get("file")))
    return tag("figure", tag("div", *shown, class_="twin") if shown else "", caption, class_="error")


def _share(row: Mapping[str, Any], name: str) -> str:
    """A probability in brackets; '' for an image that training left out, which has none."""
    return f" ({number(row[name], 2)})" if known(row.get(name)) else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The doubtful labels with their probabilities."""
    lines = [
        [
            tag("code", row.get("file"), class_="wrap"),
            row.get("label"),
            row.get("suggested"),
            number(row.get("p_label")),
            number(row.get("p_suggested")),
        ]
        for row in rows[:LISTED]
    ]
    columns = ["file", "label", "suggested", "probability of the label", "of the suggestion"]
    return page.table(columns, lines, caption="Labels that look wrong", numbers=(3, 4))
