"""The error that the command line reports in one line, and the hint at its end."""

import difflib
from collections.abc import Collection
from typing import Any


class UserError(ValueError):
    """A mistake that the user can correct: the CLI prints the message on one line and exits with 2."""


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """The end of an error message, '; did you mean …?'; '' if no known word is similar."""
    similar = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
