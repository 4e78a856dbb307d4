"""`sweep slurm` and `study slurm`: a Slurm array script for a sweep or a study, printed or submitted."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ctkeras.errors import UserError

PASSES = {"ignore_unknown_options": True, "allow_extra_args": True}


def slurm_options(command: Callable) -> Callable:
    """Adds what each task of the array gets from Slurm."""
    loaded = [name for name in os.environ.get("LOADEDMODULES", "").split(":") if name]
    options = (
        click.option("--tasks", type=click.IntRange(1), default=1, show_default=True, help="tasks of the array"),
        click.option("--time", default="4:00:00", show_default=True, help="time limit of a task"),
        click.option("--gpus", type=click.IntRange(0), default=1, show_default=True, help="GPUs of a task"),
        click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="cores of a task"),
        click.option("--mem", default="", help="memory of a task, as in 16G (default: the partition's)"),
        click.option("--partition", default="", help="partition (default: Slurm's)"),
        click.option("--account", default="", help="account (default: Slurm's)"),
        click.option(
            "--module", "modules", multiple=True, default=loaded, help="module to load (default: those loaded)"
        ),
        click.option("--submit", is_flag=True, help="submit the script instead of printing it"),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("slurm", context_settings=PASSES)
@click.argument("file", metavar="FILE")
@click.option(
    "--engine", type=click.Choice(["local", "wandb"]), default="local", help="wandb: FILE is ENTITY/PROJECT/ID"
)
@slurm_options
@click.pass_context
def sweep_slurm(context: click.Context, file: str, engine: str, **asked: Any) -> None:
    """Print a Slurm array script whose tasks share a sweep's trials; other options are those of `sweep run`."""
    from ctkeras.cli.options import load_sound
    from ctkeras.cli.sweep import agent, run

    if engine == "wandb":
        words = ["sweep", "agent", file, *context.args]
        _check(agent, words[2:])
        _give(words, "sweep-agents", Path("runs"), asked)
        return
    values = _check(run, [file, *context.args])
    load_sound(Path(file), engine="local", count=values["count"])
    folder = Path(values["output_dir"] or "runs")
    words = ["sweep", "run", file, *context.args, *_storage(values, folder)]
    _give(words, Path(file).stem, folder, asked)


@click.command("slurm", context_settings=PASSES)
@slurm_options
@click.pass_context
def study_slurm(context: click.Context, **asked: Any) -> None:
    """Print a Slurm array script whose tasks share a study; other options are those of `study`."""
    from ctkeras.cli.study import study

    values = _check(study, context.args)
    folder = Path(values["output_dir"] or "runs")
    _give(["study", *context.args, *_storage(values, folder)], "study", folder, asked)


def _check(command: click.Command, words: Sequence[str]) -> dict[str, Any]:
    """The parsed options of the command that the tasks will run; raises what a misspelt one raises."""
    return command.make_context(command.name, list(words)).params


def _storage(values: dict[str, Any], folder: Path) -> list[str]:
    """The option of the tasks' storage: a journal, unless another storage is given."""
    from ctkeras.search import journal
    from ctkeras.search.storage import address

    if not values["storage"]:
        return ["--storage", f"{journal.PREFIX}{folder.absolute() / journal.FILE}"]
    if address(values["storage"], "").drivername == "sqlite":
        raise UserError("tasks on several nodes cannot share SQLite; leave --storage out, or give journal:FILE")
    return []


def _give(words: Sequence[str], name: str, folder: Path, asked: dict[str, Any]) -> None:
    """Prints the script, or submits it."""
    from ctkeras.runs.folder import require_folder
    from ctkeras.search import slurm

    submit, memory = asked.pop("submit"), asked.pop("mem")
    request = slurm.Request(memory=memory, **asked)
    text = slurm.script(["ctkeras", *words], request, name=f"ctkeras-{name}", folder=folder, env=os.environ)
    if not submit:
        click.echo(text, nl=False)
    require_folder(str(folder), "--output_dir")
    folder.mkdir(parents=True, exist_ok=True)  # Slurm does not create the folder of its logs
    if submit:
        click.echo(slurm.submit(text))
