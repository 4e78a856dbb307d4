"""The `data` verbs."""

import json
import os
from pathlib import Path

import click

from ctkeras.config import FIELDS

data_option = click.option("--data", "spec", default=None, help=FIELDS["data"].metadata["help"])


@click.group()
def data() -> None:
    """Look after data sets."""


@data.command()
@data_option
def prepare(spec: str | None) -> None:
    """Check a data set and prepare it for tensorflow-datasets; training reads its files by itself."""
    from ctkeras import audit, auditsummary, dataset, sources

    source = sources.open_source(_given(spec))
    builder = dataset.prepare(source)
    for line in auditsummary.lines(auditsummary.summary(audit.load(source))):
        click.echo(line)
    click.echo(f"Prepared in {builder.data_dir}, fingerprint {source.fingerprint[:16]}")


@data.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
@click.option("--html", metavar="FILE", help="where to write the page (default: in the cache folder; its path is told)")
def check(spec: str | None, as_json: bool, html: str | None) -> int:
    """Tell what is wrong with a data set: faulty files, duplicates, leaks, shortcuts. Exits 1 when splits leak."""
    from ctkeras import audit, auditpage, auditsummary, sources

    source = sources.open_source(_given(spec))
    audited = audit.examine(source)
    found = auditsummary.summary(audited)
    path = Path(html) if html else audit.folder(source) / "check.html"
    auditpage.write(source, audited, found, path)
    if not audited.unreadable:
        audit.keep(source, audited)
    if as_json:
        click.echo(json.dumps({**found, "page": str(path)}))
    else:
        for line in auditsummary.lines(found):
            click.echo(line)
        click.echo(f"Pairs side by side: {path}")
    return 1 if found["leaks"] else 0


def _given(spec: str | None) -> str:
    """The data set named by --data, or else by CTKERAS_DATA."""
    return spec or os.environ.get("CTKERAS_DATA", "")
