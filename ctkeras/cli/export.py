"""The verbs that hand a model on: export to other formats, and verify that a file is what its contract says."""

from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice(["onnx", "litert", "savedmodel"]), help="another format than Keras'")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="folder to write to  [default: the model's]")
@click.option("--weights_dir", default="", help="ImageNet weights, if they are no longer where the run found them")
def export(run_folder: Path, kind: str | None, out: Path | None, weights_dir: str) -> None:
    """Write a run's model, or convert it for another runtime, and print its path.

    A search keeps only the trained weights of most trials; this writes the model.keras of one. With --to its answers to ten
    images are compared: onnx writes model.onnx, litert model.tflite, savedmodel the folder saved_model; contract.json is
    beside each.
    """
    from ctkeras.errors import UserError
    from ctkeras.runs import folder

    if out is not None and kind is None:
        raise UserError("--out is for other formats; add --to onnx, litert or savedmodel")
    model = run_folder if run_folder.is_file() else _written(run_folder, weights_dir)
    if kind is None:
        click.echo(str(model))
        return
    from ctkeras.models import convert

    place = out or model.parent
    folder.require_folder(place, "--out")
    path, difference = convert.convert(_model(model), kind, place)
    click.echo(f"probabilities of {convert.IMAGES} images differ by {difference:.1g} at most", err=True)
    click.echo(str(path))


def _written(run_folder: Path, weights_dir: str) -> Path:
    """A run's model.keras, which is written from its trained weights if it is not there yet."""
    from ctkeras.runs.folder import read_config
    from ctkeras.runtime import process

    model = run_folder / "model.keras"
    if model.is_file():
        return model
    read_config(run_folder)  # a folder that is not a run's is refused before Keras is imported
    process.configure()
    from ctkeras.training import kept

    return kept.export(run_folder, weights_dir=weights_dir)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("contract", type=click.Path(path_type=Path))
@click.option(
    "--images", default=None, type=click.Path(path_type=Path), help="image file or folder to compare answers on"
)
def verify(model: Path, contract: Path, images: Path | None) -> int:
    """Check that a model is the one that a contract describes, on this machine's Keras. Exits with 1 if it is not."""
    from ctkeras.models import verify as checks
    from ctkeras.models.predict import image_files
    from ctkeras.runtime import process

    files = image_files([images]) if images else []
    process.configure()
    whole = True
    for holds, text in checks.verify(_model(model), contract, files):
        whole = whole and holds
        click.echo(f"{'ok    ' if holds else 'FAILED'}  {text}")
    click.echo(
        "The model is what the contract describes." if whole else "The model is not what the contract describes."
    )
    return 0 if whole else 1


def _model(path: Path) -> Path:
    """The model.keras of a run folder, or the file itself."""
    from ctkeras.errors import UserError

    model = path / "model.keras" if path.is_dir() else path
    if not model.is_file():
        raise UserError(f"{model} does not exist; name a run folder, or the model.keras that training wrote to one")
    return model
