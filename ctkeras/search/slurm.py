"""A Slurm array script whose tasks share a sweep's trials; every line says why it is there."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctkeras.errors import UserError

STOP_SECONDS = 90  # before the time limit; a run leaves its checkpoint within 20


@dataclasses.dataclass(frozen=True)
class Request:
    """What each task of the array gets from Slurm."""

    tasks: int = 1
    time: str = "4:00:00"  # as Slurm writes it
    gpus: int = 1  # per task; 0 for none
    cpus: int = 4  # cores per task
    memory: str = ""  # per task, as Slurm writes it; '' for the partition's default
    partition: str = ""
    account: str = ""
    modules: Sequence[str] = ()  # to load


def script(words: Sequence[str], request: Request, *, name: str, folder: Path, env: Mapping[str, str]) -> str:
    """The text of an array script that runs a command in each task.

    Args:
        words: the command after `python -m`.
        request: what each task gets.
        name: of the job.
        folder: for the logs, beside the run folders.
        env: the environment that is to be activated in the tasks as it is now.

    Raises:
        UserError: a value contains a line break, which would start a line of its own in the script.
    """
    asked = [request.time, request.memory, request.partition, request.account, name, str(folder), *request.modules]
    if any("\n" in text or "\r" in text for text in (*asked, *words)):
        raise UserError("the script cannot hold an argument with a line break")
    logs = folder.absolute() / "slurm-%A_%a.log"
    options = [
        ("the name in squeue", "job-name", name),
        ("independent tasks, which share the trials", "array", f"0-{request.tasks - 1}"),
        ("of each task", "time", request.time),
        (
            f"stop {STOP_SECONDS} s before the time limit: a run saves its checkpoint within 20 s",
            "signal",
            f"TERM@{STOP_SECONDS}",
        ),
        ("a task that is preempted, or whose node dies, starts again and resumes its trial", "requeue", None),
        ("a requeued task continues its log", "open-mode", "append"),
        ("logs beside the runs: job and task", "output", f'"{logs}"'),
        ("one command per task", "ntasks", "1"),
        ("cores per task", "cpus-per-task", str(request.cpus)),
    ]
    optional = [
        ("Slurm sets CUDA_VISIBLE_DEVICES to the task's own GPUs", "gpus-per-task", str(request.gpus or "")),
        ("memory per task", "mem", request.memory),
        ("the partition", "partition", request.partition),
        ("who pays", "account", request.account),
    ]
    lines = ["#!/bin/bash"]
    for why, option, value in [*options, *(one for one in optional if one[2])]:
        lines += [f"# {why}", f"#SBATCH --{option}" + (f"={value}" if value is not None else "")]
    lines += ["", *_environment(request.modules, env), ""]
    command = shlex.join(["-m", *words])
    lines += [
        "# srun makes the command a step of the job: Slurm sends its signals to steps",
        f"srun {shlex.quote(sys.executable)} {command}",
        "code=$?",
        "# 143, of a study 130: stopped by a signal, with a checkpoint. A cancelled job is not requeued.",
        'id="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
        'if [[ "$code" = 143 || "$code" = 130 ]] && [ "$(squeue -h -j "$id" -o %T)" = RUNNING ]; then',
        '    scontrol requeue "$id"',
        "    sleep 60  # until Slurm has ended this attempt",
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _environment(modules: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Lines that bring the folder, modules, Python and cache of the shell that wrote the script."""
    lines = [
        "# the folder, modules and Python of the shell that wrote this script",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
    ]
    lines += [f"module load {shlex.quote(module)}" for module in modules]
    if env.get("VIRTUAL_ENV"):
        lines.append(f"source {shlex.quote(env['VIRTUAL_ENV'] + '/bin/activate')}")
    elif env.get("CONDA_PREFIX"):
        lines += ['eval "$(conda shell.bash hook)"', f"conda activate {shlex.quote(env['CONDA_PREFIX'])}"]
    kept = ("CTKERAS_CACHE_DIR", "CTKERAS_DATA", "PYTHONPATH", "WANDB_MODE")
    return lines + [f"export {key}={shlex.quote(env[key])}" for key in kept if env.get(key)]


def submit(text: str) -> str:
    """Submits a script. Returns the job's number.

    Raises:
        UserError: sbatch is missing, or refuses it.
    """
    import subprocess

    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot run sbatch ({error.strerror}); print the script without --submit") from error
    if done.returncode:
        raise UserError(f"sbatch refused the script: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip().partition(";")[0]
