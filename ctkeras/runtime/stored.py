"""Arrays, JSON and bytes kept between runs, each with a checksum that is verified when it is opened.

A file that is missing or damaged is made again, and a damaged one moves to quarantine first: a cache never ends a command,
and never changes a number. The checksum is XXH3 of 128 bits (https://xxhash.com), over everything in the file, because CRC-32
takes six times as long.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import xxhash

from ctkeras.runtime import console, files, locks

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # of all files here; part of every key, so that another format has other names
QUARANTINE = "quarantine"  # in the cache folder
QUARANTINE_BYTES = 2**30  # bytes of damaged files that stay; the oldest are deleted first
_BLOCK = 2**20  # bytes read at once; they fit a core's cache
_MAGIC = b"ctkeras1"  # its last letter is FORMAT
_SEAL_BYTES = len(_MAGIC) + 8 + 16  # magic, length of what is before it, checksum of that
_JSON_START = f'{{"format": {FORMAT}, "xxh3_128": "'
_JSON_MIDDLE = '", "content": '

T = TypeVar("T")


class Damaged(Exception):
    """A stored file whose content is not what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged ({reason})")
        self.path, self.reason = path, reason


def reuse(read: Callable[[], T], make: Callable[[], object], *, lock: Path, waiting: str = "") -> T:
    """Returns what `read` finds in the cache; if it is missing or damaged, one process makes it and others wait.

    Args:
        read: raises Damaged or FileNotFoundError.
        make: writes what `read` reads.
        lock: the lock file.
        waiting: as for locks.hold.
    """
    with contextlib.suppress(Damaged, FileNotFoundError):
        return read()
    with locks.hold(lock, waiting=waiting):
        try:
            return read()
        except FileNotFoundError:
            pass
        except Damaged as damaged:
            quarantine(damaged)
        make()
        return read()


def quarantine(damaged: Damaged) -> None:
    """Moves a damaged file to the quarantine in the cache folder, and prints a line.

    Raises:
        CannotWrite: the file can be neither moved nor deleted.
    """
    path = damaged.path
    place = files.cache_dir(QUARANTINE)
    target = place / f"{time.strftime('%Y%m%d-%H%M%S')}-{path.parent.name}-{path.name}"[-200:]
    try:
        place.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        console.note(f"{path} was damaged ({damaged.reason}) and is now {target}; it is made again when needed.")
        files.bound(place, QUARANTINE_BYTES, keep=target)
    except OSError:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.cannot_write(path, error.errno or 0) from error
        console.note(f"{path} was damaged ({damaged.reason}) and is deleted; it is made again when needed.")


def write_array(path: Path, array: "np.ndarray") -> None:
    """Writes an array atomically, as .npy with a seal behind it, which numpy ignores.

    Args:
        path: ends in .npy.
        array: of any shape and any type but object.

    Raises:
        CannotWrite: the disk is full, or the folder cannot be written to.
    """
    import numpy as np

    with files.atomic(path) as partial, open(partial, "wb") as file:
        hashing = _Hashing(file)
        np.lib.format.write_array(hashing, np.asanyarray(array), allow_pickle=False)
        file.write(_seal(hashing.length, hashing.state.digest()))


