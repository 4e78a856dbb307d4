"""Where files are: below a folder, absolute, or inside a zip (ARCHIVE.zip/inside.png)."""

import os
import zlib
from pathlib import Path

from ctkeras.data.archive import Archive
from ctkeras.errors import UserError

MAX_FILE_BYTES = 256 * 2**20  # bytes per image file, far above any slice, so that a zip bomb is refused unread
_VOLUMES = 8  # times as much for files that hold volumes: 2 GB, which is 4,000 slices of 512 x 512


def largest(name: str) -> int:
    """The most bytes that a file of this name may have: more for those that may hold a volume, DICOM and NIfTI."""
    return MAX_FILE_BYTES * (_VOLUMES if name.lower().endswith((".nii", ".nii.gz", ".dcm", ".dicom")) else 1)


class Located:
    """Reads files by their paths; zips stay open until close."""

    def __init__(self, folder: Path) -> None:
        """Remembers the folder to which paths are relative."""
        self.folder = folder
        self._archives: dict[Path, Archive] = {}

    def size_and_crc(self, file: str) -> tuple[int, int]:
        """Returns a file's size in bytes and its CRC-32.

        Raises:
            UserError: there is no such file, or it is too large.
        """
        archive, inside = self._archive(file)
        if archive is None:
            content = self.read(file)
            return len(content), zlib.crc32(content)
        if inside not in archive.members:
            raise UserError(f"cannot read {file}: no such file")
        member = archive.members[inside]
        if member.file_size > largest(file):
            raise UserError(f"{file} is larger than {largest(file) >> 20} MB")
        return member.file_size, member.CRC

    def read(self, file: str, size: int = -1) -> bytes:
        """Returns a file's bytes.

        Args:
            file: its path.
            size: how many bytes from the start; -1 for all.

        Raises:
            UserError: it is missing, too large or damaged.
        """
        archive, inside = self._archive(file)
        path = self.folder / file
        try:
            if archive is not None:
                return archive.read(inside, size)
            if path.stat().st_size > largest(file):
                raise UserError(f"{file} is larger than {largest(file) >> 20} MB")
            with open(path, "rb") as opened:
                return opened.read(size)
        except (FileNotFoundError, KeyError) as error:
            raise UserError(f"cannot read {file}: no such file{_hint(path)}") from error
        except UserError:
            raise
        except Exception as error:  # zipfile raises many types
            if archive is None:
                raise UserError(f"cannot read {file}: {getattr(error, 'strerror', '') or error}") from error
            where = f"{inside} in {archive.path}"
            raise UserError(f"{where} is damaged ({error}); copy or download it again") from error

    def close(self) -> None:
        """Closes the zips."""
        for archive in self._archives.values():
            archive.close()

    def inside(self, file: str) -> Archive | None:
        """The zip that a path leads into, opened; None if it leads into none.

        Raises:
            UserError: the zip is damaged.
        """
        return self._archive(file)[0]

    def _archive(self, file: str) -> tuple[Archive | None, str]:
        """Returns the zip that a path leads into, if it does, and the path inside it."""
        lower, at = file.lower(), -1
        while (at := lower.find(".zip/", at + 1)) >= 0:
            path = self.folder / file[: at + 4]
            if path in self._archives or path.is_file():
                if path not in self._archives:
                    self._archives[path] = Archive(path)
                return self._archives[path], file[at + 5 :]
        return None, file


def _hint(path: Path) -> str:
    """Names a file beside a missing one whose name differs only by case or by its ending."""
    try:
        beside = sorted(os.listdir(path.parent))
    except OSError:
        return ""
    if same := [name for name in beside if name.lower() == path.name.lower()]:
        return f" (there is {same[0]}: upper and lower case differ)"
    other = [name for name in beside if Path(name).stem == path.name]
    return f" (there is {other[0]}: add the ending)" if other else ""
