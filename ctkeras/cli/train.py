"""The `train` verb, for a user and for W&B's agent: each hyperparameter is an option of the same name."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctkeras.config import FIELDS, RunConfig, UserError, check_name, describe, load_yaml, without_effect

if TYPE_CHECKING:
    from ctkeras.training.train import RunResult


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
    from ctkeras import sweepfile

    searched = set(sweepfile.searched(sweep)) - set(given) if sweep else set()
    try:
        config = RunConfig.from_mapping({**(sweepfile.fixed(sweep) if sweep else {}), **given})
    except UserError:  # some or all runs of the sweep are invalid; the search reports that
        return
    for line in without_effect(config, given, searched=searched):
        click.echo(line, err=True)


@click.command(context_settings={"ignore_unknown_options": True})
@config_options
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
@click.option("--resume", metavar="RUN_FOLDER", help="resume a stopped run after its last finished epoch")
def train(config_file: str | None, resume: str | None, extra: tuple[str, ...], **flags: Any) -> None:
    """Train one classifier and export its best epoch."""
    from ctkeras import trial

    values = read_config(config_file, flags)
    _require_jax()
    if trial.in_sweep():
        _train_for_sweep(values)
        return
    _refuse(extra)
    if resume and values:
        raise UserError(f"--resume uses the configuration of the run; leave out {', '.join(values)}")
    if resume:
        _resume(Path(resume))
        return
    config = RunConfig.from_mapping(values)
    tell_idle(values)
    from ctkeras.training import stopping
    from ctkeras.training.train import train as train_run

    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(train_run(config, stop=stop, leave=_leave))


def _train_for_sweep(values: dict[str, Any]) -> None:
    """Trains one run of a W&B sweep. Other arguments come from the agent and are also in wandb.config."""
    from ctkeras import trial
    from ctkeras.training import stopping

    stop = stopping.Stop()
    with stopping.on_signals(stop):
        result = trial.run_trial(values, stop=stop, leave=_leave)
    if result is not None:
        _print_result(result)


def _refuse(extra: tuple[str, ...]) -> None:
    """Rejects arguments that are not hyperparameters, except W&B's own."""
    for word in extra:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            raise UserError(f"unexpected argument {word!r}; hyperparameters are given as --name value")
        if not name.startswith("--_"):
            check_name(name[2:])


def _resume(folder: Path) -> None:
    """Resumes a run, or prints its result if it has finished."""
    from ctkeras.runs import folder as runfolder
    from ctkeras.training import stopping
    from ctkeras.training.train import RunResult
    from ctkeras.training.train import train as train_run

    config = runfolder.read_config(folder)
    if (folder / "metrics.json").exists():
        metrics = runfolder.read_metrics(folder)
        if metrics.get("stopped_by") in runfolder.FINISHED:
            click.echo(f"{folder} has finished ({metrics['stopped_by']}); there is nothing to resume.", err=True)
            _print_result(RunResult(folder, metrics))
            return
    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(train_run(config, resume=folder, stop=stop, leave=_leave))


def _leave() -> None:
    """Exits while the main thread still computes: another thread has already ended the run properly."""
    sys.stdout.flush()
    os._exit(0)


def _require_jax() -> None:
    """Checks that Keras runs on JAX: ctkeras trains only there, while the exported model runs on any backend."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        raise UserError(
            f"KERAS_BACKEND is {os.environ.get('KERAS_BACKEND')!r}; ctkeras trains on jax: set it to jax, or unset it"
        )


def _print_result(result: "RunResult") -> None:
    """Prints the result in two lines; the second is only the path of the model."""
    metrics = result.metrics
    if not metrics.get("best_epoch") or metrics.get("val_acc") is None:
        click.echo(
            f"Stopped by {metrics['stopped_by']} before the end of the first epoch, so there is no model. {result.folder}"
        )
        return
    click.echo(
        f"val_acc {metrics['val_acc']:.4f}  val_loss {metrics['val_loss']:.4f}  best epoch {metrics['best_epoch']} of "
        f"{metrics['epochs']}  stopped by {metrics['stopped_by']}  {metrics['seconds_total']:.0f} s"
    )
    click.echo(str(result.folder / "model.keras"))
