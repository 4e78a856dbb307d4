"""Reporting checklists filled with what the tool knows: Markdown to edit, and a section of the page."""

import csv
import html
from importlib import resources
from typing import NamedTuple

from ctkeras.report import facts
from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Section, p, tag

# Item numbers follow these publications; the wording of each item is this package's own.
SOURCES = {
    "claim": "CLAIM 2024 Update (Tejani et al., Radiology: Artificial Intelligence 2024, e240300)",
    "tripod-ai": "TRIPOD+AI (Collins et al., BMJ 2024; 385: e078378)",
    "metrics": "Metrics Reloaded (Maier-Hein et al., Nature Methods 2024; 21: 195); the numbers are this tool's own",
}
OPEN = "to be written by the authors"


class Item(NamedTuple):
    """An item of a checklist, filled as far as the tool knows."""

    number: str
    section: str
    item: str
    answer: str  # OPEN where nothing is known
    files: tuple[str, ...]


def items(found: Findings, name: str) -> list[Item]:
    """A checklist's items in order.

    Args:
        found: what the report is written from.
        name: one of SOURCES.
    """
    table = (resources.files("ctkeras.report.checklists") / f"{name}.csv").read_text(encoding="utf-8")
    filled = []
    for row in csv.DictReader(table.splitlines()):
        told = [facts.FACTS[fact](found) for fact in row["facts"].split(";") if fact]
        told = [fact for fact in told if fact.text]
        files = tuple(dict.fromkeys(file for fact in told for file in fact.files))
        words = " ".join(fact.text for fact in told) or OPEN
        filled.append(Item(row["number"], row["section"], row["item"], words, files))
    return filled


def markdown(found: Findings, name: str) -> str:
    """A checklist as Markdown; text from files is escaped, so that it stays text."""
    rows = items(found, name)
    known = sum(row.answer != OPEN for row in rows)
    lines = [f"# Checklist: {_plain(found.results.title)}", "", f"Numbers follow {SOURCES[name]}.", ""]
    lines += [
        f"{known} of {len(rows)} items are filled, wholly or in part, from files; the authors check them and write the rest.",
        "",
    ]
    lines += ["| item | what | answer | from |", "|---|---|---|---|"]
    for row in rows:
        words = f"**{OPEN}**" if row.answer == OPEN else _plain(row.answer)
        lines.append(f"| {row.number} | {row.section}: {row.item} | {words} | {', '.join(map(_plain, row.files))} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that no Markdown reader takes for markup."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~" else letter for letter in escaped)


def section(found: Findings, name: str) -> Section:
    """The same as a section of the page."""
    rows = [
        [
            row.number,
            page.join([tag("strong", row.item), " ", tag("small", row.section)]),
            tag("em", OPEN) if row.answer == OPEN else row.answer,
            page.join((tag("code", file, class_="wrap") for file in row.files), ", "),
        ]
        for row in items(found, name)
    ]
    table = page.table(["item", "what", "answer", "from"], rows, caption="Reporting checklist", hidden_caption=True)
    return page.section(
        "checklist", "Reporting checklist", p(f"Numbers follow {SOURCES[name]}."), table, short="Checklist"
    )
