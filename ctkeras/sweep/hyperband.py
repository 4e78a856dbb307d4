"""Hyperband as W&B's sweeps do it: at which epochs a run is compared, and whether it stops."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

ETA = 3  # W&B's default
MOST_BANDS = 100  # from min_iter, as in W&B's code


def bands(early_terminate: Mapping[str, Any], max_epochs: int) -> list[int]:
    """The epochs, from 1, after which hyperband compares runs: ascending, each once, none above max_epochs.

    They are those of W&B's code (hyperband_stopping.py): max_iter / eta, max_iter / eta^2 and so on, s of them; or else
    min_iter, min_iter * eta, min_iter * eta^2 and so on, where s has no effect. max_iter wins over min_iter.

    Args:
        early_terminate: type hyperband with min_iter, or max_iter and s; eta is 3 by default.
        max_epochs: how long a run trains when nothing stops it.
    """
    eta, epochs = early_terminate.get("eta", ETA), set()
    if "max_iter" in early_terminate:
        band = early_terminate["max_iter"]
        for _ in range(early_terminate["s"]):
            band /= eta
            if band < 1:
                break
            epochs.add(int(band))
    else:
        band = early_terminate["min_iter"]
        for _ in range(MOST_BANDS):
            if band >= max_epochs + 1:
                break
            epochs.add(int(band))
            band *= eta
    return sorted(epoch for epoch in epochs if epoch <= max_epochs)


def should_stop(
    history: Sequence[float],
    others: Sequence[Sequence[float]],
    early_terminate: Mapping[str, Any],
    *,
    maximize: bool,
    max_epochs: int,
) -> bool:
    """Whether hyperband stops a run after its latest epoch: it is not among the best 1 / eta at its last band.

    A run is compared when it reaches a band, with all runs that have reached it: by its best epoch so far or, if `strict`, by
    the band's epoch itself, and then again after every later epoch, because more runs may have reached the band. The best
    ceil(n / eta) of n runs continue, and so does any run equal to the last of them; so the first run at a band always
    continues. A value that is not finite is worse than any number.

    W&B's published rule (hyperband_stopping.py) stops fewer runs, for four reasons. It lets floor(n / eta) + 1 continue: 4 of
    9, not 3. Without strict it compares a run's best epoch with the values of the others at the band itself, which a noisy run
    passes easily. It looks at a run only from time to time: some epochs after the band, or never if the run is quick. It
    leaves NaN out of a history, so a diverged run never reaches the next band.

    Args:
        history: the run's metric after each epoch so far.
        others: the same for every other run of the sweep, whether finished, stopped or running.
        early_terminate: see bands; strict is false by default.
        maximize: whether the metric is to be maximized.
        max_epochs: how long the run trains when nothing stops it.
    """
    reached = [band for band in bands(early_terminate, max_epochs) if band <= len(history)]
    strict = early_terminate.get("strict", False)
    if not reached or len(history) >= max_epochs or not (strict or len(history) == reached[-1]):
        return False
    band = reached[-1]

    def loss(run: Sequence[float]) -> float:
        losses = [(-value if maximize else value) if math.isfinite(value) else math.inf for value in run[:band]]
        return losses[-1] if strict else min(losses)

    losses = sorted(loss(run) for run in (history, *others) if len(run) >= band)
    continuing = math.ceil(len(losses) / early_terminate.get("eta", ETA) - 1e-9)  # a quotient may be slightly too high
    return loss(history) > losses[max(continuing, 1) - 1]
