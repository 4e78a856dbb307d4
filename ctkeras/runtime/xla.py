"""How XLA compiles on this machine: flags, compiler options, and which CPU layers are used."""

import importlib.metadata
import importlib.util
import os

from ctkeras.errors import UserError
from ctkeras.runtime.versions import version

# jaxlib versions that were tested: they accept the flag below (an unknown flag aborts the process), give the same numbers
# with it, and can call oneDNN (cpu/onednn.py).
VERIFIED_JAXLIB = ("0.10.2",)
# On CPU the default fusion makes weight gradients of convolutions 3 times slower (benchmarks/RESULTS.md).
CPU_FLAGS = ("--xla_cpu_experimental_ynn_fusion_type=",)


def with_cpu_flags(flags: str) -> str:
    """The user's XLA flags, followed by ours if this jaxlib was tested with them and no GPU plugin could reject them."""
    if version("jaxlib") not in VERIFIED_JAXLIB or any(
        importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)
    ):
        return flags
    missing = [flag for flag in CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([flags, *missing]).strip()


def cpu_kernels() -> bool:
    """Whether the layers of cpu/layers.py are used: on CPU, unless CTKERAS_CPU_KERNELS=off."""
    import jax

    return jax.default_backend() == "cpu" and kernels_wanted() != "off"


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
    verified = version("jaxlib") in VERIFIED_JAXLIB and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if verified and cpu_kernels() else {}
