"""Whether a file is the model that its contract describes, and answers properly on this machine's Keras."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.models import contract, convert, older, predict
from ctkeras.runtime.versions import version

TOLERANCE = 1e-4  # in probability


def verify(model: Path, stated: Path, images: Sequence[Path] = ()) -> Iterator[tuple[bool, str]]:
    """Compares a model with a contract; yields for each check whether it holds, and one line.

    Args:
        model: a model.keras, or a run folder that holds one.
        stated: a contract.json, or a folder that holds one.
        images: files on which Keras' own answers are compared with those of ctkeras; () for ten generated images.

    Raises:
        UserError: one of the two files cannot be read, or is not a model or a contract.
    """
    path = model / "model.keras" if model.is_dir() else model
    place = stated / "contract.json" if stated.is_dir() else stated
    values = _read(place)
    opened = predict.open_model(path).model
    here = version("keras")
    yield True, f"opens in Keras {here} in safe mode"
    written = values.get("keras") or {}
    if written.get("written_by"):
        yield True, f"was written by Keras {written['written_by']}; files open from Keras {older.OLDEST} on"
    if recorded := values.get("model_sha256"):
        same = contract.digest(path) == recorded
        yield same, "is the file that the contract was written for" if same else "is another file (SHA-256 differs)"
    shape, names = values["input_shape"], values["class_names"]
    got = list(opened.input.shape[1:])
    yield got == shape, f"has inputs of shape {got}; the contract states {shape}"
    yield (
        opened.output.shape[-1] == len(names),
        f"has {opened.output.shape[-1]} outputs; the contract names {len(names)} classes",
    )
    modules = {type(layer).__module__ for layer in opened.layers}
    foreign = sorted(name for name in modules if name.partition(".")[0] != "keras")
    yield not foreign, f"has layers of {', '.join(foreign)}" if foreign else "has core Keras layers only"
    preparation = contract.preparation(place)  # refuses one that is not known
    yield True, f"images are prepared as {', '.join(preparation)}"
    if got == shape:
        yield from _answers(opened, images, preparation)


def _answers(model: Any, images: Sequence[Path], preparation: Any) -> Iterator[tuple[bool, str]]:
    """Checks that answers are probabilities, and that Keras' own are those of ctkeras."""
    from ctkeras.models import fast

    if images:
        rows = list(predict.predict(model, images, preparation=preparation, batch_size=1))
        for _, _, reason in (row for row in rows if row[1] is None):
            yield False, reason
        good = [(file, row) for file, row, _ in rows if row is not None]
        ours = np.array([row for _, row in good])
        pixels = [predict.read_rgb(file, int(model.input.shape[1]), preparation)[None] for file, _ in good]
        what = f"{len(good)} images"
    else:
        pixels = list(convert.probe(int(model.input.shape[1]))[:, None])
        answer: Callable[[np.ndarray], np.ndarray] = fast.program(model)
        ours = np.concatenate([answer(one) for one in pixels])
        what = f"{len(pixels)} generated images"
    if not pixels:
        return
    theirs = np.concatenate([np.asarray(model.predict_on_batch(one.astype(np.float32))) for one in pixels])
    total = float(np.abs(theirs.sum(-1) - 1).max())
    proper = bool(np.isfinite(theirs).all() and theirs.min() >= 0 and total <= TOLERANCE)
    yield proper, f"answers to {what} are {'probabilities' if proper else 'not probabilities'}"
    difference = float(np.abs(theirs - ours).max())
    yield difference <= TOLERANCE, f"Keras' answers differ from those of ctkeras by {difference:.1g} at most"


def _read(path: Path) -> dict[str, Any]:
    """A contract, with the keys that every version of it has."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(values.get(k), list) for k in ("input_shape", "class_names")):
        raise UserError(f"{path} is not a contract: it has no lists input_shape and class_names")
    return values
