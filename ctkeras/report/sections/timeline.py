"""The report's part on where and when runs trained: a line per node, with crashes, restarts and hours spent."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ctkeras.report.findings import Findings
from ctkeras.report.html import charts, page
from ctkeras.report.html.page import Html, Section, p
from ctkeras.report.html.words import plural
from ctkeras.runs import places
from ctkeras.runs.folder import FINISHED
from ctkeras.runtime.console import seconds_text

BAR, GAP = 14.0, 4.0  # px, of a bar and below it
LOST = "lost"
COLOURS = {"finished": "second", "stopped": "third", LOST: "first"}
MEANINGS = {
    "finished": "finished",
    "stopped": "stopped or failed",
    LOST: "ended without a word: killed or crashed",
}


class Stretch(NamedTuple):
    """A process's work on a run."""

    run: str
    host: str
    begun: float  # seconds since 1970
    seen: float  # the same, when it was last heard of
    kind: str  # finished, stopped or lost
    hours: float  # of its GPUs, or of its CPU cores
    on_gpu: bool
    restarts: int  # how often Slurm had started its task before
    task: str  # Slurm's job and array task, '' elsewhere
    lane: int = 0  # of its host: stretches of one lane do not overlap


def timeline(found: Findings) -> Section | None:
    """A bar per process and run, by node; None where no run of several says where it trained."""
    stretches = _stretches(found)
    if len(found.runs) < 2 or not stretches:
        return None
    drawn = functools.partial(_draw, _in_lanes(stretches))
    return page.section(
        "timeline",
        "Where and when runs trained",
        p(_words(stretches)),
        page.figure(
            drawn,
            "timeline",
            "One bar per run and process, by node. The axis is hours since the first began.",
            _table(stretches),
        ),
        files=[f"{places.FILE} of {plural(len({one.run for one in stretches}), 'run')}"],
        short="Timeline",
    )


def _stretches(found: Findings) -> list[Stretch]:
    """All processes' work on all runs, the earliest first."""
    listed = []
    for run in found.runs:
        for entry in places.read(run.folder) if run.folder is not None else []:
            ended, gpus = str(entry.get("ended") or ""), entry["accelerators"]
            kind = LOST if not ended else "finished" if ended in FINISHED else "stopped"
            hours = (entry["seen"] - entry["begun"]) / 3600 * (gpus or entry["processors"])
            task = "_".join(str(entry[name]) for name in ("slurm_job", "slurm_task") if entry.get(name))
            count = str(entry.get("slurm_restarts") or "0")
            restarts = int(count) if count.isdecimal() else 0
            listed.append(
                Stretch(run.name, entry["host"], entry["begun"], entry["seen"], kind, hours, bool(gpus), restarts, task)
            )
    return sorted(listed, key=lambda one: one.begun)


def _in_lanes(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Stretches with the first lane of their host that is free when they begin."""
    free: dict[str, list[float]] = {}
    placed = []
    for one in stretches:
        ends = free.setdefault(one.host, [])
        lane = next((number for number, end in enumerate(ends) if end <= one.begun), len(ends))
        ends[lane : lane + 1] = [max(one.seen, one.begun)]
        placed.append(one._replace(lane=lane))
    return placed


def _words(stretches: Sequence[Stretch]) -> str:
    """What the chart shows, in sentences."""
    hosts = sorted({one.host for one in stretches})
    runs = len({one.run for one in stretches})
    span = max(one.seen for one in stretches) - stretches[0].begun
    text = f"{plural(runs, 'run')} on {plural(len(hosts), 'node')} ({', '.join(hosts[:4])}{', …' if len(hosts) > 4 else ''}) "
    text += f"within {seconds_text(span)}. Spent: {_hours(stretches)}. "
    lost = sum(one.kind == LOST for one in stretches)
    requeued = len(
        {(one.task, one.restarts) for one in stretches if one.restarts}
    )  # each may have trained several runs
    again = len(stretches) - runs
    text += (
        f"{plural(again, 'run')} continued by another process" if again else "No run was continued by another process"
    )
    text += f"; {plural(lost, 'process', 'processes')} ended without a word" if lost else "; no process was lost"
    return text + (f"; {plural(requeued, 'start')} after a requeue by Slurm." if requeued else ".")


def _hours(stretches: Sequence[Stretch]) -> str:
    """The hours spent, of GPUs and of CPU cores."""
    parts = []
    for on_gpu, words in ((True, "GPU hours"), (False, "CPU core hours")):
        own = [one.hours for one in stretches if one.on_gpu == on_gpu]
        parts += [f"{sum(own):.2g} {words}"] if own else []
    return " and ".join(parts)


def _draw(stretches: Sequence[Stretch], *, width: float, ident: str) -> str:
    """The chart: hosts from top to bottom, each with as many lanes as processes worked there at once."""
    begun, end = stretches[0].begun, max(one.seen for one in stretches)
    hours = max((end - begun) / 3600, 1e-3)
    x = charts.scale(0, hours, 4, width - 8)
    body, y = _legend({one.kind for one in stretches}, width)
    for host in dict.fromkeys(one.host for one in stretches):
        own = [one for one in stretches if one.host == host]
        body.append(charts.label(2, y + 12, host, class_="axis", room=width - 4))
        y += 18
        body += [_bar(one, x, y, begun) for one in own]
        y += (1 + max(one.lane for one in own)) * (BAR + GAP) + 6
    for tick in charts.ticks(0, hours, 5 if width > 500 else 3):
        body += [
            charts.line(x(tick), y, x(tick), y + 4, "grid"),
            charts.label(x(tick), y + 18, f"{tick:g} h", class_="axis"),
        ]
    return charts.picture(
        body,
        width=width,
        height=y + 26,
        ident=ident,
        title="Runs by node and time",
        description=_words(stretches),
    )


def _bar(one: Stretch, x: Any, y: float, begun: float) -> str:
    """One process's work on one run, with its details as a tooltip."""
    left, right = (x((at - begun) / 3600) for at in (one.begun, one.seen))
    said = f"{one.run}: {seconds_text(one.seen - one.begun)}, {MEANINGS[one.kind]}"
    said += f", Slurm {one.task}" if one.task else ""
    return charts.element(
        "rect",
        charts.element("title", str(page.safe(said))),
        x=float(left),
        y=float(y + one.lane * (BAR + GAP)),
        width=float(max(2.0, right - left)),
        height=BAR,
        class_=f"point {COLOURS[one.kind]}",
    )


def _legend(kinds: set[str], width: float) -> tuple[list[str], float]:
    """The meanings of the colours that occur, one per line, and the height used, px."""
    body, y = [], 14.0
    for kind in (kind for kind in COLOURS if kind in kinds):
        body.append(charts.dot(8, y - 4, 5, f"point {COLOURS[kind]}"))
        body.append(charts.label(20, y, MEANINGS[kind], class_="axis", room=width - 24))
        y += 19
    return body, y


def _table(stretches: Sequence[Stretch]) -> Html:
    """The same as a table."""
    begun = stretches[0].begun
    rows = [
        [
            one.run,
            one.host,
            one.task or "–",
            seconds_text(one.begun - begun),
            seconds_text(one.seen - one.begun),
            MEANINGS[one.kind],
        ]
        for one in stretches
    ]
    columns = ["run", "node", "Slurm job and task", "began after", "worked for", "end"]
    return page.table(columns, rows, caption="Runs by node and time", numbers=(3, 4))
