"""All caches together: verified on request, and what they hold."""

from collections.abc import Iterator
from pathlib import Path

from ctkeras.runtime import console, files, programs, stored

DIGITS = 64  # of a key that is a SHA-256


def repair() -> str:
    """Verifies every file of the cache and moves damaged ones to quarantine; returns what was found, in one line."""
    root = files.cache_dir()
    paths = list(_sealed(root))
    bar, damaged = console.Bar("verifying the cache", max(1, len(paths))), []
    for done, path in enumerate(paths, start=1):
        bar.update(done)
        try:
            stored.check(path)
        except FileNotFoundError:  # another process has just deleted it
            continue
        except stored.Damaged as damage:
            damaged.append(damage)
    bar.close()
    for found in damaged:
        stored.quarantine(found)
    moved = f"{len(damaged)} damaged, now in {root / stored.QUARANTINE}" if damaged else "none is damaged"
    return f"{len(paths):,} files in {root}: {moved}"


def _sealed(root: Path) -> Iterator[Path]:
    """The files of the cache that have a checksum; entries of earlier versions, which had none, have other names."""
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        part, *inside = path.relative_to(root).parts
        if not path.is_file() or path.name.startswith(".") or path.suffix == ".lock" or not inside:
            continue
        if part in ("decoded", "looks", "audit"):
            sealed = inside[0].endswith(f"-f{stored.FORMAT}")
        elif part in ("features", "listings", "proved", "kernels", "starts", "costs"):
            sealed = len(path.stem) == DIGITS
        elif part == "epochs":
            sealed = path.suffix == ".npz"
        else:
            sealed = part == "patients" or (part == programs.PART and path.name.endswith(f"{programs.SUFFIX}-cache"))
        if sealed:
            yield path
