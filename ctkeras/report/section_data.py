"""The report's part on the data: how many images are different ones, what leaks between splits, what training left out."""

import shlex
from collections.abc import Sequence
from typing import Any

from ctkeras import audit
from ctkeras.report import page
from ctkeras.report.findings import Findings
from ctkeras.report.page import Html, Section, p, tag
from ctkeras.sources import SPLITS

LISTED = 50  # conflicts named; data check lists all


def data_audit(found: Findings) -> Section:
    """What is wrong with the data set, from the audit that is kept for it."""
    if found.audit is None:
        return page.section("data", "The data", p("Not shown: ", found.no_data, "."), _left_out(found))
    images, leaks, conflicts = found.audit.images, found.audit.leaks(), found.audit.conflicts()
    distinct, near = len({image.exact for image in images}), len({image.near for image in images})
    words = f"{page.plural(len(images), 'image')} in three splits, of which {distinct:,} are different pictures"
    words += f", or {near:,} when near-duplicates count as one." if near < distinct else "."
    test = len(found.audit.leaked("test", ("train", "valid")))
    if test:
        words += f" {page.plural(test, 'test image')} {'stands' if test == 1 else 'stand'} in train or valid as well."
    elif not leaks:
        words += " No picture stands in two splits."
    return page.section(
        "data",
        "The data",
        p(words),
        _counts(images),
        _leaks(leaks) if leaks else None,
        _conflicts(conflicts) if conflicts else None,
        _told_by_file(images),
        _left_out(found),
        p("The pairs, side by side:"),
        page.command(f"python -m ctkeras data check --data {shlex.quote(found.source.path)}"),
        files=[
            f"audit/{audit.folder(found.source).name}/audit.json in the cache",
            *found.files("metrics.json", runs=[found.chosen]),
        ],
    )


def _counts(images: Sequence[Any]) -> Html:
    """Images by class and split."""
    names = sorted({image.class_name for image in images})
    lines = []
    for name in names:
        own = [image.split for image in images if image.class_name == name]
        lines.append([name, *(f"{own.count(split):,}" for split in SPLITS), f"{len(own):,}"])
    splits = [image.split for image in images]
    lines.append(["all", *(f"{splits.count(split):,}" for split in SPLITS), f"{len(splits):,}"])
    return page.table(["class", *SPLITS, "all"], lines, caption="Images by class and split", numbers=range(1, 5))


def _leaks(leaks: Sequence[Any]) -> Html:
    """Files of one split whose picture stands in another."""
    lines = [
        [
            f"{leak.split} in {leak.into}",
            "the same" if leak.exact else "nearly the same",
            len(leak.files),
            leak.distinct,
        ]
        for leak in leaks
    ]
    columns = ["leak", "picture", "files", "different ones"]
    return page.table(columns, lines, caption="Pictures that stand in two splits", numbers=(2, 3))


def _conflicts(conflicts: Sequence[tuple[str, str]]) -> Html:
    """Pairs of files that hold one picture under two labels."""
    lines = [[tag("code", first), tag("code", second)] for first, second in conflicts[:LISTED]]
    summary = f"{page.plural(len(conflicts), 'pair')} of files hold one picture under two labels"
    shown = summary if len(conflicts) <= LISTED else f"{summary}; the first {LISTED}"
    return page.details(summary, page.table(["file", "and"], lines, caption=shown))


def _told_by_file(images: Sequence[Any]) -> Html | None:
    """How far a file's format, mode and size alone give its class away."""
    from ctkeras import shortcuts

    told = shortcuts.told_by_file(images)
    if "accuracy" not in told:
        return None
    best, chance = told["accuracy"]["all"], told["chance"]
    words = f"From its file alone (format, mode, size), a training image's class is told in {best:.1%}; "
    words += f"always saying the most frequent class is right in {told['majority']:.1%}. "
    kept = "That is why every image is brought to gray and to one size before a network sees it."
    return p(words, kept if best > chance else "")


def _left_out(found: Findings) -> Html | None:
    """What training left out, from the run's record."""
    record = found.chosen.metrics
    leaks, conflicts = record.get("train_images_dropped"), record.get("conflicts_dropped")
    if not isinstance(leaks, int) or not isinstance(conflicts, int):
        return None
    if found.chosen.config["leaks"] == "keep":
        return p("This model was trained with leaks: keep, so nothing was left out.")
    return p(
        f"Training left out {page.plural(leaks, 'image')} that {'stands' if leaks == 1 else 'stand'} in valid or test, "
        f"exact or near, and {conflicts:,} more under two labels; it kept {record.get('train_images', 'the rest')}."
    )
