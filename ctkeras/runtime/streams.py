"""Standard output and error that a closed pipe, a full disk or a file name with terminal escapes cannot turn against a run."""

import contextlib
import io
import os
import re
import sys

# Sequences that this program and its libraries write themselves: clearing a line or the screen, and colours.
OWN = re.compile(r"\x1b\[(?:2K|2J|1;1H|[\d;]*m)|[\n\t]")


def shown(text: str) -> str:
    """Text as it may go to a terminal or a log: control characters, which could move the cursor or worse, become visible."""
    if text.isprintable():
        return text
    parts, start = [], 0
    if text.startswith("\r"):  # of a progress bar, which overwrites its line
        parts, start = ["\r"], 1
    for own in OWN.finditer(text, start):
        parts += [_visible(text[start : own.start()]), own[0]]
        start = own.end()
    return "".join([*parts, _visible(text[start:])])


def _visible(text: str) -> str:
    """Text with each character that is not printable in the form that Python shows it in."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class Stream(io.TextIOWrapper):
    """A standard stream. What cannot be written any more, as into a closed pipe, is dropped: the files are what counts."""

    def write(self, text: str) -> int:
        """Writes text, its control characters shown."""
        with contextlib.suppress(ValueError):  # closed
            try:
                super().write(shown(text))
                if "\n" in text or self.isatty():
                    super().flush()
            except OSError:
                self._drop()
        return len(text)

    def flush(self) -> None:
        """Writes what waits."""
        with contextlib.suppress(ValueError):
            try:
                super().flush()
            except OSError:
                self._drop()

    def _drop(self) -> None:
        """Sends this and all that follows nowhere, for native code that writes to the same descriptor too."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        with contextlib.suppress(OSError):
            super().flush()


def install() -> None:
    """Puts such streams in the place of standard output and error; no file gets a closed one's number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        encoding = getattr(before, "encoding", None) or "utf-8"
        if isinstance(before, Stream):
            continue
        binary = before.detach() if before is not None else os.fdopen(1 + (name == "stderr"), "wb", closefd=False)
        stream = Stream(binary, encoding, errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
