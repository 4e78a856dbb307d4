"""Images of more than 8 bits, which state no unit: one scale for a whole data set, from the range of its values."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctkeras.data.windows import Values, of_array
from ctkeras.errors import UserError
from ctkeras.runtime import process

if TYPE_CHECKING:
    from PIL import Image

HU = "HU"
_HU_BELOW = -100  # values below this are Hounsfield units: no other image has such values
_FLOAT = "float"
_FEW = 0.001  # of an image's values, the highest, do not decide its set's scale
_STANDS_OUT = 4.0  # times the largest of the other values, two bits, from which those few are held to be no part of it
_WHITE_IS_ZERO = 0  # TIFF 6.0, PhotometricInterpretation (tag 262)


class Range(NamedTuple):
    """The values of one image of more than 8 bits."""

    low: float
    high: float
    kind: str  # int or float
    top: float | None = None  # which all but 1 in 1,000 of its values do not exceed; None: as high


def range_of(array: np.ndarray) -> Range:
    """The finite values of an image, any number type [H, W]: smallest and largest, and without the few that stand out."""
    kind = _FLOAT if array.dtype.kind == "f" else "int"
    finite = array[np.isfinite(array)] if kind == _FLOAT else array.reshape(-1)
    if not finite.size:
        return Range(0.0, 0.0, kind)
    at = finite.size - 1 - int(finite.size * _FEW)
    return Range(float(finite.min()), float(finite.max()), kind, float(np.partition(finite, at)[at]))


def joined(ranges: Iterable[Range]) -> Range:
    """The range of several images, such as the pages of a file."""
    rows = list(ranges)
    kind = _FLOAT if any(row.kind == _FLOAT for row in rows) else "int"
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    return Range(low, high, kind, max(row.high if row.top is None else row.top for row in rows))


def span_of(ranges: Iterable[Range]) -> str:
    """The values that become black and white in every image of a data set: HU, or LOW/HIGH; '' without such images.

    Values below -100 are Hounsfield units. Floats up to 1 are shares of white. Otherwise the smallest number of bits from 8
    that holds all values decides, so that nothing is clipped and at least half of the grays are used. High values that are
    few in every image (1 in 1,000: a hot pixel, a burned-in mark) become white where they would take four times the range
    of all others.

    Example:
        >>> span_of([Range(0, 900, "int"), Range(3, 3071, "int")])
        '0/4095'
    """
    ranges = list(ranges)
    if not ranges:
        return ""
    low, high, kind, top = joined(ranges)
    if low < _HU_BELOW:
        return HU
    if top is not None and high > _STANDS_OUT * max(top, 1.0 if kind == _FLOAT else 255.0):
        high = top
    if kind == _FLOAT and high <= 1:
        return _text(0.0 if low >= 0 else min(low, -1.0) if low >= -1 else low, 1.0)
    bits = next((bits for bits in range(8, 17) if high <= 2**bits - 1), 0)
    return _text(min(low, 0.0), 2.0**bits - 1 if bits else high)


def _text(low: float, high: float) -> str:
    return f"{low:.9g}/{high:.9g}"


def sentence(span: str, ranges: Sequence[Range], *, images: int) -> str:
    """What was assumed about the images of more than 8 bits, in a line.

    Args:
        span: from span_of.
        ranges: of the images of more than 8 bits.
        images: of the data set.
    """
    deep = len(ranges)
    which = "images hold" if deep == images else f"{deep:,} of {images:,} images hold"
    if span == HU:
        return f"{which} values below {_HU_BELOW}, taken for Hounsfield units: the run's window makes grays of them"
    low, high = limits(span)
    bits = int(high).bit_length()
    kind = f"{bits} bits" if low == 0 and high == 2**bits - 1 and high > 1 else "numbers"
    most = max(row.high for row in ranges)
    few = f"; a few pixels above, up to {most:g}, became white" if most > high else ""
    return f"{which} {kind}: {low:g} to {high:g} became 0 to 255{few}"


def limits(span: str) -> tuple[float, float]:
    """The values of LOW/HIGH.

    Raises:
        UserError: it is written differently.
    """
    try:
        low, high = (float(part) for part in span.split("/"))
    except ValueError as error:
        raise UserError(f"the range of values of an image is HU or LOW/HIGH; got {span!r}") from error
    return low, high


def values(array: np.ndarray, span: str = "") -> Values:
    """The values of an image with the scale of its data set.

    Args:
        array: any number type [H, W].
        span: from span_of; '' guesses by this image alone.
    """
    if not span:
        return of_array(array)
    return Values(array, None if span == HU else limits(span))


def is_deep(image: "Image.Image") -> bool:
    """Whether an opened image has more than 8 bits per channel."""
    return (
        image.mode.startswith("I") or image.mode == "F" or _raw_mode(image).startswith(("RGB;16", "RGBA;16", "LA;16"))
    )


def _raw_mode(image: "Image.Image") -> str:
    """How the pixels of an opened image are stored, as Pillow names it."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def is_deep_colour_jp2(image: "Image.Image", content: bytes) -> bool:
    """Whether a file is JPEG 2000 of several channels and more than 8 bits, of which Pillow keeps the upper 8 only.

    Args:
        image: opened.
        content: the file.
    """
    if image.format != "JPEG2000" or len(image.getbands()) == 1:
        return False
    size = content.find(b"\xff\x4f\xff\x51")  # SOC and SIZ (ISO/IEC 15444-1, A.5.1)
    return size >= 0 and len(content) > size + 42 and (content[size + 42] & 0x7F) + 1 > 8  # of the first channel


