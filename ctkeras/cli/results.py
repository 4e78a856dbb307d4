"""The verbs that read what a run has left: evaluate, predict."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--data", "spec", default=None, help="the data set, if it is no longer where the run found it")
def evaluate(run_folder: Path, split: str, spec: str | None) -> None:
    """Evaluate a run's exported model on a split; writes metrics_SPLIT.json and predictions.csv."""
    from ctkeras import scoring

    metrics = scoring.evaluate_run(run_folder, split, data=spec)
    for name in ("acc", "balanced_acc", "macro_f1"):
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        click.echo(f"{name:<13} {metrics[name]:.4f}  (95% interval {low:.4f} to {high:.4f})")
    click.echo(f"{'loss':<13} {metrics['loss']:.4f}")
    click.echo(f"{metrics['n']} {split} images; {run_folder / f'metrics_{split}.json'}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@click.option("--batch_size", type=click.IntRange(1, 4096), default=32, show_default=True)
def predict(model: Path, paths: tuple[Path, ...], as_json: bool, batch_size: int) -> int:
    """Classify image files and folders with an exported model. Not for diagnosis."""
    from ctkeras import export, runtime

    files = export.image_files(paths)
    runtime.configure()
    opened, names = export.open_model(model)
    failed = 0
    width = max(len(str(file)) for file in files)
    for file, chances, reason in export.predict(opened, files, batch_size=batch_size):
        if chances is None:
            failed += 1
            click.echo(f"Skipped: {reason}", err=True)
            if as_json:
                click.echo(json.dumps({"file": str(file), "error": reason}))
            continue
        by_name = {name: round(float(chance), 6) for name, chance in zip(names, chances, strict=True)}
        best = names[int(chances.argmax())]
        if as_json:
            click.echo(json.dumps({"file": str(file), "predicted": best, "probabilities": by_name}))
        else:
            shown = "  ".join(f"{name} {chance:.3f}" for name, chance in by_name.items())
            click.echo(f"{file!s:<{width}}  {best}  ({shown})")
    return 1 if failed else 0
