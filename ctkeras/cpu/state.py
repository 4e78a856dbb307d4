"""Whether convolutions run at full speed in this process, in words: for `doctor`, and for a line before training."""

import functools

from ctkeras.runtime import console, verdict, versions, xla


def why_slow() -> str:
    """Why oneDNN does not compute convolutions on this CPU; '' if it does, or if the device is another one."""
    import jax

    from ctkeras.cpu import onednn

    if jax.default_backend() != "cpu" or onednn.available():
        return ""
    if (wanted := xla.kernels_wanted()) != "on":
        return f"CTKERAS_CPU_KERNELS is {wanted}"
    if not versions.version("onednn-cpu-gomp"):
        return "onednn-cpu-gomp is not installed"
    if jax.local_device_count() > 1:
        return f"JAX has {jax.local_device_count()} devices and oneDNN serves one"
    if (found := verdict.verdict()).kernels != "on":
        return f"the check with jaxlib {verdict.installed()[0]} failed: {found.reason}"
    return "it cannot be loaded: libgomp.so.1 is missing (Debian: apt install libgomp1)"


@functools.cache  # one line per process
def note() -> None:
    """Prints a line if training will run slower than it could on this CPU, with the reason and the cost."""
    reason = why_slow()
    if reason and not reason.startswith("CTKERAS_CPU_KERNELS"):  # who set that knows
        console.note(f"Note: convolutions run in XLA, not in oneDNN, because {reason}; {verdict.COST}.")
    elif not reason and xla.cpu_kernels() and not verdict.verdict().flags:
        console.note(
            f"Note: jaxlib {verdict.installed()[0]} does not take the flag {verdict.CPU_FLAGS[0]} "
            f"({verdict.verdict().reason}), so what oneDNN does not compute may be slower; not measured."
        )
