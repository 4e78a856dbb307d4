"""One way from an image file to pixels, shared by training and prediction, so that both see the same numbers."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctkeras.data import arrays, deep, dicom, dicom_pixels, nifti, windows
from ctkeras.data.crop import Preparation, prepare
from ctkeras.errors import UserError

SIZE = 128  # pixels per side at which pictures are compared: vessels are visible, JPEG noise is not
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm", ".bmp", ".gif"),
    *(".tif", ".tiff", ".webp", ".npy"),
)
# The decoders that may run, chosen by a file's first bytes: others would start Ghostscript or read files beside it.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000")
PAGED = ("TIFF", "GIF", "WEBP", "PNG")  # whose further pictures are slices
MAX_PIXELS = 64_000_000  # pixels; a CT slice has 262,144; a larger image is a decompression bomb
_PILLOW = r"PIL\."  # modules whose warnings are dropped


class Header(NamedTuple):
    """What an image file says about itself."""

    format: str  # as Pillow names it: PNG, JPEG, …
    mode: str  # as Pillow names it: RGBA, L, …
    width: int  # pixels
    height: int  # pixels


def decode_gray(content: bytes, *, name: str, frame: int = 0, window: str = "auto", span: str = "") -> np.ndarray:
    """Decodes an image to gray: uint8 [H, W]; see decode."""
    return decode(content, name=name, frame=frame, window=window, span=span)[0]


def decode(
    content: bytes, *, name: str, frame: int = 0, window: str = "auto", span: str = ""
) -> tuple[np.ndarray, Header]:
    """Decodes an image to gray, whatever its mode, because in the public set the file's mode reveals the class.

    Args:
        content: an encoded image, numpy array, DICOM or NIfTI; its bytes decide the format, not its name.
        name: what an error calls the image.
        frame: which slice of a volume, or page of a file.
        window: see windows.to_gray; images of 8 bits are grays already.
        span: of images of more than 8 bits, the values that become black and white in the whole data set, see deep.span_of;
            '' guesses by this image alone.

    Returns:
        uint8 [H, W], or [H, W, 3] if window is three, and the file's header.

    Raises:
        UserError: the bytes are not an image, or the image is truncated or too large.
    """
    grays, header = in_windows(content, [(window, span)], name=name, frame=frame)
    return grays[0], header


def in_windows(
    content: bytes, wanted: Sequence[tuple[str, str]], *, name: str, frame: int = 0
) -> tuple[list[np.ndarray], Header]:
    """Decodes an image once and shows it in several windows.

    Args:
        content: as for decode.
        wanted: windows and spans, as for decode.
        name: what an error calls the image.
        frame: which slice of a volume, or page of a file.

    Returns:
        One array per window, as from decode, and the file's header.

    Raises:
        UserError: as for decode.
    """
    scan = _scan_values(content, name=name, frame=frame)
    if scan is not None:
        height, width = scan[0].array.shape
        return [windows.to_gray(scan[0], window) for window, _ in wanted], Header(scan[1], "F", width, height)
    array, header = pixels(content, name=name, frame=frame)
    if array.dtype != np.uint8:
        return [windows.to_gray(deep.values(array, span), window) for window, span in wanted], header
    return [as_rgb(array) if window == "three" else array for window, _ in wanted], header


def pixels(content: bytes, *, name: str, frame: int = 0) -> tuple[np.ndarray, Header]:
    """Decodes an image file to its values, neither DICOM nor NIfTI: uint8 [H, W], or what it holds of more than 8 bits.

    Raises:
        UserError: as for decode.
    """
    if arrays.is_array(content):
        array = arrays.values(content, name=name, frame=frame)
        return array, Header("NPY", array.dtype.name, array.shape[1], array.shape[0])
    from PIL import Image, ImageOps

    _hush_pillow()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{name} has {image.width}x{image.height} pixels, the limit is {MAX_PIXELS:,}; remove or shrink it"
                )
            header = Header(image.format or "", image.mode, image.width, image.height)  # reading changes some modes
            if frame:
                image.seek(frame)
            if deep.is_deep_colour_jp2(image, content):
                raise UserError(f"{name} is JPEG 2000 in colour of more than 8 bits, which is not read; save it as PNG")
            if deep.is_deep(image):
                return deep.array_of(image, content=content, frame=frame, name=name), header
            ImageOps.exif_transpose(image, in_place=True)  # a mirrored chest is a finding
            return np.asarray(image.convert("L")), header
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many types: OSError, SyntaxError, struct.error…
        raise _refusal(error, content, name) from error


def pages(content: bytes, *, name: str) -> list[int]:
    """The pictures of an image file that are slices: those as large as the first, from 0; [0] for most files.

    Raises:
        UserError: the file is damaged.
    """
    return page_sizes(content, name=name)[0]


def page_sizes(content: bytes, *, name: str) -> tuple[list[int], int]:
    """The pictures of an image file that are slices, see pages, and the number of those that are not.

    Raises:
        UserError: the file is damaged.
    """
    if arrays.is_array(content):
        return list(range(arrays.count(content, name=name))), 0
    from PIL import Image

    _hush_pillow()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            count = getattr(image, "n_frames", 1)
            if image.format not in PAGED:
                return [0], count - 1
            size, same = image.size, [0]
            for at in range(1, count):
                image.seek(at)
                same += [at] if image.size == size else []
            return same, count - len(same)
    except Exception as error:  # as in pixels
        raise _refusal(error, content, name) from error


def _refusal(error: Exception, content: bytes, name: str) -> UserError:
    """What is wrong with a file that Pillow does not read."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{name} {_unknown(content)}; remove it or download it again")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name} is a damaged image ({reason}); remove it or download it again")


