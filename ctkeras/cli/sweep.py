"""The `sweep` verbs."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import click

from ctkeras.cli.options import (
    address_of,
    config_options,
    engine_options,
    export_option,
    load_sound,
    read_config,
    require_login,
    tell_idle,
)
from ctkeras.errors import UserError

WATCH_SECONDS = 3.0  # between refreshes


@click.group()
def sweep() -> None:
    """Search hyperparameters with a sweep file."""


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(["any", "local", "wandb"]),
    default="any",
    show_default=True,
    help="rules to check: local for sweep run, wandb for sweep create and sweep agent, any for both",
)
def check(file: Path, engine: str) -> int:
    """Check a sweep file: print each fault with its line and key; exit code 2 if an engine refuses the file.

    By default a file is valid only if both `sweep run FILE` and `sweep create FILE` accept it.
    """
    from ctkeras.sweep.check import ENGINES
    from ctkeras.sweep.check import check as check_check
    from ctkeras.sweep.file import load

    findings = check_check(load(file), engine=None if engine == "any" else engine)
    for finding in findings:
        click.echo(f"{file}, {finding}", err=True)
    refusing = {finding.engine for finding in findings if finding.error}
    if not refusing:
        click.echo(f"{file} is valid{'' if engine == 'any' else f' for {ENGINES[engine]}'}.")
        return 0
    if "" not in refusing and engine == "any":
        accepting = " and ".join(words for name, words in ENGINES.items() if name not in refusing)
        click.echo(f"{file} is refused by {_engines(refusing)}, and valid for {accepting or 'no engine'}.", err=True)
    return 2


def _engines(names: set[str]) -> str:
    """Engines in words."""
    from ctkeras.sweep import check

    return " and ".join(check.ENGINES[name] for name in sorted(names))


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--project", default="", help="W&B project (default: the file's, $WANDB_PROJECT, else ctkeras)")
@click.option("--entity", default="", help="W&B team or user (default: yours)")
def create(file: Path, project: str, entity: str) -> None:
    """Check a sweep file and register it at W&B; the last line is ENTITY/PROJECT/SWEEP_ID."""
    from ctkeras.tracking import sweeps

    content = load_sound(file, engine="wandb")
    require_login()
    click.echo(sweeps.create_sweep(content, project=project, entity=entity))


@sweep.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(1),
    default=None,
    help="maximum number of trials; required for random and bayes if the file has no run_cap",
)
@click.option(
    "--budget",
    default="",
    metavar="TIME",
    help="start no trial that would not end within this time, as in 90m, 2h or 3:00:00",
)
@export_option
@engine_options
@config_options
def run(
    file: Path,
    count: int | None,
    budget: str,
    export: str,
    workers: int,
    storage: str,
    search_seed: int,
    patience: float,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Run a sweep file on this machine, with no account and no network; the same command resumes it.

    Hyperparameters given as options are the same in all trials. The last line is the path of the best model.
    """
    from ctkeras.search import local, plan
    from ctkeras.search.budget import Budget, seconds_of
    from ctkeras.search.pool import Pool

    time = Budget.of(seconds_of(budget)) if budget else None
    content = load_sound(file, engine="local", count=count)
    options = read_config(config_file, flags)
    planned = plan.plan(content, options, title=file.stem, seed=search_seed)
    tell_idle(options, planned.content)
    url = address_of(storage, planned.places.get("output_dir", "runs"))
    pool = Pool(workers, patience=patience, export_all=export == "all")
    try:
        outcome = local.run(planned, url=url, pool=pool, budget=time)
    finally:
        pool.end()
    return _print_outcome(outcome, planned)


def _print_outcome(outcome: Any, planned: Any) -> int:
    """Prints how a search ended; the last line is the path of the best model. Returns the exit code."""
    from ctkeras.search import status

    if outcome.stopped_by:
        click.echo(f"Stopped by {outcome.stopped_by}; the same command resumes the search.", err=True)
        return {"sigint": 130, "sighup": 129}.get(outcome.stopped_by, 143)
    if outcome.left_out and not outcome.trials:
        raise UserError(f"{outcome.left_out}, given more time")
    ended, failed = len(outcome.trials), sum(trial.value is None for trial in outcome.trials)
    saved = status.epochs_saved(outcome.trials)
    parts = [f"{planned.name} has {'ended' if outcome.left_out else 'finished'}: {status.counted(ended, 'trial')}"]
    parts += [f"{failed} of them failed"] if failed else []
    parts += [f"{saved} epochs saved by hyperband"] if saved else []
    click.echo(", ".join(parts))
    if outcome.left_out:
        click.echo(f"{outcome.left_out}.")
    best = status.best(outcome.trials, maximize=planned.maximize)
    if best is None:
        raise UserError(f"every trial failed; the last one: {outcome.trials[-1].user_attrs.get('failure')}")
    names = status.settings(best.user_attrs["config"], [*planned.varied])
    click.echo(f"best: trial {best.number}  {planned.metric} {best.value:.4f}  {names}")
    click.echo(str(Path(best.user_attrs["folder"]) / "model.keras"))
    return 0


