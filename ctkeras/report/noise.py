"""Which run won, and whether its lead is more than noise: runs compared image by image on the same validation images."""

from typing import Any

from ctkeras.errors import UserError
from ctkeras.report.results import Results, Run, best_by_architecture
from ctkeras.runs.predictions import read_validation


def right_answers(run: Run) -> dict[str, bool] | None:
    """File to whether the run classified it correctly, on validation; None when its folder doesn't say."""
    if run.folder is None:
        return None
    try:
        predictions = read_validation(run.folder)
    except UserError:
        return None
    if predictions is None:
        return None
    right = predictions.probabilities.argmax(-1) == predictions.labels
    return dict(zip(predictions.files, right.tolist(), strict=True))


def runner_up(results: Results, winner: Run) -> Run | None:
    """The run that the winner is compared with: the best of another architecture, otherwise of another configuration."""
    for other in best_by_architecture(results.runs):
        if other.model_name != winner.model_name:
            return other
    different = (run for run in results.runs if run is not winner and _plain(run) != _plain(winner))
    return next(different, None)


def _plain(run: Run) -> dict[str, Any]:
    """A configuration without its seed."""
    return {name: value for name, value in run.config.items() if name != "seed"}
