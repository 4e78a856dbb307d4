"""The `sweep` verbs."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ctkeras.cli.train import config_options, read_config, tell_idle
from ctkeras.config import UserError

WATCH_SECONDS = 3.0  # between two looks


@click.group()
def sweep() -> None:
    """Search hyperparameters with a sweep file."""


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Say what is wrong with a sweep file, key and line; exit code 2 when anything is."""
    from ctkeras import sweepcheck, sweepfile

    found = sweepcheck.check(sweepfile.load(file))
    for finding in found:
        click.echo(f"{file}, {finding}", err=True)
    errors = sum(finding.error for finding in found)
    if errors:
        return 2
    click.echo(f"{file} is sound.")
    return 0


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--project", default="", help="W&B project (default: the file's, $WANDB_PROJECT, else ctkeras)")
@click.option("--entity", default="", help="W&B team or user (default: yours)")
def create(file: Path, project: str, entity: str) -> None:
    """Check a sweep file and register it at W&B; the last line is ENTITY/PROJECT/SWEEP_ID."""
    from ctkeras import sweepcheck, sweepfile, tracking

    loaded = sweepfile.load(file)
    for finding in sweepcheck.require_sound(loaded):
        click.echo(f"{file}, {finding}", err=True)
    require_login()
    click.echo(tracking.create_sweep(loaded.content, project=project, entity=entity))


def engine_options(command: Callable) -> Callable:
    """Adds the local engine's options."""
    options = (
        click.option(
            "--workers", type=click.IntRange(1), default=1, show_default=True, help="processes on this machine"
        ),
        click.option(
            "--storage",
            default="",
            envvar="CTKERAS_STORAGE",
            help="FILE, or postgresql://USER@HOST/DB to share the trials among machines (default: study.db in output_dir)",
        ),
        click.option(
            "--search_seed", type=click.IntRange(0), default=0, show_default=True, help="of the search itself"
        ),
        click.option(
            "--patience",
            type=click.FloatRange(1),
            default=300,
            show_default=True,
            help="seconds after which a worker that says and computes nothing is replaced",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def address_of(storage: str, output_dir: str) -> Any:
    """The storage's address; a file's folder is one that is there or can be made.

    Raises:
        UserError: it is neither a file nor an address, or its folder can't be.
    """
    from ctkeras.runs import folder as runfolder
    from ctkeras.storage import address

    url = address(storage, output_dir)
    if storage and url.drivername == "sqlite":
        runfolder.require_folder(Path(str(url.database)).parent, "--storage", announce=True)
    return url


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
@engine_options
@config_options
def run(
    file: Path,
    workers: int,
    storage: str,
    search_seed: int,
    patience: float,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Run a sweep file on this machine, with no account and no network; again goes on where it was.

    Hyperparameters given as options are the same in all trials. The last line is the best model's path.
    """
    from ctkeras import search, sweepcheck, sweepfile
    from ctkeras.workers import Pool

    loaded = sweepfile.load(file)
    for finding in sweepcheck.require_sound(loaded):
        click.echo(f"{file}, {finding}", err=True)
    options = read_config(config_file, flags)
    planned = search.plan(loaded.content, options, title=file.stem, seed=search_seed)
    tell_idle(options, planned.content)
    url = address_of(storage, planned.places.get("output_dir", "runs"))
    pool = Pool(workers, patience=patience)
    try:
        outcome = search.run(planned, url=url, pool=pool)
    finally:
        pool.end()
    return _print_outcome(outcome, planned)


def _print_outcome(outcome: Any, planned: Any) -> int:
    """How a search stands, in lines whose last is the best model's path; returns the exit code."""
    from ctkeras import status

    if outcome.stopped_by:
        click.echo(f"Stopped by {outcome.stopped_by}; the same command goes on where it was.", err=True)
        return 130 if outcome.stopped_by == "sigint" else 143
    ended, failed = len(outcome.trials), sum(trial.value is None for trial in outcome.trials)
    saved = status.epochs_saved(outcome.trials)
    parts = [f"{planned.name} has finished: {ended} trials"]
    parts += [f"{failed} of them failed"] if failed else []
    parts += [f"{saved} epochs saved by hyperband"] if saved else []
    click.echo(", ".join(parts))
    best = status.best(outcome.trials, maximize=planned.maximize)
    if best is None:
        raise UserError(f"no trial ended well; the last one: {outcome.trials[-1].user_attrs.get('failure')}")
    names = status.settings(best.user_attrs["config"], [*planned.varied])
    click.echo(f"best: trial {best.number}  {planned.metric} {best.value:.4f}  {names}")
    click.echo(str(Path(best.user_attrs["folder"]) / "model.keras"))
    return 0


@sweep.command("status")
@click.argument("storage", metavar="STORAGE")
@click.option("--study", default="", help="one search (default: all in the storage)")
@click.option("--watch", is_flag=True, help="show it again every few seconds, until Ctrl-C")
def status_(storage: str, study: str, watch: bool) -> None:
    """Show the trials of a storage: a file as runs/study.db, or an address."""
    import time

    from ctkeras import status
    from ctkeras.storage import address, open_storage

    opened = open_storage(address(storage, ""), create=False)
    try:
        while True:
            lines = "\n".join(status.report(opened.trials, study=study))
            if not watch:
                click.echo(lines)
                return
            click.clear()
            click.echo(f"{lines}\n\n{time.strftime('%H:%M:%S')}, Ctrl-C ends this")
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
    finally:
        opened.close()


@sweep.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--count", type=click.IntRange(1), default=None, help="runs to do (default: until the sweep ends)")
@click.option("--data", default=None, help="the data set on this machine (default: $CTKERAS_DATA, or the sweep's)")
def agent(path: str, count: int | None, data: str | None) -> None:
    """Do a sweep's runs in one warm process: imports and compiled programs are paid once."""
    from ctkeras import tracking, trial

    require_login()
    tracking.read_sweep(path)  # says what is wrong with the path before anything is started
    if data:
        os.environ["CTKERAS_DATA"] = data
    tracking.agent(path, functools.partial(trial.stoppable, {}), count=count)


@sweep.command("next")
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--phase", type=click.IntRange(2, 3), required=True)
@click.option("--wide", is_flag=True, help="phase 2: also optimizer, scheduler, max_epochs and weight_decay")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="file to write (default: phase<N>.yaml here)"
)
def next_(path: str, phase: int, wide: bool, out: Path | None) -> None:
    """Write the next phase's sweep file from a sweep's results, with the reasons in its header."""
    from ctkeras import runtime, sweepfile, tracking
    from ctkeras.runs import folder as runfolder

    require_login()
    previous, results = tracking.read_sweep(path)
    content, reasons = sweepfile.next_phase(previous, results, phase, wide=wide)
    target = out or Path(f"phase{phase}.yaml")
    runfolder.require_folder(target.parent, "--out", announce=True)
    header = [f"Phase {phase}, made from {path};", *reasons, f"python -m ctkeras sweep create {target}"]
    with runtime.atomic(target) as partial:
        partial.write_text(sweepfile.dump(content, header), encoding="utf-8")
    for line in reasons:
        click.echo(line, err=True)
    click.echo(str(target))


@sweep.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--download", is_flag=True, help="bring its model and check it against its contract")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="folder for the model (default: best-<run>)")
def best(path: str, download: bool, out: Path | None) -> None:
    """Show a sweep's best run by val_acc, ties by val_loss."""
    from ctkeras import sweepfile, tracking
    from ctkeras.runs.result import best_first

    require_login()
    _, results = tracking.read_sweep(path)
    if not results:
        raise UserError(f"{path} has no finished run with a val_acc yet")
    top = best_first(results)[0]
    click.echo(
        f"run {top.name}  val_acc {top.val_acc:.4f}  val_loss {top.val_loss:.4f}  of {len(results)} finished runs"
    )
    for name, value in sweepfile.plain(top.config).items():
        click.echo(f"  {name}: {value}")
    if download:
        from ctkeras import export, runtime

        folder = tracking.download_model(path, top.name, out or Path(f"best-{top.name}"))
        runtime.configure()
        export.check_contract(folder)
        click.echo(str(folder / "model.keras"))


def require_login() -> None:
    """W&B's server is needed here."""
    from ctkeras import tracking

    if lacking := tracking.lacking():
        raise UserError(f"this needs {lacking}")
