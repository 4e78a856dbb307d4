"""The fine-tuned finalist of a study of solved heads: the best configuration so far, trained on from its solved head."""

from collections.abc import Mapping
from typing import Any

from ctkeras.config import RunConfig
from ctkeras.sweep.file import CANDIDATE

# The best of eight settings that were compared in grouped folds of the public set (benchmarks/ACCURACY.md, fine-tuning). The
# last epoch is taken, because the best of ten on the images that judge it would be partly luck.
SETTINGS: dict[str, Any] = {"unfreeze_from": "stage3", "optimizer": "adamw", "max_epochs": 10, "best": "last"}
HOW = "fine-tuned from stage 3 for 10 epochs"


def with_finalist(sweep: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the fine-tuned finalist to the sweep of phase 3.

    Args:
        sweep: of phase 3, whose first candidate is the best configuration so far.
        fixed: hyperparameters that are the same in all trials.
    """
    parameters = dict(sweep["parameters"])
    candidates = list(parameters[CANDIDATE]["values"])
    own = {**candidates[0], **SETTINGS}
    own["weight_decay"] = RunConfig.weight_decay  # another scale than that of a solved head
    own["folds"] = RunConfig.from_mapping({name: fixed[name] for name in ("folds",) if name in fixed}).fold_count
    own = {name: value for name, value in own.items() if name not in fixed}
    return {**sweep, "parameters": {**parameters, CANDIDATE: {"values": [*candidates, own]}}}
