"""contract.json: what an exported model takes and returns, how its images are prepared, and what it is not for."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctkeras.data import crop, windows
from ctkeras.data.crop import Preparation
from ctkeras.errors import UserError
from ctkeras.models import older
from ctkeras.runtime import files
from ctkeras.runtime.versions import version

INTENDED_USE = (
    "Research on the classification of chest-CT slices. Not a medical device; not for diagnosis, triage or treatment."
)


def write(folder: Path, *, model_name: str, size: int, class_names: Sequence[str], preparation: Preparation) -> None:
    """Writes the contract beside an exported model.

    Args:
        folder: the run folder.
        model_name: name of the backbone.
        size: pixels of a side of the model's input.
        class_names: C names in label order.
        preparation: of the images that the model was trained on.
    """
    contract = {
        "model_name": model_name,
        "input_shape": [size, size, 3],
        "input_dtype": "float32",
        "input_range": [0, 255],
        "input_colour": "gray repeated over RGB; the model normalises it",
        "preparation": {**preparation._asdict(), "resize": "antialiased bilinear", "version": crop.VERSION},
        "output": "one probability per class, in the order of class_names",
        "class_names": list(class_names),
        "model_sha256": digest(folder / "model.keras"),
        "keras": {"written_by": version("keras"), "oldest_opened": older.OLDEST},
        "intended_use": INTENDED_USE,
    }
    with files.atomic(folder / "contract.json") as partial:
        partial.write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """A file's SHA-256 in hexadecimal; '' if it is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def class_names(path: Path, classes: int) -> list[str]:
    """The class names of a contract, or class_0, class_1, … if it is missing or does not fit the model.

    Args:
        path: contract.json.
        classes: number of classes of the model.
    """
    try:
        names = [str(name) for name in _read(path)["class_names"]]
    except (KeyError, TypeError):
        names = []
    return names if len(names) == classes else [f"class_{i}" for i in range(classes)]


def preparation(path: Path) -> Preparation:
    """The preparation that a contract states; if it states none, that of models from before there was a choice.

    Args:
        path: contract.json.

    Raises:
        UserError: this version does not know the preparation.
    """
    stated = _read(path).get("preparation")
    if stated is None:
        return crop.WHOLE
    choices = {"crop": crop.CROPS, "fit": crop.FITS, "gray": crop.GRAYS, "version": (crop.VERSION,)}
    for key, known in choices.items():
        got = stated.get(key) if isinstance(stated, dict) else stated
        if not isinstance(got, str) or got not in known:
            raise UserError(
                f"{path} states a preparation of images that this version of ctkeras does not know: {key} {got!r} "
                f"(known: {', '.join(known)}); use the version of ctkeras that exported the model"
            )
    window = str(stated.get("window", "auto"))
    windows.check(window)
    return Preparation(stated["crop"], stated["fit"], stated["gray"], window)


def _read(path: Path) -> dict[str, Any]:
    """The content of a contract; {} if it is missing or damaged, which those who need it check."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
