"""The command line: each verb parses, calls one function and prints. Heavy imports stay inside the verbs."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ctkeras import __version__
from ctkeras.cli_sweep import sweep
from ctkeras.config import FIELDS, RunConfig, UserError, check_name, describe, load_yaml


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 2 for a mistake of the user's, 1 for a failure, one line for either."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    code = 0
    try:
        returned = cli.main([text for text in given if text != "--debug"], "ctkeras", standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        code = _explain(error)
    sys.stdout.flush()
    sys.exit(code)


def run() -> None:
    """The `ctkeras` command: main, and an end to the process that skips the interpreter's own.

    One in twelve runs aborted there (seen with jaxlib 0.10.2 on Python 3.11): a native thread that wants the interpreter's
    lock while it shuts down is unwound through C++ that forbids it. By then every file is written and W&B has finished.
    """
    code = 1
    try:
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    if "wandb" in sys.modules:
        from ctkeras import tracking

        tracking.teardown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explain(error: BaseException) -> int:
    """Says in one line what went wrong; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException | UserError):
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"Error: {' '.join(text.split())}", err=True)
        return 2
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    failure = type(error).__name__ == "TrainingFailed"
    text = str(error) if failure else f"{type(error).__name__}: {error}. --debug shows where."
    click.echo(f"Error: {' '.join(text.split())}", err=True)
    return 1


def config_options(command: Callable) -> Callable:
    """Adds an option for each hyperparameter, under its own name; values are checked by RunConfig, not by click."""
    for name, field in reversed(FIELDS.items()):
        shown = f"{str(field.default).lower() if field.type is bool else field.default}"
        about = f"{field.metadata['help']} [{describe(name).removeprefix('one of ')}]"
        about += f" (default {shown})" if shown else ""
        command = click.option(f"--{name}", name, metavar="VALUE", default=None, help=about)(command)
    return click.option("--config", "config_file", metavar="FILE.yaml", help="hyperparameters; flags win")(command)


