"""How XLA compiles on this machine: flags, compiler options, and which CPU layers are used."""

import importlib.util
import os
import re
import subprocess
import sys

from ctkeras.errors import UserError
from ctkeras.runtime import verdict


def with_cpu_flags(flags: str) -> str:
    """The user's XLA flags, followed by ours if this jaxlib accepts them and no GPU plugin could reject them."""
    plugins = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
    if plugins or not verdict.verdict().flags:
        return flags
    missing = [flag for flag in verdict.CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([flags, *missing]).strip()


def require_known_flags(flags: str) -> None:
    """Checks the user's XLA flags in a process of their own, because XLA aborts the process at a flag it does not know.

    Args:
        flags: the content of XLA_FLAGS.

    Raises:
        UserError: XLA does not know one of them.
    """
    own = {flag.partition("=")[0] for flag in verdict.CPU_FLAGS}
    given = [flag for flag in flags.split() if flag.partition("=")[0] not in own]
    if not given or os.environ.get("_CTK_CHECKED_FLAGS") == " ".join(given):
        return
    command = [sys.executable, "-c", "import jax; jax.local_devices()"]
    environment = os.environ | {"XLA_FLAGS": " ".join(given), "JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return
    if done.returncode and "XLA_FLAGS" in done.stderr:
        unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", done.stderr)
        what = f"XLA does not know {unknown[1].strip()[:200]}" if unknown else "XLA cannot read it"
        raise UserError(f"XLA_FLAGS is {flags!r}: {what}; correct it, or unset XLA_FLAGS")
    os.environ["_CTK_CHECKED_FLAGS"] = " ".join(given)  # for the processes that this one starts


def require_devices() -> None:
    """Lets JAX find its devices.

    Raises:
        UserError: it finds none of the kind that its variables name.
    """
    import jax

    try:
        jax.local_devices()
    except (
        Exception
    ) as error:  # RuntimeError, and an AssertionError without a word for a platform whose plugin is missing
        names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES")
        given = " and ".join(f"{name} is {os.environ[name]}" for name in names if os.environ.get(name))
        reason = " ".join(str(error).split()).strip(".")[:160]
        what = f" ({reason})" if reason else ""
        cuda = " or install ctkeras[cuda12]" if re.search("cuda|gpu", given) else ""
        if given:
            raise UserError(f"{given}, and JAX finds no such device{what}; unset it{cuda}") from error
        raise UserError(f"JAX finds no device{what}; JAX_PLATFORMS=cpu uses the CPU") from error


def cpu_kernels() -> bool:
    """Whether the layers of cpu/layers.py are used: on CPU, unless CTKERAS_CPU_KERNELS=off or they are wrong on this jaxlib."""
    import jax

    return jax.default_backend() == "cpu" and kernels_wanted() != "off" and verdict.verdict().kernels != "off"


def kernels_wanted() -> str:
    """The value of CTKERAS_CPU_KERNELS: on (the default), xla (without oneDNN) or off.

    Raises:
        UserError: it has another value.
    """
    wanted = os.environ.get("CTKERAS_CPU_KERNELS") or "on"
    if wanted not in ("on", "xla", "off"):
        raise UserError(f"CTKERAS_CPU_KERNELS must be on, xla or off; got {wanted!r}")
    return wanted


def compiler_options() -> dict[str, str | bool]:
    """Compiler options for a program: on CPU, those that keep the optimization barriers of cpu/layers.py.

    XLA's CPU backend removes them before it fuses. Without that pass they remain, at no cost.
    """
    wanted = os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if wanted and cpu_kernels() else {}