def array_of(image: "Image.Image", *, content: bytes, frame: int, name: str) -> np.ndarray:
    """The values of an image of more than 8 bits, colour as luma: any number type [H, W].

    Args:
        image: opened, at its frame, not loaded.
        content: the file.
        frame: of the image.
        name: what an error calls it.

    Raises:
        UserError: Pillow does not decode all of its bits.
    """
    from PIL import Image, ImageOps

    if (raw := _raw_mode(image)).startswith("LA;16"):
        return _without_alpha(image, content)
    if not raw.startswith(("RGB;16", "RGBA;16")):
        inverted = image.format == "TIFF" and dict(image.tag_v2).get(262) == _WHITE_IS_ZERO  # type: ignore[attr-defined]
        ImageOps.exif_transpose(image, in_place=True)  # a mirrored chest is a finding
        array = np.asarray(image)
        if inverted and array.dtype.kind == "u" and array.dtype.itemsize == 2:
            return (np.uint16(2 ** _bits(image) - 1) - array).astype(array.dtype)
        return array
    halves = []
    for order in ("B", "L"):  # Pillow gives the first or the second byte of each value, never both
        with Image.open(io.BytesIO(content)) as half:
            half.seek(frame)
            half.tile = [_with_order(tile, order) for tile in half.tile]
            halves.append(np.asarray(ImageOps.exif_transpose(half).convert("RGB"), np.uint16))
    high, low = halves if raw.endswith("B") else halves[::-1]
    red, green, blue = np.moveaxis(high.astype(np.float32) * 256 + low, -1, 0)
    return np.rint(0.299 * red + 0.587 * green + 0.114 * blue).astype(np.uint16)  # ITU-R BT.601, as Pillow's L


def _without_alpha(image: "Image.Image", content: bytes) -> np.ndarray:
    """The grays of a PNG of 16 bits with transparency, of which Pillow would drop 8: uint16 [H, W]."""
    process.configure_tensorflow()
    import tensorflow as tf
    from PIL import ExifTags, Image, ImageOps

    gray = Image.fromarray(np.ascontiguousarray(tf.io.decode_png(content, dtype=tf.uint16).numpy()[..., 0]))
    gray.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return np.asarray(ImageOps.exif_transpose(gray))


def _bits(image: "Image.Image") -> int:
    """The bits per value that a TIFF states."""
    stated = dict(image.tag_v2).get(258, 16)  # type: ignore[attr-defined]
    return int(stated[0] if isinstance(stated, tuple) else stated)


def _with_order(tile: Any, order: str) -> Any:
    """A tile of an image whose values are read in the other order of bytes."""
    arguments = tile[3]
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    swapped = f"{raw[:-1]}{order}"
    return tile._replace(args=(swapped, *arguments[1:]) if isinstance(arguments, tuple) else swapped)
