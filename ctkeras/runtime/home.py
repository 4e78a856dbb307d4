"""A home folder that cannot be written, or a user without a name, as in containers and on clusters: what takes their place."""

import getpass
import os
import stat
import tempfile
from pathlib import Path

from ctkeras.errors import UserError


def instead_of(folder: Path) -> Path:
    """A cache folder of this user's in the folder for temporary files; it becomes CTKERAS_CACHE_DIR of this process's children.

    Args:
        folder: the usual one, which cannot be written.

    Raises:
        UserError: the folder there belongs to somebody else, who could put other data into it, or cannot be created.
    """
    from ctkeras.runtime import console

    temporary_files()
    place = Path(tempfile.gettempdir(), f"ctkeras-{os.getuid()}")
    advice = "set CTKERAS_CACHE_DIR to a folder that you can write"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written, nor {place} ({error.strerror}); {advice}"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(f"the cache folder {folder} cannot be written, and {place} is not only yours; {advice}")
    console.note(
        f"The cache folder {folder} cannot be written; caching in {place} instead (CTKERAS_CACHE_DIR chooses)."
    )
    os.environ["CTKERAS_CACHE_DIR"] = str(place)
    return place


def temporary_files() -> None:
    """Lets TMPDIR name a folder that can be written: Python looks for another one by itself, other programs do not.

    Raises:
        UserError: there is none.
    """
    try:
        if os.environ.get("TMPDIR"):
            os.environ["TMPDIR"] = tempfile.gettempdir()
    except OSError as error:
        raise UserError("no folder for temporary files can be written; set TMPDIR to one that can") from error


def named_user() -> None:
    """Names a user whom the system does not know, as containers run: JAX then caches no program, with a warning for each."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["USER"] = f"uid-{os.getuid()}"
