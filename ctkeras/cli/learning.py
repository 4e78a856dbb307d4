"""The `learning` verb."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--data", "spec", default=None, help="the data set, if it is no longer where the run found it")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def learning(run_folder: Path, spec: str | None, as_json: bool) -> None:
    """Measure how accuracy grows with the number of patients or groups; write learning.json.

    For a run whose head was solved in folds. Heads are solved on 20% to 100% of the groups of the other folds.
    """
    from ctkeras.training.learning import FILE, learning_curve

    curve = learning_curve(run_folder, data=spec)
    if as_json:
        click.echo(json.dumps(curve))
        return
    click.echo("share   groups   images   accuracy in folds")
    for row in curve["rows"]:
        click.echo(
            f"{row['share']:>5.0%} {row['groups']:>8.0f} {row['images']:>8.0f}   "
            f"{row['acc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        )
    click.echo(curve["sentence"])
    click.echo(str(run_folder / FILE))
