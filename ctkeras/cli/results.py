"""The verbs that use a run's files: evaluate, compare, predict, explain."""

import json
from pathlib import Path
from typing import Any

import click

SPLITS = click.Choice(["train", "valid", "test"])
FEW = 10  # images of a class; with fewer, one image moves its recall by more than a tenth
DATA_HELP = "the data set, if it is no longer where the run found it"


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option(
    "--split", type=SPLITS, default="valid", show_default=True, help="the test split is opened once per model"
)
@click.option("--data", "spec", default=None, help=DATA_HELP)
@click.option("--again", is_flag=True, help="open the test split once more; the opening is recorded")
@click.option("--robustness", is_flag=True, help="measure it on changed validation images; write robustness.json")
def evaluate(run_folder: Path, split: str, spec: str | None, again: bool, robustness: bool) -> None:
    """Evaluate a run's exported model on a split; write metrics_SPLIT.json and predictions.csv."""
    if robustness:
        _robustness(run_folder, split, spec)
        return
    from ctkeras.evaluation import summary
    from ctkeras.evaluation.evaluate import evaluate as evaluate_run

    metrics = evaluate_run(run_folder, split, data=spec, again=again)
    for line in summary.lines(metrics):
        click.echo(line)
    click.echo()
    before = {"valid": "not in train", "test": "not in train or valid"}.get(split, "")
    ways = {"": "all images", "clean_": before, "distinct_": "each image once"}
    ways = {prefix: title for prefix, title in ways.items() if f"{prefix}n" in metrics}
    click.echo(" " * 14 + "".join(f"{title:<25}" for title in ways.values()).rstrip())
    for name in ("acc", "balanced_acc", "macro_f1", "auc"):
        cells = [_with_bounds(metrics, f"{prefix}{name}") for prefix in ways]
        click.echo(f"{name:<14}" + "".join(f"{cell:<25}" for cell in cells).rstrip())
    click.echo(f"{'images':<14}" + "".join(f"{metrics[f'{prefix}n']:<25}" for prefix in ways).rstrip())
    for prefix, title in ways.items():
        counts = map(sum, metrics.get(f"{prefix}confusion_matrix", ()))
        few = [f"{name} ({n})" for name, n in zip(metrics.get("class_names", ()), counts, strict=False) if n < FEW]
        if few:
            click.echo(f"{title}: few images of {', '.join(few)}; balanced_acc, macro_f1 and auc depend on them")
    click.echo(
        f"95% intervals of this table: bootstrap over distinct images; all metrics: {run_folder / f'metrics_{split}.json'}"
    )


def _robustness(run_folder: Path, split: str, spec: str | None) -> None:
    """Measures a model on changed validation images and prints one line per change."""
    from ctkeras.errors import UserError
    from ctkeras.evaluation import robustness

    if split != "valid":
        raise UserError(
            f"--robustness is measured on validation images, so that no choice rests on test; got --split {split}"
        )
    found = robustness.robustness(run_folder, data=spec)
    click.echo(
        f"accuracy of {found['n']} validation images unchanged: {_with_bounds(found, 'acc', low='low', high='high')}"
    )
    click.echo(f"Classified by {found['by']}.")
    for change in robustness.CHANGES:
        rows = [row for row in found["rows"] if row["change"] == change.name]
        cells = "  ".join(f"{row['strength']:g}: {row['acc']:.3f}" for row in rows)
        click.echo(f"{change.name:<12} {cells}  ({change.unit})")
    click.echo(found["worst"])
    click.echo(f"intervals: {run_folder / robustness.FILE}")


