"""The `data` verbs."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ctkeras.config import FIELDS, with_columns

pattern_option = click.option(
    "--group_pattern", default="", metavar="REGEX", help=FIELDS["group_pattern"].metadata["help"]
)


def data_option(command: Callable) -> Callable:
    """Adds --data and --columns to a command."""
    columns = click.option("--columns", default="", metavar="NAMES", help=FIELDS["columns"].metadata["help"])
    return click.option("--data", "spec", default=None, help=FIELDS["data"].metadata["help"])(columns(command))


slices_option = click.option("--slices", default="all", show_default=True, help=FIELDS["slices"].metadata["help"])
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
@pattern_option
@slices_option
def prepare(spec: str | None, columns: str, image_sizes: tuple[int, ...], group_pattern: str, slices: str) -> None:
    """Decode, check and cache a data set.

    Training, evaluation and reports then start without decoding any image.
    """
    from ctkeras.audit import audit, summary
    from ctkeras.data import decoded, layout, sources
    from ctkeras.data.crop import Preparation

    start = time.perf_counter()
    source = sources.open_source(data_set(spec, columns), slices=slices)
    sources.announce(source)
    sizes: list[int] = sorted(set(image_sizes)) or [SIZE.default]
    for size in sizes:
        for split in layout.SPLITS:
            decoded.load_split(source, split, size, Preparation())
    audited = audit.load(source, group_pattern=group_pattern)  # refuses an image that cannot be read
    for line in summary.lines(summary.of(source, audited, group_pattern=group_pattern)):
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
@click.option("--paths", is_flag=True, help="also print where unreadable images are; paths of scans may name patients")
@pattern_option
@slices_option
def check(
    spec: str | None, columns: str, as_json: bool, html: str | None, paths: bool, group_pattern: str, slices: str
) -> int:
    """Find faulty files, duplicates, leaks and splits that share patients.

    Also shows what a lookup of the most similar training slice scores, whether splits were prepared differently, and how
    well the class can be predicted without pixels. Exits with 1 if an image or a patient appears in two splits.
    """
    from ctkeras.audit.summary import lines, place, stored
    from ctkeras.data import accounts, sources
    from ctkeras.report import audit_page
    from ctkeras.runtime import stored as stored_files

    source = sources.open_source(data_set(spec, columns), slices=slices)
    audited, summary = stored(source, group_pattern=group_pattern)
    path = Path(html) if html else place(source, f"check-{audit_page.VERSION}.html", group_pattern=group_pattern)
    if html or audited.unreadable:
        audit_page.write(source, audited, summary, path)
    elif not stored_files.is_whole(path):
        audit_page.write(source, audited, summary, path)
        stored_files.vouch(path)
    left_out = [*source.left_out, *accounts.unreadable(audited.unreadable)]
    if as_json:
        account = accounts.as_json(len(audited.images), tuple(left_out))
        click.echo(json.dumps({**summary, **account, "notes": list(source.notes), "page": str(path)}))
    else:
        if source.entries:
            for line in [accounts.sentence(len(audited.images), tuple(left_out)), *source.notes]:
                click.echo(line)
            click.echo("")
        for line in lines(summary):
            click.echo(line)
        for entry in source.entries if paths else ():
            if entry.file in audited.unreadable:
                click.echo(f"{entry.file} is {sources.location(Path(source.root), entry)}")
        click.echo(f"Pairs side by side: {path}")
    return 1 if summary["leaks"] or summary["shared_patients"] else 0


def data_set(spec: str | None, columns: str = "") -> str:
    """Returns the data set named by --data, else by CTKERAS_DATA, with the names of its columns."""
    return with_columns(spec or os.environ.get("CTKERAS_DATA", ""), columns)


def _echo_entry(content: str, folder: Path) -> None:
    """Prints one entry of the cache: what it holds, its size and its folder."""
    from ctkeras.runtime import files

    click.echo(f"  {content:<27} {files.folder_bytes(folder) / 1e6:>7,.1f} MB  {folder}")
