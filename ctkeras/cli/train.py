"""The `train` verb, for a user and for W&B's agent: each hyperparameter is an option of the same name."""

import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctkeras.cli.options import config_options, read_config, tell_idle
from ctkeras.config import RunConfig, check_name
from ctkeras.errors import UserError

if TYPE_CHECKING:
    from ctkeras.training.train import RunResult

MAY_MOVE = ("data", "weights_dir")  # what --resume takes besides the run folder


@click.command(context_settings={"ignore_unknown_options": True})
@config_options
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
@click.option("--resume", metavar="RUN_FOLDER", help="resume a stopped run after its last finished epoch")
def train(config_file: str | None, resume: str | None, extra: tuple[str, ...], **flags: Any) -> None:
    """Train one classifier and export its best epoch."""
    from ctkeras.runs.folder import new_id
    from ctkeras.search import agent
    from ctkeras.training import stopping
    from ctkeras.training.train import train as train_train

    values = read_config(config_file, flags)
    _require_jax()
    if agent.in_sweep():
        _train_for_sweep(values)
        return
    _refuse(extra)
    if resume:
        if others := [name for name in values if name not in MAY_MOVE]:
            raise UserError(
                f"--resume uses the configuration of the run; leave out {', '.join(others)} (only "
                f"{' and '.join(MAY_MOVE)} may be given, for what has moved)"
            )
        _resume(Path(resume), values)
        return
    config = RunConfig.from_mapping(values)
    tell_idle(values)

    folder = Path(config.output_dir) / new_id(config.model_name)
    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(train_train(config, stop=stop, run_id=folder.name, leave=functools.partial(_leave, folder)))


def _train_for_sweep(values: dict[str, Any]) -> None:
    """Trains one run of a W&B sweep. Other arguments come from the agent and are also in wandb.config."""
    from ctkeras.search import agent
    from ctkeras.training import stopping

    stop = stopping.Stop()
    with stopping.on_signals(stop):
        result = agent.run_trial(values, stop=stop, leave=_leave)
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


def _resume(folder: Path, moved: dict[str, Any]) -> None:
    """Resumes a run, or prints its result if it has finished.

    Args:
        folder: the run folder.
        moved: where its data or weights are now, if not where the run found them.
    """
    from ctkeras.runs.folder import FINISHED, read_config, read_metrics
    from ctkeras.training import moving, stopping
    from ctkeras.training.train import RunResult, train

    config = read_config(folder)
    if (folder / "metrics.json").exists():
        metrics = read_metrics(folder)
        if metrics.get("stopped_by") in FINISHED:
            click.echo(f"{folder} has finished ({metrics['stopped_by']}); there is nothing to resume.", err=True)
            _print_result(RunResult(folder, metrics))
            return
    config = moving.follow(config, folder, moved)
    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(train(config, resume=folder, stop=stop, leave=functools.partial(_leave, folder)))


def _leave(folder: Path | None = None) -> None:
    """Exits while the main thread still computes: another thread has already ended the run properly."""
    if folder is not None:
        _say_how_to_resume(folder)
    sys.stdout.flush()
    os._exit(0)


def _require_jax() -> None:
    """Checks that Keras runs on JAX: ctkeras trains only there, while the exported model runs on any backend."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        raise UserError(
            f"KERAS_BACKEND is {os.environ.get('KERAS_BACKEND')!r}; ctkeras trains on jax: set it to jax, or unset it"
        )


def _say_how_to_resume(folder: Path) -> None:
    """The path of an interrupted run, and the command that resumes it."""
    command = shlex.join(["python", "-m", "ctkeras", "train", "--resume", str(folder)])
    click.echo(f"The run is in {folder}; to resume it: {command}", err=True)


def _print_result(result: "RunResult") -> None:
    """Prints the result in two lines; the second is only the path of the model."""
    metrics = result.metrics
    if metrics["stopped_by"] in ("sigint", "sigterm", "sighup"):
        _say_how_to_resume(result.folder)
    if not metrics.get("best_epoch") or metrics.get("val_acc") is None:
        click.echo(
            f"Stopped by {metrics['stopped_by']} before the end of the first epoch, so there is no model. {result.folder}"
        )
        return
    ending = f"best epoch {metrics['best_epoch']} of {metrics['epochs']}  stopped by {metrics['stopped_by']}"
    if metrics["stopped_by"] == "solved":
        ending = "solved"
    if metrics.get("folds"):
        given = f"; {metrics['given_val_acc']:.4f} on the {metrics['given_val_n']} of the given validation split"
        ending += f" in {metrics['folds']} folds{given if metrics['given_val_n'] else ''}"
    click.echo(
        f"val_acc {metrics['val_acc']:.4f}  val_loss {metrics['val_loss']:.4f}  {ending}  {metrics['seconds_total']:.0f} s"
    )
    click.echo(str(result.folder / "model.keras"))
