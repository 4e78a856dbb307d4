"""The whole study in one command: three phases, the best configuration's model, its one test evaluation, and a report."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras import contest, phases, runfolder, runtime, scoring, search, sweepfile
from ctkeras.config import RunConfig, UserError, check_name
from ctkeras.contest import Contender, Difference
from ctkeras.phases import Phase
from ctkeras.stopping import Stop, on_signals
from ctkeras.sweepfile import Result
from ctkeras.trials import Search

PHASE3_RUNS = 10  # two configurations, five seeds each
LEAST_SEEDS = 2  # of phase 3; one says nothing about spread


@dataclasses.dataclass(frozen=True)
class Study:
    """What is to be done."""

    name: str  # made from all that the results depend on
    first: Search  # phase 1's
    content: dict[str, Any]  # phase 1's sweep
    options: dict[str, Any]  # hyperparameters that are the same in all trials, and places
    trials: tuple[int, int, int]  # of the three phases
    wide: bool
    seed: int  # of the searches
    output_dir: Path  # holds the study's folder
    command: str  # that does it all again
    storage: str  # the trials' address, without its password


@dataclasses.dataclass(frozen=True)
class Found:
    """What a study has found."""

    folder: Path
    phases: list[Phase]
    winner: Contender
    runner_up: Contender | None
    difference: Difference | None
    final: Path  # the run folder of the model
    test: dict[str, Any]  # its metrics on the test split


def plan(
    content: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    models: Sequence[str] = (),
    trials: Sequence[int] = (),
    budget: float = 1.0,
    wide: bool = False,
    seed: int = 0,
    command: str = "",
    storage: str = "",
) -> Study:
    """Makes a study from a phase 1 and what was asked for.

    Args:
        content: phase 1's sweep.
        options: hyperparameters that are the same in all trials, and places.
        models: the architectures phase 1 chooses among; none leaves that to the sweep.
        trials: of the three phases; none for the sweep's run_cap, 20 and 10.
        budget: the share of these to do, rounded up.
        wide: phase 2 also searches optimizer, scheduler, max_epochs and weight_decay.
        seed: of the searches.
        command: that does it all again.
        storage: the trials' address, without its password; '' for study.db in output_dir.

    Raises:
        UserError: a value out of range.
    """
    for name in options:
        check_name(name)
    if "seed" in options:
        raise UserError("seed can't be fixed in a study: phase 3 repeats the best configurations with several seeds")
    content = dict(content)
    if models:
        named = [RunConfig.from_mapping({"model_name": name}).model_name for name in models]
        content["parameters"] = {**content["parameters"], "model_name": {"values": list(dict.fromkeys(named))}}
    first = search.plan(content, options, title="phase1", seed=seed)  # for the number of trials, and what it refuses
    counts = trials or (first.total, sweepfile.PHASE2_RUNS, PHASE3_RUNS)
    if len(counts) != 3 or min(counts) < 1:
        raise UserError(f"--trials takes three whole numbers from 1, as in 45,20,10; got {trials!r}")
    if not 0 < budget <= 1:
        raise UserError(f"--budget must be a share above 0 and at most 1; got {budget:g}")
    one, two, three = (max(1, math.ceil(count * budget - 1e-9)) for count in counts)  # 20 * 0.1 may come out above 2
    if one < first.total or content.get("method") != "grid":
        content["run_cap"] = one
        first = dataclasses.replace(first, content={**first.content, "run_cap": one}, total=one)
    output_dir = Path(first.places.get("output_dir", RunConfig.output_dir))
    where = storage or str(output_dir / "study.db")
    name = _name(first, (one, two, three), wide=wide)
    return Study(name, first, content, dict(options), (one, two, three), wide, seed, output_dir, command, where)


def _name(first: Search, trials: Sequence[int], *, wide: bool) -> str:
    """The study's name, made from all that its results depend on."""
    facts = [first.name, tuple(trials), wide]
    return f"study-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"


def run(study: Study, engine: phases.Engine) -> Found | None:
    """Does a study from where it stands; None when it was stopped.

    Args:
        study: from `plan`.
        engine: runs a phase's sweep.

    Raises:
        UserError: something the user can put right.
    """
    name = study.name
    folder = study.output_dir / name
    content = sweepfile.fix(study.content, _fixed(study))
    header = [f"Phase 1 of {name}."]
    done: list[Phase] = []
    for number in (1, 2, 3):
        later = sum(study.trials[number:])
        options = {**study.options, "output_dir": str(folder)}
        where = {"storage": study.storage} | ({"search_seed": study.seed} if study.seed else {})
        file = phases.write(folder, number, content, header, {**options, **where})
        runtime.note(f"\n{name}, phase {number} of 3 ({file})")
        phase = engine(phases.Task(number, content, options, study.seed, name, folder, later, study.first))
        if phase is None:
            return None
        done.append(phase)
        runtime.note(phases.summary(phase))
        if number < 3:
            content, header = _next(study, content, _to_choose_from(content, done), number + 1)
    first, *others = contest.contenders(done[-1].results)
    other = others[0] if others else None
    here = {run.name: folder / run.name for run in done[-1].results if (folder / run.name).is_dir()}
    difference = contest.compare(first, other, here) if other else None
    final = _final_run(folder, first.best, study)
    if final is None:
        return None
    found = Found(folder, done, first, other, difference, final, _test_once(final, str(study.options.get("data", ""))))
    runfolder.write_json(folder / "study.json", to_dict(study, name, found))
    return found


def _fixed(study: Study) -> dict[str, Any]:
    """The hyperparameters that are the same in all trials."""
    return {name: value for name, value in study.options.items() if name not in sweepfile.PLACES}