@sweep.command("status")
@click.argument("storage", metavar="STORAGE")
@click.option("--study", default="", help="one search (default: all in the storage)")
@click.option("--watch", is_flag=True, help="refresh every few seconds, until Ctrl-C; waits for the first trial")
def status_(storage: str, study: str, watch: bool) -> None:
    """Show the trials in a storage: a file such as runs/study.db, journal:FILE or the address of a database."""
    from ctkeras.search import status
    from ctkeras.search.storage import address, open_storage

    url = address(storage, "")
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(url, study)
        click.echo("No longer watching; the search is not affected.", err=True)
        return
    opened = open_storage(url, create=False)
    try:
        click.echo("\n".join(status.report(opened.trials, study=study)))
    finally:
        opened.close()


def _watch(url: Any, study: str) -> None:
    """Shows the trials in a storage again and again; a file or a search that does not exist yet is waited for."""
    import time

    from ctkeras.search import status
    from ctkeras.search.storage import open_storage

    while url.drivername in ("sqlite", "journal") and not Path(url.database).exists():
        _show(f"there is no file {url.database} yet")
        time.sleep(WATCH_SECONDS)
    opened = open_storage(url, create=False)
    try:
        while True:
            try:
                lines = status.report(opened.trials, study=study)
            except status.NoSearch as error:
                lines = [str(error)]
            _show("\n".join(lines))
            time.sleep(WATCH_SECONDS)
    finally:
        opened.close()


def _show(text: str) -> None:
    """Replaces what is on the terminal."""
    import time

    click.clear()
    click.echo(f"{text}\n\n{time.strftime('%H:%M:%S')}, Ctrl-C to quit")


@sweep.command()
@click.argument("storage", metavar="STORAGE")
@click.argument("file", type=click.Path(path_type=Path))
def export(storage: str, file: Path) -> None:
    """Copy a storage's searches into a new SQLite file, for optuna-dashboard; STORAGE may be a journal's path."""
    from ctkeras.runtime import console
    from ctkeras.search.export import export as export_storage

    given = storage if "://" in storage or storage.startswith("journal:") else f"journal:{storage}"
    with console.waiting(f"Copying {storage} to {file}"):
        export_storage(address_of(given, ""), file)
    click.echo(str(file))


@sweep.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--count", type=click.IntRange(1), default=None, help="number of runs (default: until the sweep ends)")
@click.option("--data", default=None, help="the data set on this machine (default: $CTKERAS_DATA, or the sweep's)")
def agent(path: str, count: int | None, data: str | None) -> None:
    """Run a W&B sweep's runs in one process, which imports and compiles only once."""
    from ctkeras.search.agent import stoppable
    from ctkeras.tracking import sweeps

    require_login()
    _require_runs(path, sweeps.read_sweep(path)[0])
    if data:
        os.environ["CTKERAS_DATA"] = data
    sweeps.agent(path, functools.partial(stoppable, {}), count=count)


def _require_runs(path: str, content: dict[str, Any]) -> None:
    """Refuses a sweep at W&B whose runs would be refused; its other keys are W&B's, which has accepted them."""
    from ctkeras.sweep import check, file

    findings = check.check(file.SweepFile(path, content, {}), engine="wandb")
    for finding in findings:
        if finding.error and finding.key.startswith("parameters"):
            raise UserError(f"the sweep {path}, {finding}; create it again from a valid file")


@sweep.command("next")
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--phase", type=click.IntRange(2, 3), required=True, help="the phase to write a file for")
@click.option("--wide", is_flag=True, help="phase 2 also searches optimizer, scheduler, max_epochs and weight_decay")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="file to write (default: phase<N>.yaml here)"
)
def next_(path: str, phase: int, wide: bool, out: Path | None) -> None:
    """Write the sweep file of the next phase from a sweep's results; its header explains the choices."""
    from ctkeras.runs import folder
    from ctkeras.runtime import files
    from ctkeras.sweep import file, phases
    from ctkeras.tracking import sweeps

    require_login()
    previous, results = sweeps.read_sweep(path)
    content, reasons = phases.next_phase(previous, results, phase, wide=wide)
    target = out or Path(f"phase{phase}.yaml")
    folder.require_folder(target.parent, "--out", announce=True)
    header = [f"Phase {phase}, from the results of {path}:", *reasons, f"python -m ctkeras sweep create {target}"]
    with files.atomic(target) as partial:
        partial.write_text(file.dump(content, header), encoding="utf-8")
    for line in reasons:
        click.echo(line, err=True)
    click.echo(str(target))


@sweep.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--download", is_flag=True, help="download its model and check it against its contract")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="folder for the model (default: best-<run>)")
def best(path: str, download: bool, out: Path | None) -> None:
    """Show a sweep's best run by val_acc, ties broken by val_loss."""
    from ctkeras.models import predict
    from ctkeras.runs.result import best_first
    from ctkeras.runtime import process
    from ctkeras.sweep import file
    from ctkeras.tracking import sweeps

    require_login()
    _, results = sweeps.read_sweep(path)
    if not results:
        raise UserError(f"{path} has no finished run with a val_acc yet")
    top = best_first(results)[0]
    click.echo(
        f"run {top.name}  val_acc {top.val_acc:.4f}  val_loss {top.val_loss:.4f}  of {len(results)} finished runs"
    )
    for name, value in file.plain(top.config).items():
        click.echo(f"  {name}: {value}")
    if download:
        folder = sweeps.download_model(path, top.name, out or Path(f"best-{top.name}"))
        process.configure()
        predict.check_contract(folder)
        click.echo(str(folder / "model.keras"))
