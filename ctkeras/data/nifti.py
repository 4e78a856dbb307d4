"""NIfTI volumes: their axial slices, in HU."""

import functools
import gzip
import io
import threading

import numpy as np

from ctkeras.data.windows import Values, of_array
from ctkeras.errors import UserError

ENDINGS = (".nii", ".nii.gz")
_LOCK = threading.Lock()  # so that threads that want slices of one volume decode it once


def is_nifti(content: bytes) -> bool:
    """Whether a file begins as NIfTI or compressed NIfTI does."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(352)
        except (OSError, EOFError):
            return False
    return content[344:347] in (b"n+1", b"n+2") or content[4:7] == b"n+2"


def slices(content: bytes, *, name: str) -> int:
    """Returns the number of axial slices.

    Raises:
        UserError: the volume is damaged, or nibabel is missing.
    """
    return volume(content, name=name).shape[2]


def values(content: bytes, *, name: str, index: int) -> Values:
    """Returns an axial slice as a radiologist sees it: the patient's right on the left, the front at the top.

    Args:
        content: the file.
        name: what an error calls it.
        index: from 0, from the feet up.

    Raises:
        UserError: the volume is damaged, or nibabel is missing.
    """
    array = volume(content, name=name)
    return Values(array[:, :, index], of_array(array).span)


def volume(content: bytes, *, name: str) -> np.ndarray:
    """Decodes a volume: float32 [rows, columns, slices], turned by its affine to front, right, feet first.

    Raises:
        UserError: the volume is damaged, has more than three axes, or nibabel is missing.
    """
    with _LOCK:
        return _volume(content, name)


@functools.lru_cache(maxsize=1)
def _volume(content: bytes, name: str) -> np.ndarray:
    """The last volume stays decoded while its slices are read."""
    try:
        import nibabel
    except ImportError as error:
        raise UserError(f'{name} is NIfTI, which needs nibabel: pip install "ctkeras[nifti]"') from error
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(raw))
        array = np.asarray(image.dataobj, np.float32)
    except Exception as error:  # nibabel raises many types
        raise UserError(f"{name} is a damaged NIfTI file ({type(error).__name__}); remove it") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise UserError(f"{name} has {array.ndim} axes; a volume has three")
    # Canonical axes go right, front, up; rows of a picture go to the back and columns to the patient's left.
    return np.ascontiguousarray(array[::-1, ::-1, :].transpose(1, 0, 2))
