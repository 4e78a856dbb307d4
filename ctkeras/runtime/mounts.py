"""Which file system a folder is on: some are shared between machines, where SQLite and the system's locks cannot be trusted."""

import functools
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
SHARED = re.compile(
    r"(nfs\d*|lustre|gpfs|cifs|smb3|smbfs|beegfs|ceph|glusterfs|afs|pvfs2|fuse|fuse\..+)"
)  # types in MOUNTS


def shared(path: Path) -> str:
    """The type of the file system that holds a path, such as nfs4, if machines may share it; '' if it is local or unknown.

    Args:
        path: a file or folder, which need not exist yet.
    """
    place, kind = path.expanduser().resolve(), ""
    longest = -1
    for folder, type_ in _table(MOUNTS):
        if place.is_relative_to(folder) and len(folder.parts) >= longest:  # of equal ones the later mount is on top
            longest, kind = len(folder.parts), type_
    return kind if SHARED.fullmatch(kind) else ""


@functools.lru_cache(1)
def _table(mounts: Path) -> list[tuple[Path, str]]:
    """Mount points and types; a space in them is written as its octal code."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    rows = [line.split() for line in lines]
    return [(Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), row[1])), row[2]) for row in rows if len(row) > 2]
