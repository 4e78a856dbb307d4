"""Where this process runs."""

import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path


def place(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where this process runs: host, and under Slurm the job, the task of its array, the attempt and the GPUs."""
    names = {
        "slurm_job": "SLURM_ARRAY_JOB_ID",
        "slurm_task": "SLURM_ARRAY_TASK_ID",
        "slurm_restarts": "SLURM_RESTART_COUNT",
        "gpus": "CUDA_VISIBLE_DEVICES",
    }
    found = {name: env[key] for name, key in names.items() if env.get(key)}
    if "slurm_job" not in found and env.get("SLURM_JOB_ID"):
        found["slurm_job"] = env["SLURM_JOB_ID"]
    return {"host": env.get("SLURMD_NODENAME") or socket.gethostname(), **found}


def processor() -> str:
    """The processor's name; its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
