"""The report's part on the data: how many images are distinct, which appear in two splits, what training left out."""

import shlex
from collections.abc import Sequence

from ctkeras.audit import audit, measures
from ctkeras.report import audit_page
from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import plural

LISTED = 50  # conflicts shown; data check shows all


def data_audit(found: Findings) -> Section:
    """Returns what is wrong with the data set, from its stored audit."""
    if found.audit is None:
        return page.section("data", "The data", p("Not shown: ", found.no_data, "."), _left_out(found))
    summary = found.summary
    images, distinct, near = (summary[key] for key in ("images", "distinct_images", "near_groups"))
    words = f"{plural(images, 'image')} in three splits, of which {distinct:,} are distinct"
    words += f", or {near:,} if near-duplicates count as one." if near < distinct else "."
    if leaked := len(found.audit.leaked("test", ("train", "valid"))):
        words += _reconciled(found, leaked)
    elif not summary["leaks"]:
        words += " No image appears in two splits."
    return page.section(
        "data",
        "The data",
        p(words),
        audit_page.balance_table(summary),
        audit_page.leaks_table(summary),
        tag("ul", *(tag("li", line) for line in measures.sentences(summary))),
        _conflicts(found.audit.conflicts()),
        *audit_page.class_by_file(summary),
        _left_out(found),
        p("The pairs, side by side:"),
        page.command(_check(found)),
        files=[
            f"audit/{audit.folder(found.source).name}/audit.json in the cache",
            *found.files("metrics.json", runs=[found.chosen]),
        ],
    )


def _check(found: Findings) -> str:
    """The command that shows the same audit."""
    pattern = f" --group_pattern {shlex.quote(found.group_pattern)}" if found.group_pattern else ""
    return f"python -m ctkeras data check --data {shlex.quote(found.source.path)}{pattern}"


def _reconciled(found: Findings, leaked: int) -> str:
    """How many test images also appear in train or valid, and how that follows from the rows of the table."""
    rows = [leak for leak in found.audit.leaks() if leak.split == "test"]
    words = f" {plural(leaked, 'test image')} also {'appears' if leaked == 1 else 'appear'} in train or valid"
    words += ", exactly or nearly"
    if len(rows) > 1:
        parts = [f"{len(leak.files):,} in {leak.into} {'exactly' if leak.exact else 'nearly'}" for leak in rows]
        total = sum(len(leak.files) for leak in rows)
        words += f": {', '.join(parts)}"
        words += f"; {total - leaked:,} of these are counted in two rows" if total > leaked else ""
    return words + "."


def _conflicts(conflicts: Sequence[tuple[str, str]]) -> Html | None:
    """Returns the pairs of files that hold the same image under two labels; None if there are none."""
    if not conflicts:
        return None
    lines = [[tag("code", first), tag("code", second)] for first, second in conflicts[:LISTED]]
    one = len(conflicts) == 1
    summary = f"{plural(len(conflicts), 'pair')} of files {'holds' if one else 'hold'} the same image under two labels"
    caption = summary if len(conflicts) <= LISTED else f"{summary}; the first {LISTED}"
    return page.details(summary, page.table(["file", "and"], lines, caption=caption))


def _left_out(found: Findings) -> Html | None:
    """Returns what training left out, from the run's record."""
    record = found.chosen.metrics
    leaks, conflicts = record.get("train_images_dropped"), record.get("conflicts_dropped")
    if not isinstance(leaks, int) or not isinstance(conflicts, int):
        return None
    if found.chosen.config["leaks"] == "keep":
        return p("This model was trained with leaks: keep, so nothing was left out.")
    return p(
        f"Training left out {plural(leaks, 'image')} that also {'appears' if leaks == 1 else 'appear'} in valid or "
        f"test, exactly or nearly, and {conflicts:,} more under two labels; it used {record.get('train_images', 'the rest')}."
    )