def _to_choose_from(content: Mapping[str, Any], done: Sequence[Phase]) -> list[Result]:
    """The runs that a next phase is made from: the last phase's, and before phase 3 also phase 1's best.

    A small phase 2 may have missed what made that one good. All of phase 1 counts when there is one configuration otherwise.
    """
    if len(done) == 1:
        return done[0].results
    runs = [*done[1].results, sweepfile.best_first(done[0].results)[0]]
    names = [name for name in sweepfile.searched(content) if name != "seed"]
    different = {tuple(run.config[name] for name in names) for run in runs}
    return runs if len(different) > 1 else done[1].results + done[0].results


def _next(
    study: Study, content: Mapping[str, Any], results: Sequence[Result], phase: int
) -> tuple[dict[str, Any], list[str]]:
    """The next phase's sweep, and its header."""
    seeds = range(max(LEAST_SEEDS, math.ceil(study.trials[2] / 2)))
    made, reasons = sweepfile.next_phase(
        content, results, phase, wide=study.wide, runs=study.trials[1], seeds=list(seeds)
    )
    made = sweepfile.fix(made, _fixed(study))
    points = math.prod(len(spec.get("values", [0])) for spec in made["parameters"].values())
    if phase == 2 and points <= study.trials[1]:  # all of them, each once, rather than some of them twice
        made = {**made, "method": "grid"}
        del made["run_cap"]
    return made, [f"Phase {phase} of {study.name};", *reasons]


def _final_run(folder: Path, best: Result, study: Study) -> Path | None:
    """The folder with the study's model: the winner's best seed.

    Nothing is trained for it: it is one of the runs that phase 3 compared, so its validation numbers are known, and choosing
    among its seeds by validation costs the test split nothing. It is trained again only where its folder isn't on this
    machine; None when that was stopped.
    """
    final = folder / best.name
    if (final / "model.keras").exists() and (final / "contract.json").exists():
        return final
    from ctkeras import training

    places = {name: study.options[name] for name in sweepfile.PLACES if name in study.options}
    config = RunConfig.from_mapping({**sweepfile.plain(best.config), **places, "output_dir": str(folder)})
    runtime.note(f"The winner's run {best.name} isn't on this machine; training it again.")
    stop = Stop()
    with on_signals(stop):
        result = training.train(config, run_id=best.name, stop=stop)
    return result.folder if result.metrics["stopped_by"] in training.FINISHED else None


def _test_once(final: Path, data: str) -> dict[str, Any]:
    """The final model's metrics on the test split, which is opened here for the first time, and once."""
    path = final / "metrics_test.json"
    if not path.exists():
        runtime.note("\nEvaluating the final model on the test split, once.")
        scoring.evaluate_run(final, "test", data=data or None)
    return runfolder.read_json(path)


def to_dict(study: Study, name: str, found: Found) -> dict[str, Any]:
    """What study.json holds; folders and files are relative to it."""
    difference = found.difference
    return {
        "study": name,
        "command": study.command,
        "phases": [phases.to_dict(phase) for phase in found.phases],
        "winner": found.winner.to_dict(),
        "runner_up": found.runner_up.to_dict() if found.runner_up else None,
        "ahead": difference.ahead if difference else None,
        "noise": difference.noise if difference else None,
        "seeds": len(found.winner.runs),
        "validation_images": difference.images if difference else None,
        "inside_noise": difference.inside_noise if difference else None,
        "final": {"folder": found.final.name, "model": f"{found.final.name}/model.keras"},
        "test_metrics": f"{found.final.name}/metrics_test.json",
        "test": {key: found.test.get(key) for key in ("n", "acc", "acc_low", "acc_high")},
        "seconds": sum(phase.seconds for phase in found.phases),
    }


def verdict(found: Found) -> list[str]:
    """The outcome in sentences."""
    winner, other, difference = found.winner, found.runner_up, found.difference
    lines = [f"winner:    {_described(winner)}"]
    if other is not None and difference is not None:
        lines.append(f"runner-up: {_described(other)}")
        by = f"{difference.ahead:.4f} behind over {difference.seeds} seeds"
        of = f" of {difference.images} validation images" if difference.images else ""
        if not difference.ahead and not difference.noise:
            lines.append(
                "The runner-up is inside the noise: both were right on the same images, so nothing here parts them."
            )
        elif difference.inside_noise:
            lines.append(
                f"The runner-up is inside the noise: {by}, where chance{of} alone makes up to {difference.noise:.4f}."
            )
        else:
            lines.append(f"The winner's lead is more than noise: {by}, chance{of} makes up to {difference.noise:.4f}.")
    else:
        lines.append("There is no runner-up: all of phase 2's runs had one configuration.")
    test = found.test
    lines.append(f"final model: {found.final / 'model.keras'}")
    bounds = f"95% interval {test['acc_low']:.4f} to {test['acc_high']:.4f}" if "acc_low" in test else "no interval"
    lines.append(f"test accuracy {test['acc']:.4f} ({bounds}, {test['n']} images), evaluated once")
    return lines


def _described(one: Contender) -> str:
    """A configuration's numbers over its seeds, and what sets it apart."""
    names = ("model_name", "freeze_backbone", "lr", "weight_decay", "batch_size", "dropout", "label_smoothing")
    values = list(one.accuracies.values())
    numbers = (
        f"val_acc {one.mean:.4f}, sd {one.spread:.4f}, {min(values):.4f} to {max(values):.4f}, {len(values)} seeds"
    )
    return f"{numbers}; {phases.settings(one.config, [*names, 'mixup_alpha', 'optimizer', 'scheduler', 'max_epochs'])}"
