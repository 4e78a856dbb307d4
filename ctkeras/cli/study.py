"""The `study` verb."""

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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

if TYPE_CHECKING:
    from ctkeras.search.budget import Budget
    from ctkeras.study.plan import Study


class WithVerbs(click.Command):
    """`study`, and `study slurm`, which main adds: a group has no options after its verb."""

    verbs: ClassVar[dict[str, click.Command]] = {}

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        """Parses the arguments as those of the verb that they name."""
        if args and args[0] in self.verbs:
            return self.verbs[args[0]].make_context(args[0], args[1:], *more, **extra)
        return super().make_context(info_name, args, *more, **extra)


@click.command(cls=WithVerbs)
@click.option(
    "--trials",
    default="",
    metavar="N,N,N",
    help="trials per phase (default: all of phase 1,24,10 in folds, else 45,20,10)",
)
@click.option(
    "--budget",
    default="1",
    show_default=True,
    metavar="TIME|SHARE",
    help="start no trial that would not end within this time, as in 90m, 2h or 3:00:00; or the share of these trials to run, "
    "rounded up",
)
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
    "--refit", is_flag=True, help="in folds: train the winner's configuration on everything as the final model"
)
@click.option(
    "--fine_tune", is_flag=True, help="in folds: phase 3 also fine-tunes the best configuration, which takes far longer"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "wandb"]),
    default="local",
    show_default=True,
    help="the engine that runs the phases",
)
@click.option("--entity", default="", help="with --engine wandb: team or user (default: yours)")
@export_option
@engine_options
@config_options
def study(
    trials: str,
    budget: str,
    models: str,
    file: Path | None,
    wide: bool,
    refit: bool,
    fine_tune: bool,
    engine: str,
    entity: str,
    export: str,
    workers: int,
    storage: str,
    search_seed: int,
    patience: float,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Run all three phases, evaluate the best model once on the test split, and write a report.

    With a frozen backbone on this machine, heads are solved, and validated by 5 folds of similar slices; otherwise runs are
    trained in epochs and validated on the given split. Run the same command again to resume. Hyperparameters given as options
    are the same in all trials. The last line of the output is the report's path.
    """
    from ctkeras.report import report
    from ctkeras.runtime import console
    from ctkeras.search.pool import Pool
    from ctkeras.search.storage import masked
    from ctkeras.study import engines
    from ctkeras.study.study import run as study_run
    from ctkeras.study.verdict import verdict

    if engine == "wandb":
        require_login()
    options = read_config(config_file, flags)
    share, time = _budget(budget)
    if time is not None and (engine == "wandb" or _is_shared(storage)):
        raise UserError(
            "a time as --budget is for a study on one machine; give a share, as in --budget 0.5, or --trials"
        )
    own = None
    if file is not None:
        own = load_sound(file, engine="local", count=next(iter(_numbers(trials)), None))
    request = {
        "models": [name for name in models.split(",") if name],
        "trials": _numbers(trials),
        "budget": share,
        "wide": wide,
        "seed": search_seed,
        "command": _command(),
        "storage": masked(storage),
        "refit": refit,
        "fine_tune": fine_tune,
    }
    planned = _planned(options, request, engine=engine, file=file, own=own)
    options = planned.options
    tell_idle(options, planned.content)
    pool = Pool(workers, patience=patience, export_all=export == "all")
    run: engines.Engine
    if engine == "wandb":
        run = functools.partial(engines.wandb, project=str(options.get("project") or ""), entity=entity)
    else:
        url = address_of(storage, str(planned.output_dir))
        run = functools.partial(engines.local, url=url, pool=pool, budget=time)
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


def _planned(
    options: dict[str, Any], request: dict[str, Any], *, engine: str, file: Path | None, own: dict[str, Any] | None
) -> "Study":
    """The study of solved heads in folds where it can be, otherwise of training in epochs; prints which and why.

    Args:
        options: hyperparameters that are the same in all trials, and places.
        request: other arguments of study.plan.
        engine: local or wandb.
        file: the sweep file of phase 1, if one is given.
        own: its content.

    Raises:
        UserError: as study.plan; or folds are requested for runs that are trained in epochs.
    """
    from ctkeras.config import RunConfig, parse_value
    from ctkeras.study import solved
    from ctkeras.study.plan import plan
    from ctkeras.sweep import phases

    why = solved.why_not(options, engine=engine, file=file, wide=request["wide"])
    in_epochs = {name: value for name, value in options.items() if name != "folds"}
    if not why:
        earlier = _begun_in_epochs(in_epochs, request) if "folds" not in options and not request["refit"] else None
        if earlier is not None:
            click.echo(f"Resuming {earlier.name} on the given split, as it was begun; in folds: --folds 5", err=True)
            return earlier
        planned = plan(phases.SOLVED1, options, **request, solved=True)
        count = RunConfig.from_mapping(options).fold_count
        click.echo(
            f"Solving heads on frozen backbones, validated by {count} folds of train and valid together "
            "(--folds 0: trained in epochs, validated on the given split).",
            err=True,
        )
        return planned
    if parse_value("folds", options.get("folds", 0)) not in (0, "auto") and file is None:
        raise UserError(f"--folds {options['folds']} needs solved heads; the study would train in epochs: {why}")
    planned = plan(own or phases.PHASE1, options if file is not None else in_epochs, **request)
    click.echo(f"Validating on the given split, not in folds: {why}.", err=True)
    return planned


def _begun_in_epochs(options: dict[str, Any], request: dict[str, Any]) -> "Study | None":
    """The study that this command meant before there were folds, if the folder of results has it unfinished."""
    from ctkeras.config import RunConfig
    from ctkeras.study.plan import plan
    from ctkeras.sweep import phases

    output_dir = Path(str(options.get("output_dir") or RunConfig.output_dir))
    if not any(output_dir.glob("study-*/phase1.yaml")):
        return None
    earlier = plan(phases.PHASE1, options, **request)
    folder = earlier.output_dir / earlier.name
    return earlier if folder.is_dir() and not (folder / "study.json").exists() else None


def _budget(text: str) -> "tuple[float, Budget | None]":
    """The share of the trials, and the time if the budget is one.

    Raises:
        UserError: it is neither a number nor a time.
    """
    from ctkeras.search.budget import EXAMPLES, Budget, seconds_of

    try:
        return float(text), None
    except ValueError:
        pass
    try:
        return 1.0, Budget.of(seconds_of(text))
    except UserError:
        raise UserError(f"--budget takes a share from 0 to 1, or {EXAMPLES}; got {text!r}") from None


def _is_shared(storage: str) -> bool:
    """Whether other machines may work on the same trials."""
    from ctkeras.search.storage import address

    return bool(storage) and address(storage, "").drivername != "sqlite"


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
