"""What each file of a data set holds, by its content: image or scan, its pages, and the range of deep values."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ctkeras.data import arrays, deep, dicom, images, nifti, threads
from ctkeras.data.deep import Range
from ctkeras.data.layout import Entry
from ctkeras.errors import UserError
from ctkeras.runtime import console, stored
from ctkeras.runtime.files import cache_dir

_VERSION = "3"  # raise it when what is recorded changes
_HEAD = 4096  # bytes from a file's start that say what it is
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xDA)  # markers of a JPEG after which no picture is announced
IMAGE, SCAN, UNKNOWN = "image", "scan", ""


class Held(NamedTuple):
    """What a file holds; nothing that identifies anybody."""

    kind: str  # IMAGE, SCAN for DICOM and NIfTI, or UNKNOWN
    pages: tuple[int, ...] = (0,)  # the pictures that are slices
    other_pages: int = 0  # pictures of another size, which are not
    range: Range | None = None  # of all pages, if they have more than 8 bits


def survey(entries: Sequence[Entry], read: Callable[[Entry, int], bytes], *, key: str = "") -> list[Held]:
    """Looks into each file, only as far as needed; the result is cached.

    Args:
        entries: as listed.
        read: returns the first bytes of a file, all if their number is -1.
        key: what else the result depends on.

    Raises:
        UserError: the cache cannot be written.
    """
    names = "\n".join(f"{entry.path}\t{entry.size}\t{entry.crc}" for entry in entries)
    digest = hashlib.sha256(f"{_VERSION}\n{key}\n{names}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    cached = cache_dir("listings") / f"held-{digest}.json"
    if (rows := stored.find_json(cached)) is not None:
        return [Held(kind, tuple(pages), other, span and Range(*span)) for kind, pages, other, span in rows]
    held, bar = [], console.Bar("looking into files", len(entries))
    for row in threads.in_threads(lambda item: _held(*item), ((entry, *_content(entry, read)) for entry in entries)):
        held.append(row)
        bar.update(len(held))
    bar.close()
    stored.write_json(cached, held)
    return held


def _content(entry: Entry, read: Callable[[Entry, int], bytes]) -> tuple[bytes, bool]:
    """A file's first bytes, or all of it if these do not say enough; and whether these are all needed."""
    try:
        head = read(entry, _HEAD)
        if _kind(head) == IMAGE and not _is_plain(head):
            return read(entry, -1), True
        return head, False
    except UserError:  # reported when the image is read
        return b"\xff\xd8\xff", False


def _kind(head: bytes) -> str:
    """What a file is, by its first bytes."""
    if dicom.is_dicom(head) or nifti.is_nifti(head):
        return SCAN
    if head[:4] == b"RIFF":
        return IMAGE if head[8:12] == b"WEBP" else UNKNOWN
    starts = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"BM")
    more = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
    return IMAGE if head.startswith((*starts, *more)) or arrays.is_array(head) else UNKNOWN


def _is_plain(head: bytes) -> bool:
    """Whether an image is known from its first bytes to be one picture of 8 bits."""
    if head.startswith(b"\x89PNG"):
        return head[24:25] != b"\x10" and b"acTL" not in head  # the depth in IHDR; the chunk of animations
    if head[8:12] == b"WEBP":
        return head[12:16] != b"VP8X" or not head[20] & 2
    if head.startswith(b"\xff\xd8"):
        return _is_one_jpeg(head)
    return head.startswith((b"BM", b"P1", b"P4"))


def _is_one_jpeg(head: bytes) -> bool:
    """Whether a JPEG is known to hold one picture: its frame begins before any index of several (MPF, CIPA DC-007)."""
    at = 2
    while at + 8 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _FRAMES:
            return True
        if head[at + 1] == 0xE2 and head[at + 4 : at + 8] == b"MPF\0":
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return len(head) < _HEAD or head[at : at + 1] not in (b"\xff", b"")


def _held(entry: Entry, content: bytes, whole: bool) -> Held:
    """What a file holds, from its first bytes or all of it."""
    if not whole:
        return Held(_kind(content))
    try:
        pages, others = images.page_sizes(content, name=entry.file)
        low_high = []
        for page in pages:
            array = images.pixels(content, name=entry.file, frame=page)[0]
            if array.dtype.itemsize == 1 and array.dtype.kind == "u":
                return Held(IMAGE, tuple(pages), others)
            low_high.append(deep.range_of(array))
    except UserError:  # reported when the image is read
        return Held(IMAGE)
    return Held(IMAGE, tuple(pages), others, deep.joined(low_high))