def read_config(config_file: str | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters given, a file's below the flags'."""
    values = load_yaml(config_file) if config_file else {}
    return values | {name: value for name, value in flags.items() if value is not None}


@click.group(epilog="--debug with any verb shows the traceback of an error.")
@click.version_option(__version__, prog_name="ctkeras")
def cli() -> None:
    """Honest hyperparameter studies for chest-CT classification, on Keras 3 and JAX."""


cli.add_command(sweep)


@cli.group()
def data() -> None:
    """Look after data sets."""


@data.command()
@click.option("--data", "spec", default=None, help=FIELDS["data"].metadata["help"])
def prepare(spec: str | None) -> None:
    """Check and prepare a data set; training does it too when it hasn't been done."""
    from ctkeras import dataset, sources

    source = sources.open_source(spec or os.environ.get("CTKERAS_DATA", ""))
    builder = dataset.prepare(source)
    counts = dataset.class_counts(builder)
    width = max(len(name) for name in source.class_names)
    click.echo(f"{'class':<{width}}" + "".join(f"{split:>8}" for split in sources.SPLITS))
    for name in source.class_names:
        click.echo(f"{name:<{width}}" + "".join(f"{counts[split][name]:>8}" for split in sources.SPLITS))
    click.echo(f"{'all':<{width}}" + "".join(f"{sum(counts[split].values()):>8}" for split in sources.SPLITS))
    click.echo(f"Prepared in {builder.data_dir}, fingerprint {source.fingerprint[:16]}")


@cli.command(context_settings={"ignore_unknown_options": True})
@config_options
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
@click.option("--resume", metavar="RUN_FOLDER", help="go on with a run where its last epoch ended")
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
        raise UserError(f"--resume goes on with the run's own configuration; leave out {', '.join(values)}")
    if resume:
        _resume(Path(resume))
        return
    config = RunConfig.from_mapping(values)
    from ctkeras import stopping, training

    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(training.train(config, stop=stop, leave=_leave))


def _train_for_sweep(values: dict[str, Any]) -> None:
    """Trains what W&B's sweep says; arguments beside the hyperparameters are the agent's, and in wandb.config anyway."""
    from ctkeras import stopping, trial

    stop = stopping.Stop()
    with stopping.on_signals(stop):
        result = trial.run_trial(values, stop=stop, leave=_leave)
    if result is not None:
        _print_result(result)


def _refuse(extra: tuple[str, ...]) -> None:
    """Refuses arguments that are no hyperparameters, but for W&B's own."""
    for word in extra:
        name = word.partition("=")[0]
        if not name.startswith("--"):
            raise UserError(f"{word!r} was not expected; hyperparameters are given as --name value")
        if not name.startswith("--_"):
            check_name(name[2:])


def _resume(folder: Path) -> None:
    """Goes on with a run, or says that it has ended."""
    from ctkeras import runfolder, stopping, training

    config = runfolder.read_config(folder)
    if (folder / "metrics.json").exists():
        metrics = runfolder.read_json(folder / "metrics.json")
        if metrics.get("stopped_by") in training.FINISHED:
            click.echo(f"{folder} has finished ({metrics['stopped_by']}); nothing to resume.", err=True)
            _print_result(training.RunResult(folder, metrics))
            return
    stop = stopping.Stop()
    with stopping.on_signals(stop):
        _print_result(training.train(config, resume=folder, stop=stop, leave=_leave))


def _leave() -> None:
    """Exits although the main thread still computes: the run has been ended well by another."""
    sys.stdout.flush()
    os._exit(0)


def _require_jax() -> None:
    """ctkeras trains on JAX alone; the exported model runs anywhere."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        raise UserError(f"KERAS_BACKEND is {os.environ.get('KERAS_BACKEND')}; ctkeras trains on jax: unset it")


def _print_result(result: Any) -> None:
    """The result in two lines, the second the model's path alone."""
    metrics = result.metrics
    if not metrics.get("best_epoch") or metrics.get("val_acc") is None:
        click.echo(
            f"Stopped by {metrics['stopped_by']} before the first epoch had ended, so there is no model. {result.folder}"
        )
        return
    click.echo(
        f"val_acc {metrics['val_acc']:.4f}  val_loss {metrics['val_loss']:.4f}  best epoch {metrics['best_epoch']} of "
        f"{metrics['epochs']}  stopped by {metrics['stopped_by']}  {metrics['seconds_total']:.0f} s"
    )
    click.echo(str(result.folder / "model.keras"))


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--data", "spec", default=None, help="the data set, if it is no longer where the run found it")
def evaluate(run_folder: Path, split: str, spec: str | None) -> None:
    """Evaluate a run's exported model on a split; writes metrics_SPLIT.json and predictions.csv."""
    from ctkeras import scoring

    metrics = scoring.evaluate_run(run_folder, split, data=spec)
    for name in ("acc", "balanced_acc", "macro_f1"):
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        click.echo(f"{name:<13} {metrics[name]:.4f}  (95% interval {low:.4f} to {high:.4f})")
    click.echo(f"{'loss':<13} {metrics['loss']:.4f}")
    click.echo(f"{metrics['n']} {split} images; {run_folder / f'metrics_{split}.json'}")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@click.option("--batch_size", type=click.IntRange(1, 4096), default=32, show_default=True)
def predict(model: Path, paths: tuple[Path, ...], as_json: bool, batch_size: int) -> int:
    """Classify image files and folders with an exported model. Not for diagnosis."""
    from ctkeras import export, runtime

    files = export.image_files(paths)
    runtime.configure()
    opened, names = export.open_model(model)
    failed = 0
    width = max(len(str(file)) for file in files)
    for file, chances, reason in export.predict(opened, files, batch_size=batch_size):
        if chances is None:
            failed += 1
            click.echo(f"Skipped: {reason}", err=True)
            if as_json:
                click.echo(json.dumps({"file": str(file), "error": reason}))
            continue
        by_name = {name: round(float(chance), 6) for name, chance in zip(names, chances, strict=True)}
        best = names[int(chances.argmax())]
        if as_json:
            click.echo(json.dumps({"file": str(file), "predicted": best, "probabilities": by_name}))
        else:
            shown = "  ".join(f"{name} {chance:.3f}" for name, chance in by_name.items())
            click.echo(f"{file!s:<{width}}  {best}  ({shown})")
    return 1 if failed else 0


@cli.command()
def doctor() -> None:
    """Show versions, devices, caches, data and W&B's state."""
    from ctkeras import health

    for name, value in health.report():
        click.echo(f"{name:<22} {value}")
