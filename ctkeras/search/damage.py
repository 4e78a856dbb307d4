"""What a database's error means: damage that no waiting heals, or a connection that comes back."""

import contextlib
from pathlib import Path

from ctkeras.errors import UserError

BUSY_SECONDS = 120  # how long a writer of SQLite waits for the others, each of which takes milliseconds
# What SQLite says of a file that no waiting heals, and what to do about it.
HOPELESS = {
    "malformed": "the file is damaged; restore a copy of it, or move it away to start the search again (run folders stay)",
    "not a database": "the file is damaged; restore a copy of it, or move it away to start the search again (run folders stay)",
    "disk is full": "free some space there, or name another --storage; the trials wait for the next command",
    "disk I/O error": "check the disk and its free space, or name another --storage; the trials wait for the next command",
}


def hopeless(error: BaseException) -> str:
    """What to do about an error of a database that no waiting heals; '' for any other."""
    text = f"{error.__cause__ or ''} {error}"
    return next((advice for words, advice in HOPELESS.items() if words in text), "")


def dropped(error: BaseException) -> bool:
    """Whether a server closed a connection that it had accepted, or is starting up or shutting down."""
    causes = [error, error.__cause__, getattr(error, "orig", None), getattr(error.__cause__, "orig", None)]
    if any(getattr(cause, "connection_invalidated", False) for cause in causes):
        return True
    text = " ".join(str(cause) for cause in causes)
    return any(
        words in text for words in ("starting up", "shutting down", "closed the connection", "terminating connection")
    )


def check_inside(file: Path) -> None:
    """Refuses a SQLite file that is damaged inside, which would otherwise show as an outage of the database."""
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:  # it is busy, or its folder is readable only: whoever uses it says so
        return
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise UserError(f"cannot use the storage {file}: {found.splitlines()[-1]}; {HOPELESS['malformed']}")
