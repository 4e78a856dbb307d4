"""A study's outcome in words, for the terminal."""

from typing import TYPE_CHECKING

from ctkeras.search import status
from ctkeras.study.winner import described

if TYPE_CHECKING:
    from ctkeras.study.study import Outcome


def verdict(outcome: "Outcome") -> list[str]:
    """The outcome, in sentences."""
    winner, other, difference = outcome.winner, outcome.runner_up, outcome.difference
    lines = [f"winner:    {described(winner)}"]
    if other is not None and difference is not None:
        lines.append(f"runner-up: {described(other)}")
        lead = f"{difference.ahead:.4f} over {status.counted(difference.seeds, 'seed')}"
        images = "images, out of fold," if outcome.in_folds else "validation images"
        cause = f"{difference.images} {images} and the seeds" if difference.images else "the seeds"
        noise = f"chance in {cause} accounts for up to {difference.noise:.4f}"
        if not difference.ahead and not difference.noise:
            lines.append("The runner-up is within the noise: both were right on the same images, so neither is better.")
        elif not difference.ahead:
            lines.append(f"The runner-up is within the noise: both have the same mean, and {noise}.")
        elif difference.ahead < 0:
            behind = f"{-difference.ahead:.4f} behind, less than one standard error ({difference.error:.4f})"
            lines.append(f"The winner is {behind}; {outcome.rule}. The runner-up is within the noise: {noise}.")
        elif difference.inside_noise:
            lines.append(f"The runner-up is within the noise: the winner leads by {lead}, and {noise}.")
        else:
            lines.append(f"The runner-up is outside the noise: the winner leads by {lead}, but {noise}.")
    else:
        lines.append("There is no runner-up: all runs of phase 2 had the same configuration.")
    if (folds := outcome.in_folds) is not None:
        lines.append(
            f"validated in {folds.folds} folds of {folds.images} images of train and valid: val_acc {winner.mean:.4f}; on the "
            f"{folds.given_images} of them that are from the given validation split: {folds.given_val_acc:.4f}"
        )
    test = outcome.test
    lines.append(f"final model: {outcome.final / 'model.keras'}")
    bounds = f"95% interval {test['acc_low']:.4f} to {test['acc_high']:.4f}" if "acc_low" in test else "no interval"
    lines.append(f"test accuracy {test['acc']:.4f} ({bounds}, {test['n']} images), evaluated once")
    return lines
