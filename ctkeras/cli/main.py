"""The command line: each verb parses its arguments, calls one function and prints. Heavy imports are inside the verbs."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from ctkeras import __version__
from ctkeras.cli import data_files  # noqa: F401 - adds its verbs to data
from ctkeras.cli.data import data
from ctkeras.cli.export import export, verify
from ctkeras.cli.labels import labels
from ctkeras.cli.learning import learning
from ctkeras.cli.report import app, report
from ctkeras.cli.results import compare, evaluate, explain, predict
from ctkeras.cli.slurm import study_slurm, sweep_slurm
from ctkeras.cli.study import study
from ctkeras.cli.sweep import sweep
from ctkeras.cli.train import train
from ctkeras.errors import UserError
from ctkeras.runtime import streams


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with 2 after a user's mistake and 1 after a failure, each printed in one line.

    Args:
        arguments: the words after `ctkeras`; None for those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    code = 0
    try:
        returned = cli.main([text for text in given if text != "--debug"], "ctkeras", standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        code = _explain(error)
    sys.stdout.flush()
    sys.exit(code)


def run() -> None:
    """The `ctkeras` command: calls main, then ends the process without the interpreter's own shutdown.

    That shutdown aborted one run in twelve (jaxlib 0.10.2, Python 3.11): a native thread that waits for the interpreter's
    lock is unwound through C++ code that forbids it. By then all files are written and W&B has finished.
    """
    code = 1
    streams.install()
    try:
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended
    if "wandb" in sys.modules:
        from ctkeras.tracking.run import teardown

        teardown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explain(error: BaseException) -> int:
    """Prints an error in one line and returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException | UserError):
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(streams.shown(f"Error: {' '.join(text.split())}"), err=True)
        return 2
    if isinstance(error, KeyboardInterrupt | click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    if isinstance(error, OSError) and (text := _refused(error)):
        click.echo(f"Error: {text}", err=True)
        return 2
    failure = type(error).__name__ == "TrainingFailed"
    text = str(error) if failure else f"{type(error).__name__}: {error}. Run it with --debug to see where."
    click.echo(streams.shown(f"Error: {' '.join(text.split())}"), err=True)
    return 1


def _refused(error: OSError) -> str:
    """The message of a disk that is full, or a folder that cannot be written to; '' for another error."""
    from ctkeras.runtime import files

    full = error.errno in files.FULL
    if not full and (error.errno not in files.REFUSED or not error.filename):
        return ""
    return str(files.cannot_write(Path(os.fsdecode(error.filename or os.getcwd())), int(error.errno or 0)))


@click.group(epilog="Add --debug to any command to see the traceback of an error.")
@click.version_option(__version__, prog_name="ctkeras")
def cli() -> None:
    """Train classifiers on chest-CT slices, search their hyperparameters, and report how far the results can be trusted."""


@cli.command()
@click.option("--repair", is_flag=True, help="verify every file of the cache, and move damaged ones to quarantine")
def doctor(repair: bool) -> int:
    """Show versions, devices, caches and settings, and what is wrong with them; exit code 2 if a run would fail."""
    if repair:
        from ctkeras.runtime import caches

        click.echo(caches.repair())
        return 0
    from ctkeras.doctor import WRONG, report

    wrong = 0
    for name, value in report():
        click.echo(f"{name:<22} {value}")
        wrong += value.startswith(WRONG)
    return 2 if wrong else 0


sweep.add_command(sweep_slurm)
study.verbs["slurm"] = study_slurm
for verb in (
    data,
    train,
    evaluate,
    compare,
    labels,
    learning,
    predict,
    explain,
    export,
    verify,
    study,
    sweep,
    report,
    app,
):
    cli.add_command(verb)
