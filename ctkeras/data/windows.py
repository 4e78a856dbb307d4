"""From what a scan holds to grays: Hounsfield units by a window, other deep images by the range of their bits."""

import re
from typing import NamedTuple

import numpy as np

from ctkeras.errors import UserError

# Width and level in HU, as usual in chest reading (radiopaedia.org/articles/windowing-ct).
WINDOWS = {"lung": (1500.0, -600.0), "mediastinal": (350.0, 50.0), "bone": (1800.0, 400.0)}
WORDS = ("auto", *WINDOWS, "three", "percentile")
PERCENTILES = (0.5, 99.5)  # of an image's own values, as nnU-Net clips
_HU_BELOW = -100  # a file that states no unit but has values below this holds HU: no other image has such values
_BITS = (255, 4095, 65535)  # largest values of 8, 12 and 16 bits


class Values(NamedTuple):
    """The values of a slice before a window."""

    array: np.ndarray  # any number type [H, W]
    span: tuple[float, float] | None  # values that become black and white if there are no HU; None: HU
    inverted: bool = False  # low values are white, as MONOCHROME1 of DICOM says


def check(window: str) -> None:
    """Refuses what is neither the name of a window nor WIDTH/LEVEL.

    Raises:
        UserError: the window is unknown.
    """
    if window not in WORDS and _given(window) is None:
        raise UserError(
            f"window must be one of {', '.join(WORDS)} or WIDTH/LEVEL in HU, as in 1500/-600; got {window!r}"
        )


def _given(window: str) -> tuple[float, float] | None:
    """Width and level of WIDTH/LEVEL; None if it is written differently."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(-?\d+(?:\.\d+)?)", window)
    return (float(match[1]), float(match[2])) if match and float(match[1]) > 0 else None


def to_gray(values: Values, window: str = "auto") -> np.ndarray:
    """Maps values to grays: black at level - width / 2, white at level + width / 2, linear between.

    Args:
        values: of one slice.
        window: one of WORDS, or WIDTH/LEVEL. auto is lung for HU and the span otherwise; lung, mediastinal, bone and three
            are for HU, other images keep their span.

    Returns:
        uint8 [H, W]; [H, W, 3] with lung, mediastinal and bone for three.

    Raises:
        UserError: the window is unknown.
    """
    check(window)
    if window == "three":
        return np.stack([to_gray(values, name) for name in WINDOWS], axis=-1)
    array = np.nan_to_num(values.array.astype(np.float32), nan=-1000.0 if values.span is None else 0.0)
    if window == "percentile":
        low, high = (float(value) for value in np.percentile(array, PERCENTILES))
    elif given := _given(window):
        low, high = given[1] - given[0] / 2, given[1] + given[0] / 2
    elif values.span is not None:
        low, high = values.span
    else:
        width, level = WINDOWS["lung" if window == "auto" else window]
        low, high = level - width / 2, level + width / 2
    if high > low:
        grays = np.clip((array - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    else:
        grays = np.where(array > low, 255, 0)  # a window of no width is a threshold
    gray = np.rint(grays).astype(np.uint8)
    return 255 - gray if values.inverted else gray


def of_array(array: np.ndarray) -> Values:
    """The values of an image file of more than 8 bits, which states neither unit nor bits.

    Args:
        array: integers or floats [H, W]. Values below -100 are HU; floats up to 1 are shares of white; any others are held
            against 8 (floats only), 12 or 16 bits, whichever fits, so that nothing is clipped.
    """
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < _HU_BELOW:
        return Values(array, None)
    if array.dtype.kind == "f" and high <= 1:
        return Values(array, (min(low, 0.0), 1.0))
    fitting = [top for top in _BITS[array.dtype.kind != "f" :] if high <= top]
    return Values(array, (min(low, 0.0), float(fitting[0]) if fitting else high))
