"""The storage of trials: SQLite, a journal or PostgreSQL, opened for Optuna, with one lock for all who share it."""

import contextlib
import dataclasses
import hashlib
import re
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy

from ctkeras.errors import UserError
from ctkeras.runtime import console, lease, locks, mounts
from ctkeras.search import damage, heartbeat, journal

FILE = "study.db"  # in output_dir, by default
PAUSE_SECONDS = 5.0  # between two attempts to reach a database
OUTAGE_SECONDS = 300.0  # how long to wait for a database that cannot be reached; a server restarts in less
CONNECT_SECONDS = 10  # to reach a PostgreSQL server
PASSWORD_KEYS = ("password", "passwd", "pwd", "sslpassword")
_PASSWORD = re.compile(r"(://[^:/@\s]*:)([^\s]*)(@)")
_PASSWORD_KEY = re.compile(rf"([?&](?:{'|'.join(PASSWORD_KEYS)})=)([^&\s]*)", re.IGNORECASE)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Storage:
    """An open storage."""

    url: sqlalchemy.URL
    shown: str  # the address without the password
    trials: optuna.storages.BaseStorage
    engine: sqlalchemy.Engine | None  # of a database
    file: Path | None  # of SQLite, or the journal

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lets one process at a time, of all that share the storage on any machine, do the work under it."""
        if self.file is not None:
            journal_lock = self.file.with_name(f"{self.file.name}.claims")
            with lease.hold(journal_lock) if self.engine is None else locks.hold(lock_file(self.file)):
                yield
            return
        assert self.engine is not None
        with _advisory_lock(self.engine, name):
            yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Writes the operations of the block at once where that is one write; raises what they raise at its end."""
        if not isinstance(self.trials, optuna.storages.JournalStorage):
            yield
            return
        assert isinstance(self.trials._backend, journal.Journal)
        with self.trials._backend.together():
            yield
        self.trials.get_all_studies()  # reads them back

    @property
    def sparing(self) -> bool:
        """Whether to write only what other processes need: a journal is read whole by every process that opens it."""
        return self.engine is None

    @property
    def beat_seconds(self) -> float:
        """Between two heartbeats of a trial."""
        return journal.BEAT_SECONDS if self.sparing else heartbeat.BEAT_SECONDS

    @property
    def silent_seconds(self) -> float:
        """Without a heartbeat for this long, a holder on another machine is considered dead."""
        return journal.SILENT_SECONDS if self.sparing else heartbeat.SILENT_SECONDS

    def close(self) -> None:
        """Closes the connections; SQLite then merges its write-ahead log into the file."""
        self.trials.remove_session()
        if self.engine is not None:
            self.engine.dispose()


def address(given: str, output_dir: str) -> sqlalchemy.URL:
    """The SQLAlchemy address of the storage.

    Args:
        given: an address, the path of a SQLite file, or '' for study.db in output_dir.
        output_dir: the folder of the run folders.

    Raises:
        UserError: a kind of database that is not supported.
    """
    if given.startswith(journal.PREFIX) and given.removeprefix(journal.PREFIX).strip("/"):
        path = Path(given.removeprefix(journal.PREFIX)).expanduser()
        return sqlalchemy.URL.create("journal", database=str(path))
    if "://" not in given:
        return sqlalchemy.URL.create("sqlite", database=str(Path(given or Path(output_dir) / FILE).expanduser()))
    try:
        url = sqlalchemy.make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    if url is not None and url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url is not None and url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    raise UserError(
        f"--storage takes a file, sqlite:///FILE, journal:FILE or postgresql://USER@HOST/DATABASE; got {masked(given)}"
    )


def masked(text: str) -> str:
    """A text with the passwords of all addresses in it replaced by ***."""
    return _PASSWORD_KEY.sub(r"\1***", _PASSWORD.sub(r"\1***\3", text))


