"""The verbs that hand a model on: export to other formats, and verify that a file is what its contract says."""

from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(["onnx", "litert", "savedmodel"]), help="the format")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="folder to write to  [default: the model's]")
def export(run_folder: Path, kind: str, out: Path | None) -> None:
    """Convert a run's model for another runtime, and compare its answers with the model's on ten images.

    onnx writes model.onnx, litert model.tflite, savedmodel the folder saved_model; contract.json is beside each.
    """
    from ctkeras.models import convert
    from ctkeras.runs import folder

    model = _model(run_folder)
    place = out or model.parent
    folder.require_folder(place, "--out")
    path, difference = convert.convert(model, kind, place)
    click.echo(f"probabilities of {convert.IMAGES} images differ by {difference:.1g} at most", err=True)
    click.echo(str(path))


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
