"""Cheap facts of a slice by which a linear model may tell one split from another: black margins, grays, sharpness, size."""

import numpy as np

from ctkeras.data import crop, images

SIDES = ("margin_top", "margin_left", "margin_bottom", "margin_right")  # shares of a side outside the body
GRAYS = ("gray_1", "gray_25", "gray_50", "gray_75", "gray_99")  # percentiles, 0 to 255
SHAPE = ("width", "height", "aspect")  # pixels, pixels, width / height
NAMES = (*SIDES, *GRAYS, "black", "sharpness", *SHAPE)
# Of a prepared picture: its size is everyone's, so only what the picture shows is left.
PREPARED = tuple(name for name in NAMES if name not in SHAPE)
SMALL = 32  # pixels of a side of the thumbnails by which slices are grouped
BLACK = 16  # gray levels; below it is air
_EDGE = 1e-3  # squared gray levels, far below noise: a flat picture has sharpness 0


def original(gray: np.ndarray, thumbnail: np.ndarray) -> np.ndarray:
    """Facts of a slice as its file holds it.

    Args:
        gray: uint8 [H, W].
        thumbnail: uint8 [128, 128], the slice from images.thumbnail.

    Returns:
        float32 [len(NAMES)], in the order of NAMES.
    """
    height, width = gray.shape
    return np.array([*_seen(gray, thumbnail), width, height, width / height], np.float32)


def prepared(cropped: np.ndarray) -> np.ndarray:
    """Facts of a slice as the model sees it: cropped to the body and resized to a square.

    Args:
        cropped: uint8 [h, w], after the crop.

    Returns:
        float32 [len(PREPARED)], in the order of PREPARED.
    """
    square = images.thumbnail(cropped)
    return np.array(_seen(square, square), np.float32)


def _seen(gray: np.ndarray, small: np.ndarray) -> tuple[float, ...]:
    """What a picture shows: SIDES, GRAYS, the share of black and the sharpness."""
    height, width = small.shape
    top, left, bottom, right = crop.body_box(small)
    margins = top / height, left / width, 1 - bottom / height, 1 - right / width
    return *margins, *_percentiles(small), float((small < BLACK).mean()), _sharpness(gray)


def _percentiles(gray: np.ndarray) -> np.ndarray:
    """The percentiles of GRAYS, as np.percentile's but by counting, in a third of its time."""
    up_to = np.cumsum(np.bincount(gray.ravel(), minlength=256))
    at = np.array([1, 25, 50, 75, 99]) / 100 * (gray.size - 1)
    below = at.astype(int)
    low, high = (np.searchsorted(up_to, rank, side="right") for rank in (below, np.minimum(below + 1, gray.size - 1)))
    return np.asarray(low + (high - low) * (at - below))


def _sharpness(gray: np.ndarray) -> float:
    """Contrast between neighbouring pixels as a share of all contrast: low for a slice that was enlarged or smoothed."""
    pixels = gray.astype(np.float32)
    steps = np.mean(np.diff(pixels, axis=0) ** 2) + np.mean(np.diff(pixels, axis=1) ** 2) if min(gray.shape) > 1 else 0
    return float(np.sqrt(steps / (2 * pixels.var() + _EDGE)))


def describe(gray: np.ndarray, thumbnail: np.ndarray, body: np.ndarray) -> np.ndarray:
    """The facts of a slice before and after the crop, whatever a run's own preparation is.

    Args:
        gray: uint8 [H, W], as decoded.
        thumbnail: uint8 [128, 128], of all of it.
        body: uint8 [h, w], cropped to the body.

    Returns:
        float32 [len(NAMES) + len(PREPARED)].
    """
    return np.concatenate([original(gray, thumbnail), prepared(body)])
