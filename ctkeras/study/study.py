"""The whole study in one command: three phases, the best configuration's model, its one test evaluation, and a report."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import PLACES, RunConfig, check_name
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison, evaluate
from ctkeras.evaluation.comparison import Comparison
from ctkeras.runs.checkpoint import TRAINED
from ctkeras.runs.folder import FINISHED, read_json, write_json
from ctkeras.runs.result import Result, best_first
from ctkeras.runtime import console
from ctkeras.search import plan as search_plan
from ctkeras.search.plan import Search
from ctkeras.study import engines, solved
from ctkeras.study.edges import at_edges
from ctkeras.study.engines import Phase
from ctkeras.study.winner import Contender, compare, contenders
from ctkeras.sweep.file import fix, load, plain, searched
from ctkeras.sweep.phases import PHASE2_RUNS, SOLVED2_RUNS, next_phase
from ctkeras.training.stopping import Stop, on_signals

PHASE3_RUNS = 10  # two configurations, five seeds each
LAST_STEPS = 2  # the evaluation on test and the report, each of which takes about as long as a trial of a solved head
LEAST_SEEDS = 2  # of phase 3; one seed has no spread


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, as requested."""

    name: str  # made from all that the results depend on
    first: Search  # phase 1's
    content: dict[str, Any]  # phase 1's sweep
    options: dict[str, Any]  # hyperparameters that are the same in all trials, and places
    trials: tuple[int, int, int]  # per phase
    wide: bool
    seed: int  # of the searches
    output_dir: Path  # contains the study's folder
    command: str  # to reproduce the study
    storage: str  # address of the trials, without the password
    solved: bool = False  # of solved heads, validated in folds
    refit: bool = False  # the model is the winner's configuration, trained on everything


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a study."""

    folder: Path
    phases: list[Phase]
    winner: Contender
    runner_up: Contender | None
    difference: Comparison | None  # None: it cannot be tested
    final: Path  # the run folder of the model
    test: dict[str, Any]  # the model's metrics on the test split
    in_folds: solved.InFolds | None = None  # the winner's numbers in folds
    edges: Sequence[str] = ()  # sentences: which of the winner's values lie at the edge of what was searched
    rule: str = ""  # by which the winner was chosen, if not by the highest mean


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
    solved: bool = False,
    refit: bool = False,
) -> Study:
    """Plans a study from the sweep of phase 1 and the options.

    Args:
        content: phase 1's sweep.
        options: hyperparameters that are the same in all trials, and places.
        models: the architectures that phase 1 chooses among; empty for those of the sweep.
        trials: per phase; empty for the sweep's run_cap, 20 (24 with solved heads) and 10.
        budget: the share of these trials to run, rounded up.
        wide: phase 2 also searches optimizer, scheduler, max_epochs and weight_decay.
        seed: of the searches.
        command: to reproduce the study.
        storage: address of the trials, without the password; '' for study.db in output_dir.
        solved: the heads are solved and validated in folds, and phase 2 searches what matters for them.
        refit: the model is the winner's configuration, trained on everything.

    Raises:
        UserError: a value out of range.
    """
    if refit and not solved:
        raise UserError("--refit needs a study whose runs are validated in folds; remove it, or what rules folds out")
    for name in options:
        check_name(name)
    if "seed" in options:
        raise UserError("seed cannot be fixed in a study, because phase 3 runs several seeds; remove --seed")
    content = dict(content)
    if models:
        named = [RunConfig.from_mapping({"model_name": name}).model_name for name in models]
        content["parameters"] = {**content["parameters"], "model_name": {"values": list(dict.fromkeys(named))}}
    first = search_plan.plan(content, options, title="phase1", seed=seed)  # also checks the sweep and the options
    counts = trials or (first.total, SOLVED2_RUNS if solved else PHASE2_RUNS, PHASE3_RUNS)
    if len(counts) != 3 or min(counts) < 1:
        raise UserError(f"--trials takes three whole numbers from 1, as in 45,20,10; got {trials!r}")
    if not 0 < budget <= 1:
        raise UserError(f"--budget must be above 0 and at most 1; got {budget:g}")
    one, two, three = (max(1, math.ceil(count * budget - 1e-9)) for count in counts)  # 20 * 0.1 may be a little above 2
    if one < first.total or content.get("method") != "grid":
        content["run_cap"] = one
        first = dataclasses.replace(first, content={**first.content, "run_cap": one}, total=one)
    output_dir = Path(first.places.get("output_dir", RunConfig.output_dir))
    where = storage or str(output_dir / "study.db")
    name = _name(first, (one, two, three), wide=wide)
    counts = one, two, three
    return Study(name, first, content, dict(options), counts, wide, seed, output_dir, command, where, solved, refit)


def _name(first: Search, trials: Sequence[int], *, wide: bool) -> str:
    """The study's name, made from all that its results depend on."""
    facts = [first.name, tuple(trials), wide]
    return f"study-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"


