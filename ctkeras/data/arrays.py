"""Arrays that numpy saved: .npy files of a slice [H, W], a colour image [H, W, 3] or a volume [slices, H, W]."""

import io

import numpy as np

from ctkeras.errors import UserError

_MAGIC = b"\x93NUMPY"  # numpy.lib.format
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's L


def is_array(content: bytes) -> bool:
    """Whether a file begins as .npy does."""
    return content.startswith(_MAGIC)


def count(content: bytes, *, name: str) -> int:
    """The number of slices.

    Raises:
        UserError: it is damaged, or is neither a slice nor a volume.
    """
    return len(_slices(content, name))


def values(content: bytes, *, name: str, frame: int) -> np.ndarray:
    """One slice: uint8 [H, W], or any other number type [H, W] as saved.

    Raises:
        UserError: as for count.
    """
    return _slices(content, name)[frame]


def _slices(content: bytes, name: str) -> np.ndarray:
    """An array as [slices, H, W]."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)  # a pickle would run code
    except Exception as error:  # numpy raises many types for a damaged file
        raise UserError(
            f"{name} is a damaged .npy file ({' '.join(str(error).split())[:100]}); save it again"
        ) from error
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3) or not array.size:
        raise UserError(
            f"{name} holds {array.dtype} of shape {array.shape}; an .npy file is a slice [H, W] of numbers, a colour image "
            "[H, W, 3] or a volume [slices, H, W]"
        )
    if array.ndim == 2:
        return array[None]
    if array.shape[-1] == 1:
        return array[None, ..., 0]
    if array.shape[-1] in (3, 4):
        luma = array[..., :3].astype(np.float32) @ np.array(_LUMA, np.float32)
        return (np.rint(luma) if array.dtype.kind != "f" else luma).astype(array.dtype)[None]
    return array
