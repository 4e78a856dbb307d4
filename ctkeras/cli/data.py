"""The `data` verbs."""

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from ctkeras.config import FIELDS

data_option = click.option("--data", "spec", default=None, help=FIELDS["data"].metadata["help"])
SIZE: Any = FIELDS["image_size"]


@click.group()
def data() -> None:
    """Check and prepare data sets."""


@data.command()
@data_option
@click.option(
    "--image_size",
    "image_sizes",
    type=click.IntRange(SIZE.metadata["low"], SIZE.metadata["high"]),
    multiple=True,
    help=f"image size to train at, in pixels; repeat it for several (default: {SIZE.default})",
)
def prepare(spec: str | None, image_sizes: tuple[int, ...]) -> None:
    """Decode, check and cache a data set.

    Training, evaluation and reports then start without decoding any image.
    """
    from ctkeras.audit import audit, summary
    from ctkeras.data import decoded, layout, sources
    from ctkeras.data.crop import Preparation

    start = time.perf_counter()
    source = sources.open_source(data_set(spec))
    sizes: list[int] = sorted(set(image_sizes)) or [SIZE.default]
    for size in sizes:
        for split in layout.SPLITS:
            decoded.load_split(source, split, size, Preparation())
    audit.load(source)  # refuses an image that cannot be read
    for line in summary.lines(summary.stored(source)[1]):
        click.echo(line)
    click.echo(f"Cached in {time.perf_counter() - start:.1f} s, fingerprint {source.fingerprint[:16]}:")
    for size in sizes:
        _echo_entry(f"{source.images:,} images at {size} px", decoded.split_folder(source, size, Preparation()))
    _echo_entry("thumbnails and pixel hashes", decoded.looks_folder(source))
    _echo_entry("the audit", audit.folder(source))


@data.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@click.option("--html", metavar="FILE", help="where to write the page (default: the cache folder; its path is printed)")
@click.option("--group_pattern", default="", metavar="REGEX", help=FIELDS["group_pattern"].metadata["help"])
def check(spec: str | None, as_json: bool, html: str | None, group_pattern: str) -> int:
    """Find faulty files, duplicates, leaks and splits that share patients.

    Also shows what a lookup of the most similar training slice scores, whether splits were prepared differently, and how
    well the class can be predicted without pixels. Exits with 1 if an image or a patient appears in two splits.
    """
    from ctkeras.audit.summary import lines, place, stored
    from ctkeras.data import sources
    from ctkeras.report import audit_page
    from ctkeras.runtime import stored as stored_files

    source = sources.open_source(data_set(spec))
    audited, summary = stored(source, group_pattern=group_pattern)
    path = Path(html) if html else place(source, f"check-{audit_page.VERSION}.html", group_pattern=group_pattern)
    if html or audited.unreadable:
        audit_page.write(source, audited, summary, path)
    elif not stored_files.is_whole(path):
        audit_page.write(source, audited, summary, path)
        stored_files.vouch(path)
    if as_json:
        click.echo(json.dumps({**summary, "page": str(path)}))
    else:
        for line in lines(summary):
            click.echo(line)
        click.echo(f"Pairs side by side: {path}")
    return 1 if summary["leaks"] or summary["shared_patients"] else 0


def data_set(spec: str | None) -> str:
    """Returns the data set named by --data, else by CTKERAS_DATA."""
    return spec or os.environ.get("CTKERAS_DATA", "")


def _echo_entry(content: str, folder: Path) -> None:
    """Prints one entry of the cache: what it holds, its size and its folder."""
    from ctkeras.runtime import files

    click.echo(f"  {content:<27} {files.folder_bytes(folder) / 1e6:>7,.1f} MB  {folder}")
