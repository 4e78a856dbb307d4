"""`sweep slurm` and `study slurm`: a Slurm array script for a sweep or a study, printed or submitted."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ctkeras.errors import UserError

PASSES = {"ignore_unknown_options": True}  # what is not an option here is one of the command that the tasks run


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
@click.option(
    "--engine", type=click.Choice(["local", "wandb"]), default="local", help="wandb: FILE is ENTITY/PROJECT/ID"
)
@slurm_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="FILE [OPTION]...")
def sweep_slurm(words: tuple[str, ...], engine: str, **asked: Any) -> None:
    """Print a Slurm array script whose tasks share a sweep's trials; other options are those of `sweep run`."""
    from ctkeras.cli.options import load_sound
    from ctkeras.cli.sweep import agent, run
    from ctkeras.sweep import file

    if engine == "wandb":
        _parsed(agent, "sweep agent", words)
        _give(["sweep", "agent", *words], "sweep-agents", Path("runs"), asked)
        return
    values = _parsed(run, "sweep run", words)
    content = load_sound(values["file"], engine="local", count=values["count"])
    folder = _folder(values, file.fixed(content))
    _give(["sweep", "run", *words, *_storage(values, folder)], values["file"].stem, folder, asked)


@click.command("slurm", context_settings=PASSES)
@slurm_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]...")
def study_slurm(words: tuple[str, ...], **asked: Any) -> None:
    """Print a Slurm array script whose tasks share a study; other options are those of `study`."""
    from ctkeras.cli.study import study

    values = _parsed(study, "study", words)
    if values["engine"] == "wandb":
        raise UserError(
            "tasks share a study through a journal, not through W&B; for W&B's agents: sweep slurm ENTITY/PROJECT/ID "
            "--engine wandb"
        )
    folder = _folder(values, {})
    _give(["study", *words, *_storage(values, folder)], "study", folder, asked)


def _parsed(command: click.Command, name: str, words: Sequence[str]) -> dict[str, Any]:
    """The parsed options of the command that the tasks will run; raises what a misspelt one raises."""
    return command.make_context(f"ctkeras {name}", list(words)).params


def _folder(values: dict[str, Any], fixed: Mapping[str, Any]) -> Path:
    """The folder of the run folders.

    Args:
        values: parsed options, of which the hyperparameters are checked here, before they wait in a queue.
        fixed: the sweep's own constant hyperparameters.
    """
    from ctkeras.cli.options import read_config
    from ctkeras.config import FIELDS, RunConfig, parse_value

    given = read_config(values["config_file"], {name: values[name] for name in FIELDS})
    for name, value in given.items():
        parse_value(name, value)
    return Path(str(given.get("output_dir") or fixed.get("output_dir") or RunConfig.output_dir))


def _storage(values: dict[str, Any], folder: Path) -> list[str]:
    """The option of the tasks' storage: a journal, unless another storage is given."""
    from ctkeras.search import journal
    from ctkeras.search.storage import address, masked

    given = values["storage"]
    if not given:
        return ["--storage", f"{journal.PREFIX}{folder.absolute() / journal.FILE}"]
    if address(given, "").drivername == "sqlite":
        raise UserError("tasks on several nodes cannot share SQLite; leave --storage out, or give journal:FILE")
    from_environment = given == os.environ.get("CTKERAS_STORAGE")
    return ["--storage", given] if from_environment and masked(given) == given else []


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
