"""Ending a run early: a wish that any thread may express, and a watcher that sees to it when the training thread can't.

Python runs signal handlers between bytecodes of the main thread, so a signal during a 40-second compiled step would be heard
after it. The C-level handler writes to a pipe at once, though, and a thread reads it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from ctkeras import runtime

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 4.0  # seconds for the training thread to come to a step's end; ending takes up to 10 more, W&B kills after 30


class Stop:
    """A wish to stop, read between steps; `reason` is empty until `ask`."""

    def __init__(self) -> None:
        self.reason = ""
        self.done = threading.Event()  # set by whoever ends the run
        self._asked = threading.Event()

    def ask(self, reason: str) -> None:
        """Expresses the wish; the first reason stays."""
        if not self._asked.is_set():
            self.reason = reason
            self._asked.set()

    def end(self) -> None:
        """Says that the run has ended, so that nobody need wait any longer."""
        self.done.set()
        self._asked.set()

    def wait(self) -> bool:
        """Returns once somebody has asked or the run has ended, and whether it still goes on."""
        self._asked.wait()
        return not self.done.is_set()


@contextlib.contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop, at once, even while the main thread computes. For the main thread alone."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    earlier_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(reader, 1)[0:1]:
            if number == b"\0":
                return
            name = signal.Signals(number[0]).name
            runtime.note(f"\n{name}: stopping soon; the best epoch so far, if one has ended, is kept.")
            stop.ask(name.lower())

    listener = threading.Thread(target=listen, daemon=True, name="signals")
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        listener.join()
        os.close(reader)
        os.close(writer)


def watch(stop: Stop, finish: Callable[[], None]) -> None:
    """Starts a thread that calls `finish` when GRACE has passed since a wish to stop; `finish` must bear a second caller.

    Args:
        stop: the wish.
        finish: ends the run; called from that thread while the training thread may still compute.
    """

    def wait() -> None:
        if stop.wait() and not stop.done.wait(GRACE):
            finish()

    threading.Thread(target=wait, daemon=True, name="stop watcher").start()
