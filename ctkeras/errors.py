"""The error that the command line reports in one line, and the hint at its end."""

import difflib
from collections.abc import Collection
from typing import Any


class UserError(ValueError):
    """A mistake that the user can correct: the CLI prints the message on one line and exits with 2."""


class CannotWrite(UserError, OSError):
    """The system refuses to write a file: the disk is full, or the folder belongs to someone else.

    It is an OSError too, so that code which knows the option to change can say so. A search stops at it, and its trials wait.
    """

    def __str__(self) -> str:
        return str(self.args[0])  # OSError would show the number and the path again


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """The end of an error message, '; did you mean …?'; '' if no known word is similar."""
    similar = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
