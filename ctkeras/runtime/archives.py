"""Zip files from elsewhere: bounded by their directory before any of it is read into memory."""

import stat
import struct
import zipfile
from pathlib import Path

from ctkeras.errors import UserError

DIRECTORY_BYTES = 32 * 2**20  # of a zip's directory: some 200,000 files; Python holds about 15 times as much in memory
# A member of more bytes than the second may unpack to no more than so many times its size.
RATIO, RATIO_FROM = 200, 4 * 2**20
# Methods, the last Zstandard, of which Python unpacks any amount at a time.
UNBOUNDED = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93)


def members(path: Path, *, largest: int) -> list[zipfile.ZipInfo]:
    """The members of a zip, after checking that reading any of them is safe; nothing is unpacked.

    Args:
        path: the zip.
        largest: bytes that a member may unpack to.

    Raises:
        UserError: it is not a zip, its directory is too large, or a member is too large, is packed beyond reason or by a
            method other than deflate, is encrypted, is a link, or points outside the archive's folder.
    """
    require_bounded(path)
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except Exception as error:  # a damaged zip also raises IndexError, UnicodeDecodeError, struct.error
        raise UserError(f"{path} is not a zip file that can be read ({error})") from error
    for member in listed:
        if problem := problem_of(member, largest=largest):
            raise UserError(f"{member.filename} in {path} {problem}; this zip is not safe to read")
    return listed


def require_bounded(path: Path) -> None:
    """Checks the size of a zip's directory, which zipfile reads as a whole; says nothing of a file that is not a zip.

    Raises:
        UserError: it is larger than DIRECTORY_BYTES.
    """
    try:
        with open(path, "rb") as file:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    except (OSError, ValueError, IndexError, struct.error, zipfile.BadZipFile):
        return
    if end and end[zipfile._ECD_SIZE] > DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise UserError(f"{path} lists more than {DIRECTORY_BYTES >> 20} MB of files; divide it, or unpack it")


def problem_of(member: zipfile.ZipInfo, *, largest: int) -> str:
    """What makes a member unsafe to read, in words; '' for nothing."""
    name = member.orig_filename
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:3] in (":\\", ":/"):
        return "points outside its folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type in UNBOUNDED:
        return "is packed by another method than deflate"
    if member.file_size > largest:
        return f"unpacks to more than {largest >> 20} MB"
    if member.file_size > RATIO_FROM and member.file_size > RATIO * max(1, member.compress_size):
        return f"unpacks to more than {RATIO} times its size"
    return ""
