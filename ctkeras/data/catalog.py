"""What lies in a folder, in a zip or in several zips: the files that may be images, and why others are not read."""

import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ctkeras.data import accounts, located
from ctkeras.data.accounts import Account
from ctkeras.data.archive import Archive, one_form
from ctkeras.data.images import EXTENSIONS
from ctkeras.errors import UserError
from ctkeras.runtime import console

SCANS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini")  # what macOS and Windows leave behind


class Listed(NamedTuple):
    """A file that may be an image."""

    name: str  # inside the data set, with / and composed accents
    size: int  # bytes
    crc: int  # CRC-32 of the content
    place: str = ""  # where it is below the data set's root, if not at its name


class Catalog(NamedTuple):
    """What a data set consists of."""

    root: Path  # the folder or zip to which places are relative
    files: list[Listed]  # sorted by name
    folders: list[str]  # each ends in /
    parts: tuple[str, ...] = ()  # of several zips, the folder that stands for each


def of(path: Path, account: Account) -> Catalog:
    """Lists a folder, a zip, or a folder that holds nothing but zips.

    Args:
        path: of the folder or file.
        account: counts the files that are not read.

    Raises:
        UserError: a file cannot be read, a name is not valid Unicode, or a zip is damaged or not safe.
    """
    if not os.path.isdir(path):
        files, folders = list_zip(path, account)
        return Catalog(path, files, folders)
    zips = sorted(file for file in path.iterdir() if file.suffix.lower() == ".zip" and file.is_file())
    if zips and not any(folder.is_dir() and not is_hidden(folder.name) for folder in path.iterdir()):
        beside = Account()
        if not list_folder(path, beside)[0]:
            for row in beside.left_out():
                if row.reason != _ending("x.zip"):
                    account.leave_out(row.reason, row.example, row.files)
            return of_zips(zips, account)
    files, folders = list_folder(path, account)
    return Catalog(path, files, folders)


def of_zips(paths: Sequence[Path], account: Account) -> Catalog:
    """Lists several zips as one data set; the name of each, without its ending, stands for a folder.

    Raises:
        UserError: as for `of`.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    files: list[Listed] = []
    folders: list[str] = []
    parts: list[str] = []
    for path in absolute:
        part = _unused(path.stem, parts)
        parts.append(part)
        own = Account()
        listed, inside = list_zip(path, own)
        for row in own.left_out():
            account.leave_out(row.reason, f"{path.name}/{row.example}", row.files)
        at = path.relative_to(root).as_posix()
        files += [file._replace(name=f"{part}/{file.name}", place=f"{at}/{file.name}") for file in listed]
        folders += [f"{part}/{folder}" for folder in inside]
    return Catalog(root, sorted(files), folders, tuple(parts))


def _unused(stem: str, taken: Sequence[str]) -> str:
    """A name, with a number if it is taken."""
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if name not in taken)


def list_folder(root: Path, account: Account) -> tuple[list[Listed], list[str]]:
    """Lists the files under a folder that may be images; reads them, since a changed file may keep its size and date.

    Returns:
        The files, sorted by name, and the folders, each ending in /.

    Raises:
        UserError: a file cannot be read, or its name is not valid Unicode.
    """
    places, folders = walk(root, account)
    seen: dict[str, str] = {}
    files, bar = [], console.Bar(f"listing {root.name}", len(places))
    for number, place in enumerate(places, 1):
        name = one_form(place)
        if (other := seen.setdefault(name, place)) != place:
            raise UserError(f"{root} contains {name} twice, with its accents written in two ways; rename {other}")
        size, crc = _measure(root / place)
        files.append(Listed(name, size, crc, place if place != name else ""))
        bar.update(number)
    bar.close()
    return sorted(files), folders


def walk(root: Path, account: Account) -> tuple[list[str], list[str]]:
    """The paths below a folder of the files that may be images, and of all folders, each of these ending in /.

    Args:
        root: the folder; links are followed.
        account: counts the files that are not read.

    Raises:
        UserError: a name is not valid Unicode.
    """

    def unreadable(error: OSError) -> None:
        place = os.path.relpath(str(error.filename or root), root)
        account.leave_out(f"in a folder that cannot be read ({error.strerror or error})", place)

    files, folders = [], []
    above = {str(root): frozenset([os.path.realpath(root)])}  # of a folder, the real paths of it and those above
    for folder, below, names in os.walk(root, onerror=unreadable, followlinks=True):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in [*below]:
            real = os.path.realpath(os.path.join(folder, name))
            if real in above[folder]:  # it would never end
                account.leave_out("in a folder that links to a folder above it", str(inside / name))
                below.remove(name)
                continue
            above[os.path.join(folder, name)] = above[folder] | {real}
            folders.append(f"{inside / name}/")
        for name in names:
            place = str(inside / name)
            if reason := why_not(place):
                account.leave_out(reason, place)
                continue
            _check_name(place, root)
            files.append(place)
    return files, folders


def _measure(path: Path) -> tuple[int, int]:
    """A file's size in bytes and CRC-32."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is a pipe, socket or device, not a file; remove it")
        if status.st_size > (limit := located.largest(path.name)):
            raise UserError(f"{path} is larger than {limit >> 20} MB; no CT slice is that large")
        content = path.read_bytes()
    except OSError as error:
        broken = " (a link that leads nowhere)" if path.is_symlink() and not path.exists() else ""
        raise UserError(f"cannot read {path}: {error.strerror or error}{broken}") from error
    return len(content), zlib.crc32(content)


def list_zip(path: Path, account: Account) -> tuple[list[Listed], list[str]]:
    """Lists the files of a zip that may be images, from its directory; nothing is unpacked.

    Returns:
        The files, sorted by name, and the folders, each ending in /.

    Raises:
        UserError: it is not a zip, or it is damaged, encrypted or not safe.
    """
    archive = Archive(path)
    archive.close()
    files = []
    for name, member in archive.members.items():
        if reason := accounts.LINK if archive.is_link(name) else why_not(name):
            account.leave_out(reason, name)
            continue
        if archive.is_encrypted(name):
            raise UserError(f"{name} in {path} is encrypted; unpack the zip and pass the folder")
        if member.file_size > (limit := located.largest(name)):
            raise UserError(f"{name} in {path} unpacks to more than {limit >> 20} MB; no CT slice is that large")
        _check_name(name, path)
        files.append(Listed(name, member.file_size, member.CRC))
    return sorted(files), archive.folders


def _check_name(name: str, path: Path) -> None:
    """Refuses a file name that is not valid Unicode, because predictions.csv could not hold it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{path} contains a file whose name is not valid Unicode, {shown}; rename it") from error


def why_not(name: str) -> str:
    """Why a file is not read, by its path; '' if it may be an image."""
    parts = PurePosixPath(name).parts
    if any(is_hidden(part) for part in parts):
        return accounts.HIDDEN
    if name.lower().endswith((*EXTENSIONS, *SCANS)) or is_bare(parts[-1]):
        return ""
    return _ending(parts[-1])


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _ending(name: str) -> str:
    """The reason for a file whose ending is not that of an image."""
    suffix = PurePosixPath(name).suffix
    return f"ending in {suffix.lower()}" if suffix else f"named {name}"


def is_bare(name: str) -> bool:
    """Whether a file's name has no ending, or a number for one, as DICOM files do whose names are UIDs."""
    ending = name.rpartition(".")[2]
    return name.upper() != "DICOMDIR" and ("." not in name or ending.isdigit())
