"""Images of the data set as a page shows them: beside each, what the model looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.report.findings import Findings
from ctkeras.report.html import page

PICTURE = 224  # px; of an image in the report
QUALITY = 88  # of JPEG; six pairs take a tenth of a megabyte


def with_heat(found: Findings, files: Sequence[str], classes: Sequence[int]) -> tuple[list[tuple[str, str]], str]:
    """Each image without and with the Grad-CAM heat map of a class.

    Args:
        found: what the report is written from.
        files: N files of the data set, of any split.
        classes: N class numbers, whose evidence is shown.

    Returns:
        (N pairs of data URIs, ''), or ([], why they cannot be shown).
    """
    folder = found.chosen.folder
    if found.source is None:
        return [], found.no_data
    if folder is None or not (folder / "model.keras").exists():
        return [], "the run has no model.keras"
    from ctkeras.data import images
    from ctkeras.evaluation import gradcam, heatmap
    from ctkeras.models import predict
    from ctkeras.runtime import process

    try:
        process.configure()
        model, _, preparation = predict.open_model(folder)
        gray = _prepared(found, files, int(model.input.shape[1]), preparation)
        heat = gradcam.heat_maps(model, images.as_rgb(gray), np.asarray(classes))
    except (UserError, ValueError, KeyError) as error:
        return [], f"Grad-CAM failed ({' '.join(str(error).split())[:200]})"
    gray = gray if gray.ndim == 3 else gray[..., 0]  # of three windows, lung
    large = [heatmap.fitted(image, PICTURE) for image in gray]
    return [
        (page.jpeg_uri(image, quality=QUALITY), page.jpeg_uri(heatmap.overlay(image, warm), quality=QUALITY))
        for image, warm in zip(large, heat, strict=True)
    ], ""


def _prepared(found: Findings, files: Sequence[str], size: int, preparation: Any) -> np.ndarray:
    """The images as the model sees them: uint8 [N, size, size].

    Raises:
        KeyError: the data set has no such file.
    """
    from ctkeras.data import decoded

    wanted, shown = set(files), dict[str, np.ndarray]()
    for split in sorted({image.split for image in found.audit.images if image.file in wanted}):
        loaded = decoded.load_split(found.source, split, size, preparation)
        shown |= {file: image for file, image in zip(loaded.files, loaded.images, strict=True) if file in wanted}
    return np.stack([shown[file] for file in files])
