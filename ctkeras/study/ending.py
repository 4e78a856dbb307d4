"""The end of a study: the winner, its model, the model's one evaluation on the test split, and study.json."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import PLACES, RunConfig
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison, evaluate, labels
from ctkeras.evaluation.comparison import Comparison
from ctkeras.runs.checkpoint import TRAINED
from ctkeras.runs.folder import FINISHED, read_json
from ctkeras.runs.result import Result
from ctkeras.runtime import console
from ctkeras.study import engines, solved
from ctkeras.study.edges import at_edges
from ctkeras.study.engines import Phase
from ctkeras.study.plan import Study
from ctkeras.study.winner import Contender, compare, contenders
from ctkeras.sweep.file import load, plain
from ctkeras.training import learning
from ctkeras.training.stopping import Stop, on_signals


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


def ended(study: Study, done: list[Phase], folder: Path) -> Outcome | None:
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
    data = str(study.options.get("data", ""))
    metrics = _test_once(final, data)
    if in_folds is not None:
        _describe(final, data)
    rule = solved.RULE if study.solved else ""
    searches = [load(folder / f"phase{number}.yaml").content for number in (1, 2)[: len(done)]]
    edges = at_edges(first.config, searches)
    return Outcome(folder, done, first, other, difference, final, metrics, in_folds, edges, rule)


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
        return kept.export(final, weights_dir=str(places.get("weights_dir", ""))).parent
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


def _describe(final: Path, data: str) -> None:
    """Writes what the report shows beyond the winner's numbers: doubtful labels, and accuracy by number of groups."""
    measures: tuple[tuple[str, str, Callable[..., Any]], ...] = (
        (labels.FILE, "Looking for doubtful labels", labels.check),
        (learning.FILE, "Measuring accuracy by the number of groups", learning.learning_curve),
    )
    for name, words, measure in measures:
        if (final / name).exists():
            continue
        try:
            with console.waiting(words):
                measure(final, data=data or None)
        except UserError as error:
            console.note(f"Not measured: {error}.")


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
