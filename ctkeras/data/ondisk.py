"""Images that need not fit into memory: written one by one, and selected and joined without copying them."""

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_HELD = 256 * 2**20  # bytes that are read before their pages are given back


class Rows:
    """Rows of memory-mapped arrays, in an order of their own; only what is asked for is read.

    Indices, masks and slices read images and give arrays, as for an array. `select` reads nothing.
    """

    def __init__(self, parts: tuple[np.ndarray, ...], which: np.ndarray) -> None:
        """Takes rows of parts.

        Args:
            parts: arrays that differ in length only.
            which: int [N], numbers of rows, counted through all parts.
        """
        self._parts, self._which = parts, which
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape, self.dtype = (len(which), *parts[0].shape[1:]), parts[0].dtype
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize
        self._read = 0  # bytes since pages were given back

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = self._which[key]
        if np.ndim(rows) == 0:
            number = int(np.searchsorted(self._starts, rows, side="right")) - 1
            self._count(self.nbytes // len(self._which))
            return self._parts[number][rows - self._starts[number]]
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for part, start, stop in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            inside = (rows >= start) & (rows < stop)
            found[inside] = part[rows[inside] - start]
        self._count(found.nbytes)
        return found

    def _count(self, read: int) -> None:
        """Gives back the pages that were read, once they are many: they count as this process's memory. None is lost."""
        self._read += read
        if self._read <= _HELD:
            return
        self._read = 0
        for part in self._parts:
            mapped = getattr(part, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self[:]
        return array if dtype is None else array.astype(dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def select(self, key: np.ndarray) -> "Rows":
        """The rows that a mask bool [N], or indices, name."""
        return Rows(self._parts, self._which[key])

    def also(self, other: "Rows") -> "Rows":
        """These rows and then others."""
        return Rows((*self._parts, *other._parts), np.concatenate([self._which, other._which + self._starts[-1]]))


def select(images: Any, key: np.ndarray) -> Any:
    """The images that a mask bool [N], or indices, name: of an array in memory a copy, otherwise Rows."""
    return _rows(images).select(key) if _on_disk(images) else images[key]


def joined(first: Any, second: Any) -> Any:
    """Images of two splits, one after the other: of arrays in memory a copy, otherwise Rows."""
    if _on_disk(first) or _on_disk(second):
        return _rows(first).also(_rows(second))
    return np.concatenate([first, second])


def _on_disk(images: Any) -> bool:
    return isinstance(images, Rows | np.memmap)


def _rows(images: Any) -> Rows:
    return images if isinstance(images, Rows) else Rows((images,), np.arange(len(images)))


class Scratch:
    """An array that is filled row by row in a file, whatever the order; the file is deleted in the end."""

    def __init__(self, path: Path, count: int) -> None:
        """Opens the file; `count` is the number of rows."""
        self._path, self._count, self._row = path, count, np.zeros(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "wb")  # noqa: SIM115 (closed by array, or at the end of `scratch`)

    def put(self, number: int, row: np.ndarray) -> None:
        """Writes a row; all have one shape."""
        self._row = row
        self._file.seek(number * row.nbytes)
        self._file.write(np.ascontiguousarray(row).data)

    def array(self) -> np.ndarray:
        """The rows, memory-mapped."""
        self._file.close()
        return np.memmap(self._path, self._row.dtype, "r", shape=(self._count, *self._row.shape))

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(folder: Path, names: tuple[str, ...], count: int) -> Iterator[tuple[Scratch, ...]]:
    """Yields an array per name, of `count` rows each, in files that are deleted in the end."""
    made = tuple(Scratch(folder / f".{name}.{os.getpid()}.rows", count) for name in names)
    try:
        yield made
    finally:
        for one in made:
            one.close()
