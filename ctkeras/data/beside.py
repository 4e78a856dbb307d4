"""What lies beside a table: the files and folders that its rows name, also in zips there that the rows do not name."""

import os
from pathlib import Path, PurePosixPath

from ctkeras.data import catalog
from ctkeras.data.accounts import Account
from ctkeras.data.archive import Archive, one_form
from ctkeras.data.located import Located


class Beside(Located):
    """Finds the files of a table."""

    def __init__(self, folder: Path) -> None:
        """Remembers the table's folder."""
        super().__init__(folder)
        self._zips: list[str] | None = None

    def place(self, file: str) -> str:
        """Where a file is: at its path, or inside a zip beside the table, as ARCHIVE.zip/inside.png.

        Raises:
            UserError: a zip beside the table is damaged.
        """
        if os.path.isabs(file) or self.inside(file) is not None or (self.folder / file).exists():
            return file
        for name, archive in self._archives_beside():
            if one_form(file) in archive.members:
                return f"{name}/{one_form(file)}"
        return file

    def images_in(self, folder: str, account: Account) -> list[str] | None:
        """The files in a folder and those below it that may be images; None if it is not a folder.

        Args:
            folder: below the table's folder, absolute, or inside a zip.
            account: counts the files that are not read.
        """
        at = self.folder / folder
        if at.is_dir():
            places, _ = catalog.walk(at, account)
            return sorted(str(PurePosixPath(folder) / place) for place in places)
        archive, within = self._archive(f"{folder}/")
        if archive is None and at.exists():
            return None
        zips = (
            self._archives_beside() if archive is None else [(folder[: len(folder) - len(within)].strip("/"), archive)]
        )
        inside = one_form((folder if archive is None else within).strip("/"))
        for name, zipped in zips:
            if inside in zipped.members:
                return None
            below = sorted(member for member in zipped.members if not inside or member.startswith(f"{inside}/"))
            if below:
                left_out = {member: catalog.why_not(member) for member in below}
                for member, reason in left_out.items():
                    account.leave_out(reason, f"{name}/{member}", int(bool(reason)))
                return [f"{name}/{member}" for member in below if not left_out[member]]
        return None

    def _archives_beside(self) -> list[tuple[str, Archive]]:
        """The zips in the table's folder, opened, by name."""
        if self._zips is None:
            names = os.listdir(self.folder) if self.folder.is_dir() else []
            self._zips = sorted(
                name for name in names if name.lower().endswith(".zip") and (self.folder / name).is_file()
            )
        return [(name, archive) for name in self._zips if (archive := self.inside(f"{name}/")) is not None]
