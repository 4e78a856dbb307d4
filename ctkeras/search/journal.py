"""Trials in a journal, a text file in a shared folder that many machines append to, in Optuna's format."""

import contextlib
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ctkeras.errors import UserError
from ctkeras.runtime import lease

FILE = "study.log"  # in output_dir
PREFIX = "journal:"
BEAT_SECONDS = 60.0  # between two heartbeats of a trial: each is a write to the shared folder
SILENT_SECONDS = 200.0  # three are missing


class Journal(JournalFileBackend):
    """Optuna's file of operations, which survives killed writers and writes at once what belongs together.

    Optuna's own backend appends to the remains of a line whose writer was killed, and no process can read the journal then.
    Its locks are broken by whoever waits longest, so two waiters may both get in. The format of the file is unchanged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[dict[str, Any]] | None = None  # operations that wait to be written together
        self.ends = {0: 0}  # by number of operations: where they end in the file, in bytes
        file.touch()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The operations from a number on; a last line without an end is not one yet."""
        number, place = log_number_from, self.ends.get(log_number_from)
        if place is None:
            number, place = 0, 0
        with open(self.file, "rb") as stream:
            stream.seek(place)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                place += len(line)
                operation = _operation(line)
                if operation is None:
                    continue
                number += 1
                self.ends[number] = place
                if number > log_number_from:
                    yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends operations, or keeps them for the end of `together`."""
        if self.lines is not None:
            self.lines += logs
            return
        with lease.hold(self.file.with_name(f"{self.file.name}.lock")), open(self.file, "r+b") as stream:
            stream.seek(_sound_end(stream))
            stream.truncate()
            stream.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
            stream.flush()
            os.fsync(stream.fileno())

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Writes the operations of the block in one write; if it fails, none of them."""
        self.lines = []
        try:
            yield
            lines = self.lines
        finally:
            self.lines = None
        if lines:
            self.append_logs(lines)


def _operation(line: bytes) -> dict[str, Any] | None:
    """A line's operation; None if a disk or server has damaged it: the run folders still show what the trial did."""
    try:
        operation = json.loads(line)
    except ValueError:
        return None
    return operation if isinstance(operation, dict) and "op_code" in operation else None


def _sound_end(stream: Any) -> int:
    """Where the last whole line ends: what follows is of a writer that was killed."""
    place: int = stream.seek(0, os.SEEK_END)
    while place > 0:
        begin = max(0, place - 65536)
        stream.seek(begin)
        newline = stream.read(place - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        place = begin
    return 0


def open_journal(file: Path, *, create: bool) -> JournalStorage:
    """Opens a journal.

    Args:
        file: its path.
        create: False refuses a file that does not exist.

    Raises:
        UserError: there is no such file, it cannot be read or written, or it is not a journal.
    """
    try:
        if not create and not file.is_file():
            raise UserError(f"there is no file {file}; a search with --storage {PREFIX}{file} would create it")
        file.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(file)
        with open(file, "rb") as stream:
            line = stream.readline()
    except OSError as error:
        raise UserError(f"cannot use {file}: {error.strerror or error}") from error
    if line.endswith(b"\n") and _operation(line) is None:
        raise UserError(f"{file} is not a journal of trials; pass another --storage")
    return JournalStorage(journal)