def _unknown(content: bytes) -> str:
    """What a file is that holds no image."""
    if not content:
        return "is empty"
    if content.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the image itself"
    if content[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image"
    return f"is not in an image format that is read ({', '.join(FORMATS)}, NPY, DICOM, NIfTI)"


def _hush_pillow() -> None:
    """Drops Pillow's warnings about odd files, by a permanent filter: swapping filters in threads is not safe."""
    filters = warnings.filters
    if not filters or filters[0][0] != "ignore" or getattr(filters[0][3], "pattern", "") != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW)


def encode_png(gray: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] as PNG, lossless, fast rather than small."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _scan_values(content: bytes, *, name: str, frame: int) -> tuple[windows.Values, str] | None:
    """The values and format of a DICOM or NIfTI file; None for other files."""
    if dicom.is_dicom(content):
        return dicom_pixels.values(content, name=name, frame=frame), "DICOM"
    if nifti.is_nifti(content):
        return nifti.values(content, name=name, index=frame), "NIfTI"
    return None


def frames(content: bytes, *, name: str) -> int:
    """Returns how many slices a file holds: 1 unless it is multi-frame DICOM, NIfTI, or an image file of several pages."""
    if dicom.is_dicom(content):
        return len(dicom.facts(content, name=name).positions)
    return nifti.slices(content, name=name) if nifti.is_nifti(content) else len(pages(content, name=name))


def as_rgb(gray: np.ndarray) -> np.ndarray:
    """Repeats gray over three channels: uint8 [..., H, W] to uint8 [..., H, W, 3], which stays as it is."""
    if gray.shape[-1] == 3:  # no image is 3 pixels wide
        return gray
    return np.repeat(gray[..., None], 3, axis=-1)


def read_rgb(path: Path, size: int, preparation: Preparation) -> np.ndarray:
    """Reads one image file in the form that the model takes.

    Args:
        path: the file.
        size: pixels of a side.
        preparation: as the model's contract states it.

    Returns:
        uint8 [size, size, 3], gray as RGB.

    Raises:
        UserError: the file cannot be read, is not an image or is a volume.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if (slices := frames(content, name=str(path))) > 1:
        raise UserError(f"{path} is a volume of {slices} slices; this takes one slice per file")
    gray = decode_gray(content, name=str(path), window=preparation.window, span=preparation.span)
    return as_rgb(prepare(gray, size, preparation))


def thumbnail(gray: np.ndarray) -> np.ndarray:
    """Returns a picture at the size for comparison: uint8 [H, W] to uint8 [128, 128], antialiased."""
    from PIL import Image

    return np.asarray(Image.fromarray(gray).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
