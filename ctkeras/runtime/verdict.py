"""Whether this jaxlib takes our XLA flag and computes the fast CPU layers right: tried once, and remembered.

XLA aborts the process at a flag that it does not know, and a custom call that jaxlib does not know may crash it, so a
version that was not tested is tried where it can do no harm.
"""

import functools
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ctkeras import __version__
from ctkeras.errors import CannotWrite
from ctkeras.runtime import console, files, stored
from ctkeras.runtime.versions import version

PART = "kernels"  # in the cache folder
# (jaxlib, onednn-cpu-gomp) that the tests and benchmarks/RESULTS.md were made with; any other is checked on the machine.
TESTED = (("0.10.2", "2023.2.0"), ("0.10.2", ""))
# On CPU the default fusion makes weight gradients of convolutions 3 times slower (benchmarks/RESULTS.md).
CPU_FLAGS = ("--xla_cpu_experimental_ynn_fusion_type=",)
TRYING = "CTKERAS_KERNELS_TRIED"  # in the process that checks: the verdict to check
LIMIT = 120  # seconds; a check takes about 5, most of it imports
# What a user pays without oneDNN, from benchmarks/RESULTS.md.
COST = "a fine-tuning step takes 1.2 to 1.3 times as long as PyTorch's, and with oneDNN at most as long"


class Verdict(NamedTuple):
    """What may be used on CPU."""

    flags: bool  # CPU_FLAGS
    kernels: str  # on: the fast layers with oneDNN; xla: the fast layers by XLA; off: Keras' own layers
    reason: str  # why it is not all of that; '' if it is


# From everything to nothing; the first that passes the check is used.
CHOICES = tuple(Verdict(flags, kernels, "") for kernels in ("on", "xla") for flags in (True, False))
NOTHING = Verdict(False, "off", "")


def verdict() -> Verdict:
    """What may be used with the installed versions; one that is not known is checked first, once per machine and versions."""
    if tried := os.environ.get(TRYING):
        flags, kernels = tried.split()
        return Verdict(flags == "flags", kernels, "")
    if installed() in TESTED:
        return Verdict(True, "on", "")
    return _remembered(place())


def installed() -> tuple[str, str]:
    """The installed versions of jaxlib and of oneDNN's wheel; '' for one that is not installed."""
    return version("jaxlib"), version("onednn-cpu-gomp")


def place() -> Path:
    """The file that remembers the verdict for these versions on this CPU."""
    parts = (
        *installed(),
        version("jax"),
        version("keras"),
        __version__,
        *CPU_FLAGS,
        platform.machine(),
        _instructions(),
    )
    key = hashlib.sha256("\n".join((*parts, str(stored.FORMAT))).encode()).hexdigest()
    return files.cache_dir(PART) / f"{key}.json"


def _instructions() -> str:
    """The instruction sets of this CPU, which decide the code that XLA and oneDNN run."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def _remembered(path: Path) -> Verdict:
    """The verdict in the cache, made if it is missing; a cache that cannot be written costs a check in each process."""
    made: list[Verdict] = []

    def make() -> None:
        made.append(check())
        stored.write_json(path, made[0])

    try:
        found = stored.reuse(
            lambda: stored.read_json(path),
            make,
            lock=path.with_suffix(".lock"),
            waiting="Waiting for a check of layers",
        )
        return Verdict(*found)
    except CannotWrite:
        return made[0] if made else check()


def check() -> Verdict:
    """Tries each choice in a process of its own, from the fastest; returns the first that computes what XLA does."""
    reasons: list[str] = []
    with console.waiting(f"Checking the fast CPU layers with jaxlib {installed()[0]}, once"):
        for choice in CHOICES:
            if (reason := _failure(choice)) is None:
                return choice._replace(reason=reasons[0] if reasons else "")
            reasons.append(reason)
    return NOTHING._replace(reason=reasons[0])


def _failure(choice: Verdict) -> str | None:
    """Why a choice cannot be used; None if it can."""
    flags = "flags" if choice.flags else "none"
    environment = os.environ | {
        TRYING: f"{flags} {choice.kernels}",
        "XLA_FLAGS": "",  # the user's may change the number of devices, without which oneDNN is not used
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what this process compiles is what is checked
        "CTKERAS_CPU_KERNELS": choice.kernels,
        "CTKERAS_XLA_FLAGS": "on",
    }
    try:
        done = subprocess.run(
            _command(), env=environment, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the check took more than {LIMIT} s"
    if not done.returncode:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    unknown = next((line for line in lines if "Unknown flag" in line), "")
    return (unknown[unknown.find("Unknown") :] or (lines[-1] if lines else f"exit status {done.returncode}"))[:200]


def _command() -> list[str]:
    """The command of the check."""
    return [sys.executable, "-m", "ctkeras.cpu.check"]