def read_array(path: Path) -> "np.ndarray":
    """Returns an array that write_array wrote, memory-mapped, after verifying it.

    Raises:
        Damaged: it is not what was written.
        FileNotFoundError: there is no such file.
    """
    import numpy as np

    with _as_damage(path):
        _verify(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def write_json(path: Path, content: Any) -> None:
    """Writes a value as JSON, atomically: an object with format, checksum and content.

    Raises:
        CannotWrite: the disk is full, or the folder cannot be written to.
    """
    text = json.dumps(content)
    digest = xxhash.xxh3_128_hexdigest(text.encode())
    with files.atomic(path) as partial:
        partial.write_text(f"{_JSON_START}{digest}{_JSON_MIDDLE}{text}}}\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns a value that write_json wrote, after verifying it.

    Raises:
        Damaged: it is not what was written.
        FileNotFoundError: there is no such file.
    """
    with _as_damage(path):
        whole = path.read_bytes()
        start = len(_JSON_START) + 32 + len(_JSON_MIDDLE)
        text, end = whole[start:-2], whole[-2:]
        digest = xxhash.xxh3_128_hexdigest(text)
        if whole[:start] != f"{_JSON_START}{digest}{_JSON_MIDDLE}".encode() or end != b"}\n":
            raise ValueError("wrong checksum")
        return json.loads(text)


def find_json(path: Path) -> Any:
    """Returns a value that write_json wrote; None if it is not there, and after a damaged file has moved to quarantine."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except Damaged as damaged:
        quarantine(damaged)
        return None


def checksum(content: Any) -> str:
    """The checksum of a value that JSON can hold."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def sealed(content: bytes) -> bytes:
    """Content followed by its seal."""
    return content + _seal(len(content), xxhash.xxh3_128_digest(content))


def unsealed(whole: bytes) -> bytes:
    """The content of what `sealed` returned.

    Raises:
        ValueError: it is damaged.
    """
    content, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    if seal != _seal(len(content), xxhash.xxh3_128_digest(content)):
        raise ValueError("wrong checksum")
    return content


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes bytes and their seal, atomically; `durable` as for files.atomic."""
    with files.atomic(path, durable=durable) as partial:
        partial.write_bytes(sealed(content))


def read_bytes(path: Path) -> bytes:
    """Returns what write_bytes wrote, after verifying it.

    Raises:
        Damaged: it is not what was written.
        FileNotFoundError: there is no such file.
    """
    with _as_damage(path):
        return unsealed(path.read_bytes())


def vouch(path: Path) -> None:
    """Writes the checksum of a file that other programs read, such as a page, into a JSON file beside it."""
    write_json(_voucher(path), xxhash.xxh3_128_hexdigest(path.read_bytes()))


def is_whole(path: Path) -> bool:
    """Whether a file is there and as it was when `vouch` was called; a damaged one moves to quarantine."""
    try:
        if read_json(_voucher(path)) == xxhash.xxh3_128_hexdigest(path.read_bytes()):
            return True
        quarantine(Damaged(path, "wrong checksum"))
    except FileNotFoundError:
        pass
    except Damaged as damaged:
        quarantine(damaged)
    return False


def _voucher(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def check(path: Path) -> None:
    """Verifies one file of the cache, whichever of the functions above wrote it.

    Raises:
        Damaged: it is not what was written.
    """
    if path.suffix == ".json":
        read_json(path)
    elif _voucher(path).exists():
        if read_json(_voucher(path)) != xxhash.xxh3_128_hexdigest(path.read_bytes()):
            raise Damaged(path, "wrong checksum")
    else:
        with _as_damage(path):
            _verify(path)


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file, or a failing disk, raises into Damaged; a missing file stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise Damaged(path, getattr(error, "strerror", None) or str(error)) from error


def _verify(path: Path) -> None:
    """Compares a sealed file with its seal, in blocks."""
    with open(path, "rb", buffering=0) as file:
        left = file.seek(0, os.SEEK_END) - _SEAL_BYTES
        if left < 0:
            raise ValueError("cut short")
        length = left
        state, block = xxhash.xxh3_128(), memoryview(bytearray(min(_BLOCK, max(left, 1))))
        file.seek(0)
        while left:
            count = file.readinto(block[: min(left, len(block))])
            if not count:
                raise ValueError("cut short")
            state.update(block[:count])
            left -= count
        if file.read(_SEAL_BYTES) != _seal(length, state.digest()):
            raise ValueError("wrong checksum")


def _seal(length: int, digest: bytes) -> bytes:
    return _MAGIC + length.to_bytes(8, "little") + digest


class _Hashing(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.state, self.length = file, xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        """Writes bytes."""
        self.state.update(data)
        self.length += len(data)
        return self.file.write(data)