def _with_bounds(metrics: dict[str, Any], name: str, *, low: str = "", high: str = "") -> str:
    """A number with its interval, as text; its bounds are NAME_low and NAME_high unless they are named."""
    if metrics.get(name) is None:
        return "undefined"
    return f"{metrics[name]:.3f} ({metrics[low or f'{name}_low']:.3f} to {metrics[high or f'{name}_high']:.3f})"


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option(
    "--split", type=SPLITS, default="valid", show_default=True, help="the split whose predictions are compared"
)
@click.option("--data", "spec", default=None, help=DATA_HELP)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def compare(run_a: Path, run_b: Path, split: str, spec: str | None, as_json: bool) -> None:
    """Test whether two runs' accuracies differ by more than noise, from their predictions.csv."""
    from ctkeras.evaluation import comparison

    numbers = comparison.compare(run_a, run_b, split, data=spec)
    if as_json:
        click.echo(json.dumps(numbers))
        return
    click.echo(f"a {run_a}: acc {_with_bounds(numbers, 'acc_a')}")
    click.echo(f"b {run_b}: acc {_with_bounds(numbers, 'acc_b')}")
    click.echo(
        f"of {numbers['n']} {split} images, only a is right on {numbers['only_a']}, only b on {numbers['only_b']}"
    )
    click.echo(numbers["verdict"])
    if "patient_n" in numbers:
        each = (f"{name} {_with_bounds(numbers, f'patient_acc_{name}')}" for name in "ab")
        click.echo(f"per patient ({numbers['patient_n']}), by the mean of the slices: acc {', '.join(each)}")
        click.echo(numbers["patient_verdict"])


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per line")
@click.option("--batch_size", type=click.IntRange(1, 4096), default=32, show_default=True, help="images per batch")
def predict(model: Path, paths: tuple[Path, ...], as_json: bool, batch_size: int) -> int:
    """Classify image files and folders with an exported model. Not for diagnosis."""
    from ctkeras.models.predict import image_files, open_named
    from ctkeras.models.predict import predict as predict_predict

    files = image_files(paths)
    opened, names, preparation = open_named(model)
    failed = 0
    width = max(len(str(file)) for file in files)
    for file, chances, reason in predict_predict(opened, files, preparation=preparation, batch_size=batch_size):
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=None,
    type=click.Path(path_type=Path),
    help="folder for the pictures  [default: heat, in the folder of the model]",
)
@click.option("--class", "wanted", default=None, help="show the evidence for this class  [default: the predicted one]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per line")
@click.option("--batch_size", type=click.IntRange(1, 4096), default=32, show_default=True, help="images per batch")
def explain(
    model: Path, paths: tuple[Path, ...], out: Path | None, wanted: str | None, as_json: bool, batch_size: int
) -> int:
    """Show which parts of an image a model's answer is based on (Grad-CAM). Not for diagnosis."""
    from ctkeras.errors import UserError, did_you_mean
    from ctkeras.evaluation import gradcam
    from ctkeras.models import predict
    from ctkeras.runs import folder

    files = predict.image_files(paths)
    out = out or (model if model.is_dir() else model.parent) / "heat"
    folder.require_folder(out, "--out")
    opened, names, preparation = predict.open_named(model)
    if wanted is not None and wanted not in names:
        raise UserError(
            f"the model has no class {wanted}; its classes are {', '.join(names)}{did_you_mean(wanted, names)}"
        )
    label = None if wanted is None else names.index(wanted)
    failed = 0
    pictures = gradcam.picture_paths(files, out)
    results = gradcam.explain_files(opened, files, preparation=preparation, label=label, batch_size=batch_size)
    for (file, explained, reason), picture in zip(results, pictures, strict=True):
        if explained is None:
            failed += 1
            click.echo(f"Skipped: {reason}", err=True)
            if as_json:
                click.echo(json.dumps({"file": str(file), "error": reason}))
            continue
        gradcam.write_picture(explained, names, picture, name=file.name)
        chances = explained.probabilities
        best, evidence = names[int(chances.argmax())], names[explained.label]
        if as_json:
            by_name = {name: round(float(chance), 6) for name, chance in zip(names, chances, strict=True)}
            row = {"file": str(file), "predicted": best, "probabilities": by_name}
            click.echo(json.dumps({**row, "explained": evidence, "picture": str(picture)}))
        else:
            click.echo(f"{file}  {best} {chances.max():.3f}  evidence for {evidence}: {picture}")
    return 1 if failed else 0
