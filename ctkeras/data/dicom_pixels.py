"""The values of a DICOM slice: Hounsfield units of CT, and of any other image what its own window makes gray."""

from typing import Any

import numpy as np

from ctkeras.data import dicom
from ctkeras.data.windows import Values
from ctkeras.errors import UserError


def values(content: bytes, *, name: str, frame: int = 0) -> Values:
    """Decodes one frame: HU for CT, by its rescale slope and intercept; colour becomes gray.

    Other modalities have the span of their file's window, or else of their bits (PS3.3, C.11.2). A CT file that states
    neither a rescale nor negative values has no HU and is treated as one of these.

    Args:
        content: the file.
        name: what an error calls it.
        frame: from 0.

    Raises:
        UserError: it is damaged, or its compression needs a package that is not installed.
    """
    dataset = dicom.read(content, name=name)
    stored = _stored(dataset, name, frame)
    try:
        if stored.ndim == 3:
            return Values(_gray(stored), (0.0, 255.0))
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        rescaled, low, high, known = _rescaled(dataset, stored, frame)
        if dataset.get("Modality") == "CT" and (known or float(rescaled.min(initial=0)) < 0):
            return Values(rescaled, None, inverted)
        return _shown(dataset, rescaled, (low, high), frame)._replace(inverted=inverted)
    except UserError:
        raise
    except Exception as error:  # values that are not what their tags require raise many types, on access
        raise dicom.damaged(name, error) from error


def _stored(dataset: Any, name: str, frame: int) -> np.ndarray:
    """One frame as stored, [H, W] or RGB [H, W, 3]."""
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        array = pixel_array(dataset, index=frame)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            return apply_color_lut(array, dataset)
        return array
    except Exception as error:  # pydicom and its decoders raise many types
        if reason := _no_decoder(dataset):
            raise UserError(f"{name} is {reason}") from error
        raise dicom.damaged(name, error) from error


def _no_decoder(dataset: Any) -> str:
    """Says which extra a file's compression needs; '' if a decoder is there."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        missing = syntax is not None and syntax.is_compressed and not get_decoder(syntax).is_available
    except NotImplementedError:
        return f"compressed in a way that no decoder reads ({syntax.name})"
    return f'compressed ({syntax.name}), which needs a decoder: pip install "ctkeras[dicom]"' if missing else ""


def _gray(colours: np.ndarray) -> np.ndarray:
    """Luminance by ITU-R 601: any unsigned type [H, W, 3] to float32 [H, W] in 0 to 255."""
    scaled = colours.astype(np.float32) * np.float32(255 / np.iinfo(colours.dtype).max)
    return scaled @ np.array([0.299, 0.587, 0.114], np.float32)


def _rescaled(dataset: Any, stored: np.ndarray, frame: int) -> tuple[np.ndarray, float, float, bool]:
    """Values after the modality's transform, the least and largest that they can have, and whether the file states one.

    The transform is a table, or a slope and an intercept, which enhanced files state per frame (PS3.3, C.11.1).
    """
    from pydicom.pixels import apply_modality_lut

    if table := dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset).astype(np.float32), 0.0, _top(table[0]), True
    slope, intercept = (
        dicom.stated(dataset, frame, key, "PixelValueTransformationSequence")
        for key in ("RescaleSlope", "RescaleIntercept")
    )
    known = slope is not None or intercept is not None
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if stored.dtype.kind == "f":
        low, high = (float(np.nanmin(stored)), float(np.nanmax(stored))) if stored.size else (0.0, 0.0)
    else:
        bits = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
        signed = bool(dataset.get("PixelRepresentation"))
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept), ends[0], ends[1], known


def _shown(dataset: Any, rescaled: np.ndarray, span: tuple[float, float], frame: int) -> Values:
    """The file's own presentation: its table, its first window, or else the span of its bits (PS3.3, C.11.2.1)."""
    from pydicom.pixels import apply_voi

    if table := dataset.get("VOILUTSequence"):
        return Values(apply_voi(rescaled.astype(np.int64), dataset).astype(np.float32), (0.0, _top(table[0])))
    width, level, function = (
        dicom.stated(dataset, frame, key, "FrameVOILUTSequence")
        for key in ("WindowWidth", "WindowCenter", "VOILUTFunction")
    )
    width, level = _first(width), _first(level)
    if not width or level is None:
        return Values(rescaled, span)
    if function == "SIGMOID":
        return Values(1 / (1 + np.exp(-4 * (rescaled - level) / width)), (0.0, 1.0))
    if function == "LINEAR_EXACT":
        return Values(rescaled, (level - width / 2, level + width / 2))
    half = max(width - 1, 0) / 2  # a width of 1 is a threshold
    return Values(rescaled, (level - 0.5 - half, level - 0.5 + half))


def _top(table: Any) -> float:
    """The largest output of a lookup table, by the bits in its descriptor."""
    return 2.0 ** int(table.LUTDescriptor[2]) - 1


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is None or value == "":
        return None
    return float(value[0]) if hasattr(value, "__len__") and not isinstance(value, str) else float(value)
