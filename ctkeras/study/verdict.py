"""A study's outcome in words, for the terminal."""

from typing import TYPE_CHECKING

from ctkeras.evaluation.comparison import worded
from ctkeras.study.winner import described

if TYPE_CHECKING:
    from ctkeras.study.ending import Outcome


def verdict(outcome: "Outcome") -> list[str]:
    """The outcome, in sentences."""
    winner, other, difference = outcome.winner, outcome.runner_up, outcome.difference
    lines = [f"winner:    {described(winner)}"]
    if other is not None and difference is not None:
        lines.append(f"runner-up: {described(other)}")
        if difference.difference < 0:
            lines.append(f"The winner is {-difference.difference:.4f} behind the runner-up; {outcome.rule}.")
        lines.append(f"Winner and runner-up: {worded(difference)[0].lower()}{worded(difference)[1:]}")
    elif other is not None:
        lines.append(f"runner-up: {described(other)}")
        lines.append("The lead cannot be tested: not all runs have predictions for the same images on this machine.")
    else:
        lines.append("There is no runner-up: all runs of phase 2 had the same configuration.")
    if (folds := outcome.in_folds) is not None:
        lines.append(
            f"validated in {folds.folds} folds of {folds.images} images of train and valid: val_acc {winner.mean:.4f}; on the "
            f"{folds.given_images} of them that are from the given validation split: {folds.given_val_acc:.4f}"
        )
    lines += outcome.edges
    lines += [f"Phase {phase.number}: {phase.left_out}." for phase in outcome.phases if phase.left_out]
    test = outcome.test
    lines.append(f"final model: {outcome.final / 'model.keras'}")
    bounds = f"95% interval {test['acc_low']:.4f} to {test['acc_high']:.4f}" if "acc_low" in test else "no interval"
    lines.append(f"test accuracy {test['acc']:.4f} ({bounds}, {test['n']} images), evaluated once")
    return lines
