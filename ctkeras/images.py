"""One way from an image file to pixels, shared by training and prediction, so that both see the same numbers."""

import collections
import concurrent.futures
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctkeras.config import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MAX_PIXELS = 64_000_000  # pixels; a CT slice has 262,144, more than this is no slice but a decompression bomb
_PILLOW = r"PIL\."  # its modules


_AHEAD = 4  # images a thread may be ahead: a hundred MB at most of usual slices


class Header(NamedTuple):
    """What an image's bytes say of themselves."""

    format: str  # as Pillow names it: PNG, JPEG, …
    mode: str  # as Pillow names it: RGBA, L, …
    width: int  # pixels
    height: int  # pixels


def decode_gray(content: bytes, *, name: str) -> np.ndarray:
    """Decodes an image to gray: uint8 [H, W]; see decode."""
    return decode(content, name=name)[0]


def decode(content: bytes, *, name: str) -> tuple[np.ndarray, Header]:
    """Decodes an image to gray, whatever its mode, since in the public set the file's mode gives the class away.

    Args:
        content: an encoded image, the format told from its bytes, not its name; 16 bits are brought to 8.
        name: what an error calls the image.

    Returns:
        uint8 [H, W], and what the bytes say of it.

    Raises:
        UserError: the bytes are no image, or the image is truncated or too large.
    """
    from PIL import Image, UnidentifiedImageError

    _hush_pillow()
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read")
            header = Header(image.format or "", image.mode, image.width, image.height)  # reading changes some modes
            image.load()
            if image.mode.startswith("I") or image.mode == "F":
                return _deep_to_gray(np.asarray(image), image.mode), header
            return np.asarray(image.convert("L")), header
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is in no image format that Pillow knows; take it out or get it again") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers do: OSError, SyntaxError, struct.error…
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is a damaged image ({reason}); take it out or get it again") from error


def _hush_pillow() -> None:
    """Drops Pillow's warnings of odd files. By a filter that stays: threads that swap filters leave each other's behind."""
    filters = warnings.filters
    if not filters or filters[0][0] != "ignore" or getattr(filters[0][3], "pattern", "") != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields a function's results in the order of the items, from threads: Pillow and numpy work without Python's lock.

    Args:
        function: of an item.
        items: taken as they are worked on, few at once.
    """
    threads = cores() + 1  # as each waits for that lock at times
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        begun: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) > _AHEAD * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def encode_png(gray: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] as PNG, lossless, for speed rather than size."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _deep_to_gray(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Brings pixels of over 8 bits to uint8 by the range of 16 bits, not by the image's own, which differs by scan."""
    values = np.nan_to_num(pixels.astype(np.float64), posinf=65535.0, neginf=0.0)
    eight_bits = mode == "F" and values.max() <= 255  # float files come in both ranges, integers of over 8 bits don't
    return np.clip(values if eight_bits else values / 257.0, 0, 255).round().astype(np.uint8)  # 257 = 65535 / 255


def resize(gray: np.ndarray, size: int) -> np.ndarray:
    """Resizes to a square by antialiased bilinear filtering; the aspect is not kept, as it tells the class in the public set.

    Args:
        gray: uint8 [H, W].
        size: pixels of a side.

    Returns:
        uint8 [size, size].
    """
    from PIL import Image

    if gray.shape == (size, size):
        return gray
    return np.asarray(Image.fromarray(gray).resize((size, size), Image.Resampling.BILINEAR))


def as_rgb(gray: np.ndarray) -> np.ndarray:
    """Repeats gray over three channels: uint8 [..., H, W] to uint8 [..., H, W, 3]."""
    return np.repeat(gray[..., None], 3, axis=-1)


def read_rgb(path: Path, size: int) -> np.ndarray:
    """Reads one image file as the model wants it.

    Args:
        path: the file.
        size: pixels of a side.

    Returns:
        uint8 [size, size, 3], gray as RGB.

    Raises:
        UserError: the file can't be read or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    return as_rgb(resize(decode_gray(content, name=str(path)), size))
