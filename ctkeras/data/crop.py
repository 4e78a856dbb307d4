"""From a decoded slice to the square the model sees: crop to the body, stretch grays, fit. Done before the resize.

In the public set the training slices are cut close to the body, and the test slices show air and the table. A model that
is fitted on the one and asked about the other must see both in the same frame.
"""

from typing import NamedTuple

import numpy as np

CROPS, FITS, GRAYS = ("body", "none"), ("stretch", "pad"), ("as_is", "stretch")
VERSION = "1"  # a new one for any change in what comes out; keys the cache and stands in contract.json
CELLS = 128  # the body is looked for on a grid of this many cells per side, each the mean of its pixels
OPENING = 5  # cells; thinner regions are removed: table, wires, annotations
LEAST_SHARE = 0.15  # of the image; a smaller body is a mistake, and the whole image is taken
# Between the mean of the dark class and Otsu's threshold. Otsu's own, and half of it, lose fat and the chest wall where
# the window is narrow: there the largest region is the heart.
BETWEEN = 0.25
PERCENTILES = (1, 99)  # of the fitted pixels, which a stretch of grays brings to 0 and 255


class Preparation(NamedTuple):
    """How an image is brought to the model's form, as contract.json states it."""

    crop: str = "body"  # one of CROPS
    fit: str = "stretch"  # one of FITS
    gray: str = "as_is"  # one of GRAYS
    window: str = "auto"  # see windows.to_gray
    span: str = ""  # of images of more than 8 bits, see deep.span_of; '': that of the data set


WHOLE = Preparation(crop="none")  # of models that were exported before there was a choice


def body_box(gray: np.ndarray) -> tuple[int, int, int, int]:
    """Finds the body: the bounding box of the largest connected bright region.

    The image is averaged to 128 x 128 cells, cut at a threshold near its dark class (see BETWEEN), and opened with a
    square of 5 cells. Cells that touch at a side or a corner are connected; of two regions of one size the upper counts.

    Args:
        gray: uint8 [H, W], of any size.

    Returns:
        (top, left, bottom, right) in pixels, the last two exclusive; the whole image where the box is under 15% of it.
    """
    from PIL import Image
    from scipy import ndimage

    height, width = gray.shape
    cells = np.asarray(Image.fromarray(gray).resize((CELLS, CELLS), Image.Resampling.BOX))
    bright = (cells > threshold(cells)).astype(np.uint8)
    regions, count = ndimage.label(_opened(bright), np.ones((3, 3)))
    if not count:
        return 0, 0, height, width
    largest = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    rows, columns = (np.flatnonzero(largest.any(axis)) for axis in (1, 0))
    top, bottom = int(rows[0]) * height // CELLS, -(-int(rows[-1] + 1) * height // CELLS)
    left, right = int(columns[0]) * width // CELLS, -(-int(columns[-1] + 1) * width // CELLS)
    if (bottom - top) * (right - left) < LEAST_SHARE * height * width:
        return 0, 0, height, width
    return top, left, bottom, right


def _opened(bright: np.ndarray) -> np.ndarray:
    """Removes what is thinner than OPENING: the least of each square of cells, and then the most: uint8 [H, W] of 0 and 1.

    Cells at the border are repeated beyond it. As scipy's filters, in a fifth of their time.
    """
    for extreme in (np.minimum, np.maximum):
        for _ in range(2):  # along each axis
            bright = np.concatenate([bright[:1], bright[:1], bright, bright[-1:], bright[-1:]])
            two = extreme(bright[:-1], bright[1:])
            four = extreme(two[:-2], two[2:])
            bright = extreme(four[:-1], bright[4:]).T
    return bright


def threshold(cells: np.ndarray) -> float:
    """Returns a gray between the mean of the dark class and Otsu's threshold; cells above it are bright.

    Otsu 1979: the threshold at which the variance between the two classes is largest.

    Args:
        cells: uint8 [H, W].
    """
    counts = np.bincount(cells.ravel(), minlength=256)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))  # of all cells up to each gray
    above = np.maximum(cells.size - below, 1)  # at 255 no cell is above; the numerator is 0 there
    between = (sums[-1] * below - sums * cells.size) ** 2.0 / (np.maximum(below, 1) * above)
    otsu = int(np.argmax(between))
    dark = sums[otsu] / max(below[otsu], 1)
    return dark + BETWEEN * (otsu - dark)


def prepare(gray: np.ndarray, size: int, preparation: Preparation) -> np.ndarray:
    """Brings a decoded slice to the square that the model sees: crop, resize, stretch of grays, padding.

    Args:
        gray: uint8 [H, W], as decoded, at its own size; or [H, W, 3], three windows, of which the first shows the body.
        size: pixels of a side of the result.
        preparation: body or none, stretch or pad, as_is or stretch.

    Returns:
        uint8 [size, size], or [size, size, 3].
    """
    gray = cropped(gray, preparation)
    height, width = fitted(gray.shape, size) if preparation.fit == "pad" else (size, size)
    pixels = _resized(gray, height, width)
    if preparation.gray == "stretch":
        pixels = stretched(pixels)
    return _padded(pixels, size) if (height, width) != (size, size) else pixels


def cropped(gray: np.ndarray, preparation: Preparation) -> np.ndarray:
    """The part of an image that the model sees, at its own size: uint8 [H, W] to uint8 [h, w]."""
    if preparation.crop == "none":
        return gray
    top, left, bottom, right = body_box(gray if gray.ndim == 2 else gray[..., 0])
    return gray[top:bottom, left:right]


def framed(gray: np.ndarray, preparation: Preparation) -> np.ndarray:
    """What the model sees of an image before the resize, for a picture: cropped, and padded to a square if `fit` is pad."""
    gray = cropped(gray, preparation)
    return _padded(gray, max(gray.shape[:2])) if preparation.fit == "pad" else gray


def _padded(pixels: np.ndarray, size: int) -> np.ndarray:
    """An image in the middle of a black square: uint8 [h, w] to uint8 [size, size]."""
    height, width = pixels.shape[:2]
    square = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def fitted(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Returns the height and width, in pixels, at which an image of `shape` (H, W) fills a square of `size` one way."""
    height, width = shape[:2]
    longest = max(height, width)
    return max(1, round(size * height / longest)), max(1, round(size * width / longest))


def stretched(pixels: np.ndarray) -> np.ndarray:
    """Brings the 1st percentile to 0 and the 99th to 255, clipped: uint8 [...] to uint8 [...]. A flat image stays."""
    low, high = np.percentile(pixels, PERCENTILES)
    if low == high:
        return pixels
    table = np.rint(np.clip((np.arange(256) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return table[pixels]


def _resized(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes by antialiased bilinear filtering: uint8 [H, W] to uint8 [height, width]."""
    from PIL import Image

    if gray.shape[:2] == (height, width):
        return gray
    return np.asarray(Image.fromarray(np.ascontiguousarray(gray)).resize((width, height), Image.Resampling.BILINEAR))
