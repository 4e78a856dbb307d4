"""Options that several verbs share: hyperparameters, the sweep engine, W&B's login."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ctkeras.cli.idle import without_effect
from ctkeras.config import FIELDS, RunConfig, check_name, describe, parse_value
from ctkeras.errors import UserError
from ctkeras.sweep.yamlfile import read_yaml


def load_sound(file: Path, *, engine: str | None, count: int | None = None) -> dict[str, Any]:
    """A sweep file's content; its warnings are printed.

    Args:
        file: the sweep file.
        engine: see check.check.
        count: the largest number of trials; it becomes the run_cap of a sweep without one.

    Raises:
        UserError: it cannot be read, or an engine refuses it.
    """
    from ctkeras.sweep import check
    from ctkeras.sweep.file import capped, load

    loaded = load(file)
    if count is not None:
        loaded = capped(loaded, count)
    for finding in check.require_sound(loaded, engine=engine):
        click.echo(f"{file}, {finding}", err=True)
    return loaded.content


def engine_options(command: Callable) -> Callable:
    """Adds the options of the local engine to a command."""
    options = (
        click.option(
            "--workers", type=click.IntRange(1), default=1, show_default=True, help="worker processes on this machine"
        ),
        click.option(
            "--storage",
            default="",
            envvar="CTKERAS_STORAGE",
            help="FILE; to share the trials between machines: journal:FILE in a shared folder, or postgresql://USER@HOST/DB "
            "(default: study.db in output_dir)",
        ),
        click.option(
            "--search_seed", type=click.IntRange(0), default=0, show_default=True, help="seed of the search itself"
        ),
        click.option(
            "--patience",
            type=click.FloatRange(1),
            default=300,
            show_default=True,
            help="replace a worker that has neither reported nor computed for this many seconds",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def export_option(command: Callable) -> Callable:
    """Adds the choice of the trials whose models are written."""
    return click.option(
        "--export",
        type=click.Choice(["best", "all"]),
        default="best",
        show_default=True,
        help="which trials' models to write; of the others, `ctkeras export RUN` writes them later",
    )(command)


def address_of(storage: str, output_dir: str) -> Any:
    """Returns the storage's address, after checking that the folder of a file exists or can be created.

    Raises:
        UserError: it is neither a file nor an address, or the file's folder cannot be created.
    """
    from ctkeras.runs import folder
    from ctkeras.search.storage import address

    url = address(storage, output_dir)
    if storage and url.drivername in ("sqlite", "journal"):
        folder.require_folder(Path(str(url.database)).parent, "--storage", announce=True)
    return url


def require_login() -> None:
    """Raises UserError if W&B's server cannot be used."""
    from ctkeras.tracking import run

    if lacking := run.lacking():
        raise UserError(f"this needs {lacking}")


def config_options(command: Callable) -> Callable:
    """Adds an option for each hyperparameter, under its name; RunConfig checks the values, not click."""
    for name, field in reversed(FIELDS.items()):
        shown = f"{str(field.default).lower() if field.type is bool else field.default}"
        about = f"{field.metadata['help']} [{describe(name).removeprefix('one of ')}]"
        about += f" (default {shown})" if shown else ""
        command = click.option(f"--{name}", name, metavar="VALUE", default=None, help=about)(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE.yaml",
        help="file of hyperparameters; options on the command line override it",
    )(command)


def read_config(config_file: str | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The given hyperparameters; options override those of the file."""
    values = load_yaml(config_file) if config_file else {}
    return values | {name: value for name, value in flags.items() if value is not None}


def tell_idle(given: dict[str, Any], sweep: dict[str, Any] | None = None) -> None:
    """Prints which of the given hyperparameters have no effect.

    Args:
        given: values by name.
        sweep: the sweep that they are for, if any; the values that it searches are not known yet.
    """
    from ctkeras.sweep import file

    searched = set(file.searched(sweep)) - set(given) if sweep else set()
    try:
        config = RunConfig.from_mapping({**(file.fixed(sweep) if sweep else {}), **given})
    except UserError:  # some or all runs of the sweep are invalid; the search reports that
        return
    for line in without_effect(config, given, searched=searched):
        click.echo(line, err=True)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads hyperparameters from a YAML file, for --config.

    Raises:
        UserError: the file cannot be read, is not YAML or does not hold a mapping; or, with its line, a name is unknown or
            occurs twice, or a value is out of range.
    """
    read = read_yaml(path)
    values = {} if read.content is None else read.content
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} must hold a mapping of hyperparameters, such as 'lr: 0.001'")
    for name, *below in read.repeated:
        if not below:
            raise UserError(f"{path}, line {read.lines[name,]}: {name} occurs twice; remove one of the two")
    for name, value in values.items():
        try:
            check_name(name)
            parse_value(name, value)
        except UserError as error:
            line = read.lines.get((name,))  # None if it was merged in by <<
            raise UserError(f"{path}, {f'line {line}: ' if line else ''}{error}") from error
    return values


def reference_table() -> str:
    """The table of hyperparameters in Markdown, for the README."""
    rows = ["| name | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in FIELDS.items():
        default = (
            "" if field.default == "" else str(field.default).lower() if field.type is bool else f"{field.default}"
        )
        allowed = describe(name).replace("one of ", "").replace("<", "&lt;")
        rows.append(f"| `{name}` | {allowed} | {default} | {field.metadata['help'].replace('<', '&lt;')} |")
    return "\n".join(rows)
