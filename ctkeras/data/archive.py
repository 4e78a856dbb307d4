"""Zip files as other systems write them: their names made one form, and nothing that points outside."""

import contextlib
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from ctkeras.errors import UserError
from ctkeras.runtime import archives

_UTF8 = 0x800  # bit 11 of a member's flags: its name is UTF-8 (APPNOTE.TXT 6.3.9, 4.4.4)
_ENCRYPTED = 1


class Archive:
    """An open zip: its members by the names that ctkeras shows, with / and composed accents."""

    def __init__(self, path: Path) -> None:
        """Opens a zip and reads its directory.

        Raises:
            UserError: it is not a zip, its directory is too large, or a member's name points outside or occurs twice.
        """
        self.path = path
        archives.require_bounded(path)
        try:
            self._file = zipfile.ZipFile(path)
            members = self._file.infolist()
        except Exception as error:  # a damaged zip also raises IndexError, UnicodeDecodeError, struct.error
            raise UserError(f"{path} is not a zip file ({error}); --data takes a zip or a folder") from error
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.folders: list[str] = []
        names = [member_name(member) for member in members]
        for name, member in zip(names, members, strict=True):
            _refuse_outside(name, member, path)
            if name.endswith("/"):
                self.folders.append(name)
            elif name:
                self.members[name] = member
        files = Counter(name for name in names if name and not name.endswith("/"))
        if repeated := next((name for name, count in files.items() if count > 1), None):
            raise UserError(f"{path} contains {repeated} twice; unpack it and pass the folder")

    def read(self, name: str, size: int = -1) -> bytes:
        """A member's bytes, or its first `size`; zipfile raises many types for a damaged one.

        Raises:
            KeyError: there is no such member.
            BadZipFile: it cannot be read safely.
        """
        member = self.members[name]
        if problem := archives.problem_of(member, largest=member.file_size):
            raise zipfile.BadZipFile(f"it {problem}")
        if size < 0:
            return self._file.read(member)
        with self._file.open(member) as file:
            return file.read(size)

    def is_encrypted(self, name: str) -> bool:
        """Whether a member needs a password."""
        return bool(self.members[name].flag_bits & _ENCRYPTED)

    def is_link(self, name: str) -> bool:
        """Whether a member is a symbolic link, whose content is a path."""
        return (self.members[name].external_attr >> 16) & 0o170000 == 0o120000

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def member_name(member: zipfile.ZipInfo) -> str:
    """A member's name with / and composed accents.

    Windows tools write backslashes. macOS writes UTF-8 without saying so, and accents as letters of their own.
    """
    name = member.filename
    if not member.flag_bits & _UTF8 and not name.isascii():
        with contextlib.suppress(UnicodeError):  # Python decoded it as cp437, as the format says, and it may be that
            name = name.encode("cp437").decode("utf-8")
    return one_form(name.replace("\\", "/"))


def one_form(name: str) -> str:
    """A name with composed accents (NFC), so that both ways of writing an accent are one name."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _refuse_outside(name: str, member: zipfile.ZipInfo, path: Path) -> None:
    """Refuses a zip with a name that leads out of the folder in which it would be unpacked."""
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if ".." in PurePosixPath(name).parts or name.startswith("/") or drive:
        raise UserError(
            f"{path} contains {member.orig_filename!r}, which points outside its folder; this zip is not safe to read"
        )
