"""The `data` verbs."""

import os

import click

from ctkeras.config import FIELDS


@click.group()
def data() -> None:
    """Look after data sets."""


@data.command()
@click.option("--data", "spec", default=None, help=FIELDS["data"].metadata["help"])
def prepare(spec: str | None) -> None:
    """Check and prepare a data set; training does it too when it hasn't been done."""
    from ctkeras import dataset, sources

    source = sources.open_source(spec or os.environ.get("CTKERAS_DATA", ""))
    builder = dataset.prepare(source)
    counts = dataset.class_counts(builder)
    width = max(len(name) for name in source.class_names)
    click.echo(f"{'class':<{width}}" + "".join(f"{split:>8}" for split in sources.SPLITS))
    for name in source.class_names:
        click.echo(f"{name:<{width}}" + "".join(f"{counts[split][name]:>8}" for split in sources.SPLITS))
    click.echo(f"{'all':<{width}}" + "".join(f"{sum(counts[split].values()):>8}" for split in sources.SPLITS))
    click.echo(f"Prepared in {builder.data_dir}, fingerprint {source.fingerprint[:16]}")
