"""NIfTI volumes: their axial slices, in HU."""

import functools
import gzip
import threading
import zlib
from typing import Any, NamedTuple

import numpy as np

from ctkeras.data.windows import Values, of_array
from ctkeras.errors import UserError

ENDINGS = (".nii", ".nii.gz")
_LOCK = threading.Lock()  # so that threads that want slices of one volume read it once
_HEADER = 352  # bytes, of version 1; version 2 needs fewer of them to be recognised
_OPEN = 2  # volumes in memory: where one ends, threads read slices of the next already


class Damaged(UserError):
    """A volume that cannot be read; `reason` is for a count of files."""

    def __init__(self, name: str, reason: str) -> None:
        """Words the message."""
        super().__init__(f"{name} is a {reason}; remove it or convert it again")
        self.reason = reason


class _Volume(NamedTuple):
    """An opened volume, whose slices are read one by one."""

    stored: np.ndarray  # of three axes, as in the file
    scale: tuple[float, float]  # slope and intercept
    axes: tuple[int, ...]  # which stored axis goes right, front, up
    flips: tuple[bool, ...]  # whether each of these runs the other way
    span: tuple[float, float] | None  # as in windows.Values, of the whole volume


def is_nifti(content: bytes) -> bool:
    """Whether a file begins as NIfTI or compressed NIfTI does."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, _HEADER)
        except zlib.error:
            return False
    return content[344:347] in (b"n+1", b"n+2") or content[4:7] == b"n+2"


def facts(content: bytes, *, name: str) -> tuple[int, bool]:
    """Returns the number of axial slices, and whether the file counts them from the head.

    Raises:
        Damaged: the volume is damaged, or has more than three axes.
        UserError: nibabel is missing.
    """
    data, axes, flips = _opened(content, name)
    return data.shape[axes[2]], flips[2]


def slices(content: bytes, *, name: str) -> int:
    """Returns the number of axial slices; raises as `facts`."""
    return facts(content, name=name)[0]


def values(content: bytes, *, name: str, index: int) -> Values:
    """Returns an axial slice as a radiologist sees it: the patient's right on the left, the front at the top.

    Args:
        content: the file.
        name: what an error calls it.
        index: from 0, from the feet up.

    Raises:
        UserError: the volume is damaged, or nibabel is missing.
    """
    with _LOCK:
        volume = _volume(content, name)
    return Values(_slice(volume, index), volume.span)


@functools.lru_cache(maxsize=_OPEN)
def _volume(content: bytes, name: str) -> _Volume:
    """The last volumes stay open while their slices are read; as integers in memory, not as floats."""
    data, axes, flips = _opened(content, name)
    stored = np.asarray(data.get_unscaled()).reshape(data.shape[:3])
    volume = _Volume(stored, (float(data.slope), float(data.inter)), axes, flips, None)
    ends = []
    for index in range(stored.shape[axes[2]]):
        finite = (one := _slice(volume, index))[np.isfinite(one)]
        ends += [finite.min(), finite.max()] if finite.size else []
    return volume._replace(span=of_array(np.array([ends or [0.0]], np.float32)).span)


def _slice(volume: _Volume, index: int) -> np.ndarray:
    """One axial slice: float32 [rows, columns], rows from front to back, columns from the patient's right to the left."""
    right, front, up = volume.axes
    at: list[Any] = [slice(None)] * 3
    at[up] = volume.stored.shape[up] - 1 - index if volume.flips[2] else index
    plane = volume.stored[tuple(at)].astype(np.float32) * np.float32(volume.scale[0]) + np.float32(volume.scale[1])
    plane = plane if front < right else plane.T
    rows = slice(None) if volume.flips[1] else slice(None, None, -1)
    columns = slice(None) if volume.flips[0] else slice(None, None, -1)
    return np.ascontiguousarray(plane[rows, columns])


def _opened(content: bytes, name: str) -> tuple[Any, tuple[int, ...], tuple[bool, ...]]:
    """Opens a volume and checks that all of it is there: nibabel's array proxy, and the axes and flips of right, front, up."""
    try:
        import nibabel
    except ImportError as error:
        raise UserError(f'{name} is NIfTI, which needs nibabel: pip install "ctkeras[nifti]"') from error
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        kind: Any = nibabel.Nifti2Image if raw[4:7] == b"n+2" else nibabel.Nifti1Image
        image = kind.from_bytes(raw)
        data, shape = image.dataobj, image.shape
        needed = data.offset + int(np.prod(shape)) * data.dtype.itemsize
        turn = nibabel.io_orientation(image.affine)
    except Exception as error:  # gzip, zlib and nibabel raise many types
        raise Damaged(name, f"damaged NIfTI file ({type(error).__name__})") from error
    if len(raw) < needed:
        raise Damaged(name, "truncated NIfTI file")
    if len(shape) < 3 or any(length > 1 for length in shape[3:]):
        raise Damaged(name, f"NIfTI file of {len(shape)} axes, where a volume has three")
    if not (np.isfinite(turn[:3, 0]).all() and sorted(turn[:3, 0]) == [0, 1, 2]):
        raise Damaged(name, "NIfTI file whose affine names no axial axis")
    if data.dtype.kind not in "iuf":
        raise Damaged(name, "NIfTI file of colours or complex numbers")
    axes = tuple(int(np.flatnonzero(turn[:3, 0] == axis)[0]) for axis in range(3))
    return data, axes, tuple(bool(turn[axis, 1] < 0) for axis in axes)
