"""Every file of a data set is accounted for: how many were read, and how many were left out, by reason."""

import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ctkeras.errors import UserError

SHOWN = 10  # unreadable images named in one message
NOT_A_SPLIT = "in a folder that is not a split"
NO_CLASS = "outside a class folder"
HIDDEN = "hidden"
LINK = "links inside a zip"
NOT_AN_IMAGE = "without an image inside"
UNREADABLE = "unreadable images"
_ADVICE = re.compile(r"; (remove|copy) [^;]*$")  # which an error about a single file ends with


class LeftOut(NamedTuple):
    """Files that are not read for one reason."""

    reason: str  # in words that follow a number
    files: int
    example: str  # one of them, inside the data set


class Account:
    """Counts the files of a data set that are not read, while it is listed."""

    def __init__(self) -> None:
        """Starts with none."""
        self.names_patients = False  # names of files may identify patients, as those of scans do
        self._counts: dict[str, list[Any]] = {}

    def leave_out(self, reason: str, example: str, files: int = 1, *, safe: bool = False) -> None:
        """Counts files.

        Args:
            reason: in words that follow a number, as in "hidden".
            example: one of the files, inside the data set.
            files: how many.
            safe: the example names no patient, even among scans.
        """
        if files:
            self._counts.setdefault(reason, [0, example, safe])[0] += files

    def left_out(self) -> tuple[LeftOut, ...]:
        """What was counted, the most frequent reason first; where names may identify patients, examples are endings."""
        rows = sorted(self._counts.items(), key=lambda item: (-item[1][0], item[0]))
        return tuple(
            LeftOut(reason, count, _mask(file) if self.names_patients and not safe else file)
            for reason, (count, file, safe) in rows
        )


def _mask(file: str) -> str:
    """A path without its names."""
    return f"…{PurePosixPath(file).suffix}" if file else ""


def words(left_out: tuple[LeftOut, ...]) -> str:
    """What was left out, in words; '' if nothing was.

    Example:
        >>> words((LeftOut("hidden", 2, "a/.DS_Store"),))
        '2 hidden (such as a/.DS_Store)'
    """
    return ", ".join(
        f"{row.files:,} {row.reason}{f' (such as {shown(row.example)})' if row.example else ''}" for row in left_out
    )


def shown(name: str, longest: int = 100) -> str:
    """A name on one line, and not longer than `longest` characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= longest else f"{text[: longest - 40]}…{text[-38:]}"


def sentence(images: int, left_out: tuple[LeftOut, ...]) -> str:
    """One line that accounts for every file.

    Args:
        images: number read; a file of several pages counts once per page.
        left_out: from Account.left_out.
    """
    total = sum(row.files for row in left_out)
    if not total:
        return f"{images:,} images read, no file left out"
    return f"{images:,} images read, {total:,} file{'s' if total > 1 else ''} left out: {words(left_out)}"


def unreadable(reasons: dict[str, str]) -> list[LeftOut]:
    """Images that cannot be read, as files left out.

    Args:
        reasons: file to reason.
    """
    return [LeftOut(UNREADABLE, len(reasons), next(iter(reasons)))] if reasons else []


def refusal(reasons: dict[str, str], *, images: int, path: str) -> UserError:
    """The error that ends training: all unreadable images at once, at most ten in words.

    Args:
        reasons: file to reason, with at least one.
        images: of the data set, readable or not.
        path: of the data set.
    """
    faults = "; ".join(_ADVICE.sub("", reason) for reason in list(reasons.values())[:SHOWN])
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return UserError(
        f"{len(reasons):,} of {images:,} images in {path} cannot be read: {shown(faults, SHOWN * 200)}{more}; remove "
        "these files, or copy or download them again (ctkeras data check --paths lists all, with their places)"
    )


def as_json(images: int, left_out: tuple[LeftOut, ...]) -> dict[str, Any]:
    """The same for programs: `images` and `left_out`, a list of `reason`, `files` and `example`."""
    return {"images": images, "left_out": [row._asdict() for row in left_out]}
