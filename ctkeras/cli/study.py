"""The `study` verb."""

import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ctkeras.cli.options import (
    address_of,
    config_options,
    engine_options,
    load_sound,
    read_config,
    require_login,
    tell_idle,
)
from ctkeras.errors import UserError


@click.command()
@click.option("--trials", default="", metavar="N,N,N", help="trials per phase (default: 45,20,10)")
@click.option("--budget", type=float, default=1.0, show_default=True, help="share of these trials to run, rounded up")
@click.option("--models", default="", metavar="NAME,NAME", help="architectures that phase 1 chooses among")
@click.option(
    "--phase1",
    "file",
    type=click.Path(path_type=Path),
    default=None,
    help="sweep file of phase 1 (default: the built-in one)",
)
@click.option("--wide", is_flag=True, help="phase 2 also searches optimizer, scheduler, max_epochs and weight_decay")
@click.option(
    "--engine",
    type=click.Choice(["local", "wandb"]),
    default="local",
    show_default=True,
    help="the engine that runs the phases",
)
@click.option("--entity", default="", help="with --engine wandb: team or user (default: yours)")
@engine_options
@config_options
def study(
    trials: str,
    budget: float,
    models: str,
    file: Path | None,
    wide: bool,
    engine: str,
    entity: str,
    workers: int,
    storage: str,
    search_seed: int,
    patience: float,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Run all three phases, evaluate the best model once on the test split, and write a report.

    Run the same command again to resume. Hyperparameters given as options are the same in all trials. The last line of the
    output is the report's path.
    """
    from ctkeras.report import report
    from ctkeras.runtime import console
    from ctkeras.search.pool import Pool
    from ctkeras.search.storage import masked
    from ctkeras.study import engines
    from ctkeras.study.study import plan, verdict
    from ctkeras.study.study import run as study_run
    from ctkeras.sweep import phases

    if engine == "wandb":
        require_login()
    options = read_config(config_file, flags)
    content = phases.PHASE1
    if file is not None:
        content = load_sound(file, engine="local", count=next(iter(_numbers(trials)), None))
    planned = plan(
        content,
        options,
        models=[name for name in models.split(",") if name],
        trials=_numbers(trials),
        budget=budget,
        wide=wide,
        seed=search_seed,
        command=_command(),
        storage=masked(storage),
    )
    tell_idle(options, planned.content)
    pool = Pool(workers, patience=patience)
    run: engines.Engine
    if engine == "wandb":
        run = functools.partial(engines.wandb, project=str(options.get("project") or ""), entity=entity)
    else:
        url = address_of(storage, str(planned.output_dir))
        run = functools.partial(engines.local, url=url, pool=pool)
    try:
        outcome = study_run(planned, run)
    finally:
        pool.end()
    if outcome is None:
        click.echo("Stopped; run the same command to resume.", err=True)
        return 130
    for line in verdict(outcome):
        click.echo(line)
    with console.waiting("Writing the report"):
        path = report.write_report(outcome.folder, data=str(options.get("data") or ""))
    click.echo(str(path))
    return 0


def _numbers(text: str) -> list[int]:
    """Whole numbers separated by commas.

    Raises:
        UserError: the text is something else.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--trials takes three whole numbers, as in 45,20,10; got {text!r}") from None


def _command() -> str:
    """The command to reproduce this study, without a password."""
    from ctkeras.search.storage import masked

    return masked(shlex.join(["python", "-m", "ctkeras", *sys.argv[1:]]))
