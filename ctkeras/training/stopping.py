"""Ending a run early: a request that any thread may make, and a thread that ends the run when the training thread cannot.

Python runs signal handlers between bytecodes of the main thread, so a signal during a 40-second compiled step would be handled
after it. The C-level handler writes to a pipe at once, though, and a thread reads it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from ctkeras.runtime import console

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last when the terminal is closed
GRACE = 4.0  # seconds for the training thread to finish a step; ending takes up to 10 more, and W&B kills after 30


class Stop:
    """A request to stop, read between steps; `reason` is empty until `ask`."""

    def __init__(self) -> None:
        self.reason = ""
        self.done = threading.Event()  # set by whoever ends the run
        self._asked = threading.Event()

    def ask(self, reason: str) -> None:
        """Requests a stop; the first reason stays."""
        if not self._asked.is_set():
            self.reason = reason
            self._asked.set()

    def end(self) -> None:
        """Records that the run has ended, so that no thread waits any longer."""
        self.done.set()
        self._asked.set()

    def wait(self) -> bool:
        """Waits for a request or the run's end; returns whether the run continues."""
        self._asked.wait()
        return not self.done.is_set()


def heeded() -> list[signal.Signals]:
    """The signals that ask to stop; without SIGHUP under nohup, which ignores it so that a command outlives its terminal."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


@contextlib.contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP ask to stop, at once, even while the main thread computes. Call it from the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in heeded()}
    earlier_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(reader, 1)[0:1]:
            if number == b"\0":
                return
            name = signal.Signals(number[0]).name
            console.note(f"\n{name}: stopping soon; the best epoch so far, if one has ended, is exported.")
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
    """Starts a thread that calls `finish` GRACE seconds after a request to stop; `finish` may be called twice.

    Args:
        stop: the request.
        finish: ends the run; called from that thread while the training thread may still compute.
    """

    def wait() -> None:
        if stop.wait() and not stop.done.wait(GRACE):
            finish()

    threading.Thread(target=wait, daemon=True, name="stop watcher").start()