def run(study: Study, engine: engines.Engine) -> Outcome | None:
    """Runs a study from its current state; None if it was stopped.

    Args:
        study: from `plan`.
        engine: runs a phase's sweep.

    Raises:
        UserError: something that the user can correct.
    """
    name = study.name
    folder = study.output_dir / name
    content = fix(study.content, _fixed(study))
    header = [f"Phase 1 of {name}."]
    done: list[Phase] = []
    for number in (1, 2, 3):
        later = sum(study.trials[number:]) + LAST_STEPS
        options = {**study.options, "output_dir": str(folder)}
        where = {"storage": study.storage} | ({"search_seed": study.seed} if study.seed else {})
        file = engines.write(folder, number, content, header, {**options, **where})
        console.note(f"\n{name}, phase {number} of 3 ({file})")
        phase = engine(engines.Task(number, content, options, study.seed, name, folder, later, study.first))
        if phase is None:
            return None
        done.append(phase)
        console.note(engines.summary(phase))
        if number < 3:
            content, header = _continue(study, content, done, number + 1, folder)
    outcome = _ended(study, done, folder)
    if outcome is not None:
        write_json(folder / "study.json", to_dict(study, name, outcome))
    return outcome


def _continue(
    study: Study, content: Mapping[str, Any], done: Sequence[Phase], phase: int, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The sweep of the phase after those that have ended, and its header."""
    if study.solved and phase == 3:
        runs = [run for one in done for run in one.results]
        return _next(
            study,
            content,
            runs,
            phase,
            chosen=solved.finalists(content, runs, folder, comparison.audit_of(study.options)),
        )
    return _next(study, content, _to_choose_from(content, done), phase)


def _ended(study: Study, done: list[Phase], folder: Path) -> Outcome | None:
    """The winner of a study whose phases have ended, and its model on the test split; None if it was stopped."""
    ranked = contenders(done[-1].results)
    folders = {run.name: folder / run.name for run in done[-1].results if (folder / run.name).is_dir()}
    audited = comparison.audit_of(study.options)
    first = solved.cheapest(ranked, folders, audited) if study.solved else ranked[0]
    other = next((one for one in ranked if one is not first), None)
    difference = compare(first, other, folders, audited) if other else None
    in_folds = solved.in_folds(first, folder) if study.solved else None
    final = _final_run(folder, first.best, study, refit=study.refit and in_folds is not None)
    if final is None:
        return None
    metrics = _test_once(final, str(study.options.get("data", "")))
    rule = solved.RULE if study.solved else ""
    searches = [load(folder / f"phase{number}.yaml").content for number in (1, 2)]
    edges = at_edges(first.config, searches)
    return Outcome(folder, done, first, other, difference, final, metrics, in_folds, edges, rule)


def _fixed(study: Study) -> dict[str, Any]:
    """The hyperparameters that are the same in all trials."""
    return {name: value for name, value in study.options.items() if name not in PLACES}


def _to_choose_from(content: Mapping[str, Any], done: Sequence[Phase]) -> list[Result]:
    """The runs that the next phase is made from: those of the last phase and, before phase 3, also the best of phase 1.

    A small phase 2 may have missed what made that run good. If there would be only one configuration, all runs of phase 1
    count.
    """
    if len(done) == 1:
        return done[0].results
    runs = [*done[1].results, best_first(done[0].results)[0]]
    names = [name for name in searched(content) if name != "seed"]
    different = {tuple(run.config[name] for name in names) for run in runs}
    return runs if len(different) > 1 else done[1].results + done[0].results


def _next(
    study: Study,
    content: Mapping[str, Any],
    results: Sequence[Result],
    phase: int,
    *,
    chosen: tuple[Sequence[Result], str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The sweep of the next phase, and its header."""
    # Seed 0 chose the finalists of solved heads; other assignments to folds judge them, so no run is repeated either.
    seeds = [seed + study.solved for seed in range(max(LEAST_SEEDS, math.ceil(study.trials[2] / 2)))]
    runs, kind = study.trials[1], {"wide": study.wide, "solved": study.solved}
    sweep, reasons = next_phase(content, results, phase, **kind, runs=runs, seeds=seeds, chosen=chosen)
    sweep = fix(sweep, _fixed(study))
    points = math.prod(len(spec.get("values", [0])) for spec in sweep["parameters"].values())
    if phase == 2 and points <= study.trials[1]:  # every point once, rather than some of them twice
        sweep = {**sweep, "method": "grid"}
        del sweep["run_cap"]
    return sweep, [f"Phase {phase} of {study.name},", *reasons]


def _final_run(folder: Path, best: Result, study: Study, *, refit: bool) -> Path | None:
    """The run folder of the study's model: the winner's best seed; with refit, a run on everything.

    The best seed is one of the runs that phase 3 compared, so nothing more is trained, and the test split plays no part in the
    choice. It is trained again only if its folder is not on this machine; None if that was stopped.
    """
    final = folder / (f"{best.name}-refit" if refit else best.name)
    if (final / "model.keras").exists() and (final / "contract.json").exists():
        return final
    from ctkeras.training import kept
    from ctkeras.training.train import train

    places = {name: study.options[name] for name in PLACES if name in study.options}
    if (final / TRAINED).exists():
        kept.export(final, weights_dir=str(places.get("weights_dir", "")))
        return final
    more = {"fold": "refit"} if refit else {}
    config = RunConfig.from_mapping({**plain(best.config), **places, "output_dir": str(folder), **more})
    if refit:
        console.note("\nTraining the winner's configuration on training and validation images together.")
    else:
        console.note(f"The winner's run {best.name} is not on this machine; training it again.")
    stop = Stop()
    with on_signals(stop):
        result = train(config, run_id=final.name, stop=stop)
    return result.folder if result.metrics["stopped_by"] in FINISHED else None


def _test_once(final: Path, data: str) -> dict[str, Any]:
    """The final model's metrics on the test split, which is opened for the first and only time."""
    path = final / "metrics_test.json"
    if not path.exists():
        console.note("\nEvaluating the final model on the test split, once.")
        evaluate.evaluate(final, "test", data=data or None)
    return read_json(path)


def to_dict(study: Study, name: str, outcome: Outcome) -> dict[str, Any]:
    """The content of study.json; folders and files are relative to it."""
    difference = outcome.difference
    return {
        "study": name,
        "command": study.command,
        "phases": [engines.to_dict(phase) for phase in outcome.phases],
        "winner": outcome.winner.to_dict(),
        "runner_up": outcome.runner_up.to_dict() if outcome.runner_up else None,
        "ahead": outcome.winner.mean - outcome.runner_up.mean if outcome.runner_up else None,
        "low": difference.low if difference else None,
        "high": difference.high if difference else None,
        "p": difference.p if difference else None,
        "verdict": comparison.worded(difference) if difference else None,
        "seeds": len(outcome.winner.runs),
        "validation_images": difference.n if difference else None,
        "inside_noise": difference.inside_noise if difference else None,
        "standard_error": difference.error if difference else None,
        "rule": outcome.rule,
        "edges": list(outcome.edges),
        "in_folds": outcome.in_folds._asdict() if outcome.in_folds else None,
        "final": {"folder": outcome.final.name, "model": f"{outcome.final.name}/model.keras"},
        "test_metrics": f"{outcome.final.name}/metrics_test.json",
        "test": {key: outcome.test.get(key) for key in ("n", "acc", "acc_low", "acc_high")},
        "seconds": sum(phase.seconds for phase in outcome.phases),
    }
