"""The verbs that open or write a page: report, app."""

import re
from pathlib import Path

import click

SWEEP = re.compile(r"[^/\\.~][^/\\]*/[^/\\]+/[^/\\]+")  # ENTITY/PROJECT/SWEEP_ID


@click.command()
@click.argument("place", metavar="DIR|ENTITY/PROJECT/SWEEP")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="file to write (default: DIR/report.html)")
@click.option("--data", default="", help="the data set, if it is no longer where the runs found it")
@click.option(
    "--checklist",
    type=click.Choice(["claim", "tripod-ai", "metrics"]),
    default=None,
    help="also fill a reporting checklist, in the page and as checklist-NAME.md beside it",
)
def report(place: str, out: Path | None, data: str, checklist: str | None) -> None:
    """Write one HTML page about a run, a folder of runs, a study or a W&B sweep; the last line printed is its path."""
    from ctkeras.errors import UserError
    from ctkeras.report.report import write_report, write_sweep_report
    from ctkeras.tracking import run

    if Path(place).exists() or not SWEEP.fullmatch(place):
        click.echo(str(write_report(Path(place), out, data=data, checklist=checklist or "")))
        return
    if lacking := run.lacking():
        raise UserError(f"{place} is not a folder, and to read it as a W&B sweep, ctkeras needs {lacking}")
    click.echo(str(write_sweep_report(place, out, data=data, checklist=checklist or "")))


@click.command()
@click.argument("model", metavar="RUN_OR_MODEL", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 picks a free port")
def app(model: Path, port: int) -> None:
    """Open a page on this machine to try a model on your images. Not for diagnosis."""
    from ctkeras.app import serve

    serve(model, port=port)
