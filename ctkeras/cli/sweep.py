"""The `sweep` verbs."""

import os
from pathlib import Path

import click

from ctkeras.config import UserError


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
    _require_login()
    click.echo(tracking.create_sweep(loaded.content, project=project, entity=entity))


@sweep.command()
@click.argument("path", metavar="ENTITY/PROJECT/SWEEP_ID")
@click.option("--count", type=click.IntRange(1), default=None, help="runs to do (default: until the sweep ends)")
@click.option("--data", default=None, help="the data set on this machine (default: $CTKERAS_DATA, or the sweep's)")
def agent(path: str, count: int | None, data: str | None) -> None:
    """Do a sweep's runs in one warm process: imports and compiled programs are paid once."""
    from ctkeras import tracking, trial

    _require_login()
    tracking.read_sweep(path)  # says what is wrong with the path before anything is started
    if data:
        os.environ["CTKERAS_DATA"] = data
    tracking.agent(path, trial.stoppable, count=count)


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

    _require_login()
    previous, results = tracking.read_sweep(path)
    content, reasons = sweepfile.next_phase(previous, results, phase, wide=wide)
    target = out or Path(f"phase{phase}.yaml")
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

    _require_login()
    _, results = tracking.read_sweep(path)
    if not results:
        raise UserError(f"{path} has no finished run with a val_acc yet")
    top = sweepfile.best_first(results)[0]
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


def _require_login() -> None:
    """W&B's server is needed here."""
    from ctkeras import tracking

    if not tracking.has_credentials():
        raise UserError("this needs a W&B login: run wandb login, or set WANDB_API_KEY")
