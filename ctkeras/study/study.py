"""The whole study in one command: three phases, the best configuration's model, its one test evaluation, and a report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import PLACES
from ctkeras.evaluation import comparison
from ctkeras.runs.folder import write_json
from ctkeras.runs.result import Result, best_first
from ctkeras.runtime import console
from ctkeras.study import engines, finetuned, solved, timed
from ctkeras.study.ending import Outcome, ended, to_dict
from ctkeras.study.engines import Phase
from ctkeras.study.plan import Study
from ctkeras.sweep.file import fix, searched
from ctkeras.sweep.phases import next_phase

LAST_STEPS = 2  # the evaluation on test and the report, each of which takes about as long as a trial of a solved head
LEAST_SEEDS = 2  # of phase 3; one seed has no spread


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
        console.note(engines.summary(phase))
        if not phase.results:
            console.note(f"The winner is chosen among the runs of phase {number - 1}.")
            break
        done.append(phase)
        if number < 3:
            content, header = _continue(study, content, done, number + 1, folder)
    outcome = ended(study, done, folder)
    if outcome is not None:
        write_json(folder / "study.json", to_dict(study, name, outcome))
        timed.clear(folder)
    return outcome


def _continue(
    study: Study, content: Mapping[str, Any], done: Sequence[Phase], phase: int, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The sweep of the phase after those that have ended, and its header."""
    if study.solved and phase == 3:
        runs = [run for one in done for run in one.results]
        chosen = solved.finalists(content, runs, folder, comparison.audit_of(study.options))
        sweep, reasons = _next(study, content, runs, phase, chosen=chosen)
        if study.fine_tune:
            return finetuned.with_finalist(sweep, _fixed(study)), [
                *reasons,
                f"  and the first of these, {finetuned.HOW}",
            ]
        return sweep, reasons
    return _next(study, content, _to_choose_from(content, done), phase)


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
