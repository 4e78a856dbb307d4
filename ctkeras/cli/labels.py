"""The verb `labels`."""

from pathlib import Path

import click

from ctkeras.cli.results import DATA_HELP

SHOWN = 20  # lines


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--data", "spec", default=None, help=DATA_HELP)
@click.option("--pictures", is_flag=True, help="write the first images with Grad-CAM to RUN_FOLDER/labels")
def labels(run_folder: Path, spec: str | None, pictures: bool) -> None:
    """List the images whose label looks wrong, by models that were not trained on them; write labels.json.

    Images under two labels come first. A person who can read the images decides; nothing is changed.
    """
    from ctkeras.evaluation import labels as labels_labels

    found = labels_labels.check(run_folder, data=spec)
    rows = found["rows"]
    click.echo(
        f"{len(rows)} labels look wrong of {found['n']} images" + (", the most doubtful first:" if rows else ".")
    )
    for row in rows[:SHOWN]:
        if row["reason"] == labels_labels.CONFLICT:
            click.echo(f"  {row['file']}: the same image is also labelled {row['suggested']}")
        else:
            chances = f"{row['p_suggested']:.2f} against {row['p_label']:.2f}"
            click.echo(f"  {row['file']}: labelled {row['label']}, suggested {row['suggested']} ({chances})")
    if len(rows) > SHOWN:
        click.echo(f"  and {len(rows) - SHOWN} more")
    click.echo(f"All of them: {run_folder / labels_labels.FILE}")
    if pictures and rows:
        written = labels_labels.write_pictures(run_folder, rows, data=spec)
        click.echo(f"{len(written)} pictures: {run_folder / 'labels'}")