def open_storage(url: sqlalchemy.URL, *, create: bool = True) -> Storage:
    """Opens a storage, and creates it first if it does not exist.

    Args:
        url: from `address`.
        create: False refuses a file that does not exist.

    Raises:
        UserError: the file or the driver is missing, the database cannot be reached, or another version of Optuna made it. The
            message never shows a password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if url.drivername == "journal":
        path = Path(str(url.database))
        return Storage(url, shown(url), journal.open_journal(path, create=create), None, path)
    file = Path(str(url.database)) if url.drivername == "sqlite" else None
    if file is not None:
        _check_file(file, create=create)
    options = _sqlite_options(file) if file else _postgres_options()
    text = "sqlite:///" if file else url.render_as_string(hide_password=False)

    def opened() -> optuna.storages.RDBStorage:
        with _table_lock(url, options, file) if create else contextlib.nullcontext():
            return optuna.storages.RDBStorage(
                text.replace("{", "{{").replace("}", "}}"), options, skip_table_creation=not create
            )

    with faults(url):
        backend = _patiently(opened, url)
    return Storage(url, shown(url), optuna.storages.get_storage(backend), backend.engine, file)


def _patiently(opened: Callable[[], T], url: sqlalchemy.URL) -> T:
    """Repeats what opens a storage while its server drops the connection, as one does that restarts.

    A server that cannot be reached at all, or refuses the user, is an error at once: the address may be wrong.
    """
    begun = time.monotonic()
    reported = False
    while True:
        try:
            return opened()
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError) as error:
            if not (reported or damage.dropped(error)) or time.monotonic() - begun > OUTAGE_SECONDS:
                raise
            if not reported:
                reason = scrubbed(" ".join(str(error.__cause__ or error).split())[:160], url)
                console.note(f"The storage {shown(url)} dropped the connection ({reason}); trying again …")
            reported = True
            time.sleep(PAUSE_SECONDS)


@contextlib.contextmanager
def faults(url: sqlalchemy.URL) -> Iterator[None]:
    """Turns a database's error into one line without the password; the original is dropped because it may contain it."""
    try:
        yield
    except ImportError:
        problem = "PostgreSQL needs psycopg: python -m pip install 'ctkeras[postgres]'"
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.OptunaError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:
        text = " ".join(str(error.__cause__ or error).split()).partition("(Background on")[0]
        advice = f"; {damage.hopeless(error)}" if damage.hopeless(error) else ""
        problem = f"cannot use the storage {shown(url)}: {scrubbed(text, url)[:300].strip()}{advice}"
    else:
        return
    raise UserError(problem) from None


def shown(url: sqlalchemy.URL) -> str:
    """An address to show to people, without the password."""
    if url.drivername == "journal":
        return f"{journal.PREFIX}{url.database}"
    if url.drivername == "sqlite":
        return f"sqlite:///{url.database}"
    return masked(url.set(drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=True))


def scrubbed(text: str, url: sqlalchemy.URL) -> str:
    """A text without the password of an address, in whatever form the password appears in it."""
    secrets = [url.password, *(url.query.get(key) for key in PASSWORD_KEYS)]
    for secret in (str(secret) for secret in secrets if secret):
        for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)):
            text = text.replace(form, "***")
    return masked(text)


def _check_file(file: Path, *, create: bool) -> None:
    """Refuses a file that cannot be a SQLite storage, before anything is written."""
    if create and (kind := mounts.shared(file.parent)):
        beside = file.with_name(journal.FILE)
        raise UserError(
            f"SQLite is not safe on {kind}, which machines may share ({file}); use --storage {journal.PREFIX}{beside}"
        )
    try:
        if not create and not file.is_file():
            raise UserError(f"there is no file {file}; a search stores its trials in {FILE} in its output_dir")
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size:
            with open(file, "rb") as stream:
                if stream.read(15) != b"SQLite format 3":
                    raise UserError(f"{file} is not a SQLite file; pass another --storage")
            damage.check_inside(file)
    except OSError as error:
        raise UserError(f"cannot use {file}: {error.strerror or error}") from error


def lock_file(file: Path) -> Path:
    """The lock of a SQLite file."""
    return file.with_name(f".{file.name}.lock")


def _sqlite_options(file: Path) -> dict[str, Any]:
    """Options of a SQLite engine: writers wait for each other, and a commit does not wait for the disk."""
    import sqlite3

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=damage.BUSY_SECONDS, check_same_thread=False)
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            connection.execute("PRAGMA synchronous=NORMAL")  # only a power cut loses commits then, and it damages none
        return connection

    return {"creator": connect}


def _postgres_options() -> dict[str, Any]:
    """Options of a PostgreSQL engine: a connection that a restarted server has dropped is replaced."""
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}


@contextlib.contextmanager
def _table_lock(url: sqlalchemy.URL, options: dict[str, Any], file: Path | None) -> Iterator[None]:
    """Lets one process at a time create the tables: Optuna fails if another process creates them meanwhile."""
    engine = sqlalchemy.create_engine(url, **options)
    try:
        with locks.hold(lock_file(file)) if file else _advisory_lock(engine, "tables"):
            if file:
                with engine.connect() as connection:
                    # With a write-ahead log, if the file system allows it, readers and the writer do not wait for each other.
                    connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))
            yield
    finally:
        engine.dispose()


@contextlib.contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """A lock in PostgreSQL; the server releases it if the connection breaks."""
    key = int.from_bytes(hashlib.sha256(f"ctkeras {name}".encode()).digest()[:8], "big", signed=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": key})
