"""One way from an image file to pixels, shared by training and prediction, so that both see the same numbers."""

import io
import warnings
from pathlib import Path

import numpy as np

from ctkeras.config import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MAX_PIXELS = 64_000_000  # pixels; a CT slice has 262,144, more than this is no slice but a decompression bomb


def decode_gray(content: bytes, *, name: str) -> np.ndarray:
    """Decodes an image to gray, whatever its mode, since in the public set the file's mode gives the class away.

    Args:
        content: an encoded image, the format told from its bytes, not its name; 16 bits are brought to 8.
        name: what an error calls the image.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: the bytes are no image, or the image is truncated or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read")
            image.load()
            if image.mode.startswith("I") or image.mode == "F":
                return _deep_to_gray(np.asarray(image), image.mode)
            return np.asarray(image.convert("L"))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is in no image format that Pillow knows; take it out or get it again") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers do: OSError, SyntaxError, struct.error…
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is a damaged image ({reason}); take it out or get it again") from error


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
