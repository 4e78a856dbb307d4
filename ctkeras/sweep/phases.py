"""The study's three phases: how the next sweep is made from the results of the one before."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ctkeras.errors import UserError
from ctkeras.runs.result import Result, best_first
from ctkeras.sweep.file import CANDIDATE, COMMAND, METRIC, fixed, searched

SEEDS = (0, 1, 2, 3, 4)
# The first phase of `study`; the same as sweep_yaml/phase1.yaml, which is not installed with the package.
PHASE1: dict[str, Any] = {
    "name": "phase1",
    "method": "bayes",
    "metric": METRIC,
    "run_cap": 45,
    "early_terminate": {"type": "hyperband", "min_iter": 5, "eta": 3},
    "command": COMMAND,
    "parameters": {
        "model_name": {"values": ["resnet18", "resnet34", "efficientnet_b0"]},
        "freeze_backbone": {"values": [True, False]},
        "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "weight_decay": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3},
        "batch_size": {"values": [16, 32, 64]},
        "dropout": {"values": [0.2, 0.3, 0.4]},
        "max_epochs": {"value": 30},
    },
}
PHASE2_RUNS = 20
PHASE2 = {"dropout": [0.2, 0.3, 0.4, 0.5], "label_smoothing": [0.0, 0.1, 0.2], "mixup_alpha": [0.0, 0.2, 0.4]}
PHASE2_WIDE = {
    "optimizer": ["adam", "adamw", "sgd"],
    "scheduler": ["cosine", "step", "plateau"],
    "max_epochs": [30, 50, 75],
    "weight_decay": [1e-5, 1e-4, 1e-3],
}

# Phases 1 and 2 of a study of solved heads, which have no learning rate, batch size or epochs: first the backbone and how
# images are prepared for it, then the loss and L2. Grids, because a head is solved in seconds; defaults come first.
SOLVED1: dict[str, Any] = {
    "name": "phase1",
    "method": "grid",
    "metric": METRIC,
    "command": COMMAND,
    "parameters": {
        "model_name": {"values": ["resnet18", "resnet34", "efficientnet_b0"]},
        "freeze_backbone": {"value": True},
        "head_stages": {"values": [4, 2]},
        "fit": {"values": ["stretch", "pad"]},
        "gray": {"values": ["as_is", "stretch"]},
    },
}
SOLVED2 = {
    "class_weighting": ["loss", "none"],
    "label_smoothing": [0.0, 0.1],
    "weight_decay": ["auto", 0.03, 0.3],
}
SOLVED2_RUNS = 24


def next_phase(
    previous: Mapping[str, Any],
    results: Sequence[Result],
    phase: int,
    *,
    wide: bool = False,
    solved: bool = False,
    runs: int = PHASE2_RUNS,
    seeds: Sequence[int] = SEEDS,
    chosen: tuple[Sequence[Result], str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Makes the sweep of a phase from the results of the previous one.

    Args:
        previous: the sweep that the results are from.
        results: its finished runs.
        phase: 2 or 3.
        wide: phase 2 also searches optimizer, scheduler, max_epochs and weight_decay.
        solved: phase 2 is that of solved heads.
        runs: the number of runs of phase 2.
        seeds: of phase 3.
        chosen: the runs that the phase continues from, and the rule in words; None for the best two by val_acc.

    Returns:
        The sweep, and the reasons for its values, one per line.

    Raises:
        UserError: there are no finished runs.
    """
    if not results:
        raise UserError("the sweep has no finished run with a val_acc yet; wait until some runs have finished")
    ranked = best_first(results)
    added: dict[str, Any] = (SOLVED2 if solved else PHASE2 | (PHASE2_WIDE if wide else {})) if phase == 2 else {}
    keys = [key for key in searched(previous) if key not in added and key != "seed"]
    rule = "by val_acc, ties broken by val_loss"
    if chosen is not None:
        top, rule = chosen
    else:
        top = _top_architectures(ranked, keys) if phase == 2 else _top_configurations(ranked, keys)
    reasons = [f"chosen from {len(results)} finished runs {rule}:"]
    reasons += [
        f"  {r.config['model_name']}: val_acc {r.val_acc:.4f}, val_loss {r.val_loss:.4f} (run {r.name})" for r in top
    ]
    if len(ranked) > len(top):
        other = next(result for result in ranked if result not in top)
        reasons.append(
            f"  the best run not chosen: {other.config['model_name']}, val_acc {other.val_acc:.4f} (run {other.name})"
        )
    parameters: dict[str, Any] = {CANDIDATE: {"values": [{key: r.config[key] for key in keys} for r in top]}}
    if solved and phase == 2:
        parameters[CANDIDATE]["values"] = _not_run(parameters[CANDIDATE]["values"], added, results)[:runs]
    else:
        parameters |= {name: {"values": values} for name, values in added.items()}
    if phase == 3:
        parameters["seed"] = {"values": list(seeds)}
    parameters |= {
        name: {"value": value} for name, value in fixed(previous).items() if name not in parameters and name not in keys
    }
    sweep: dict[str, Any] = {
        "name": f"phase{phase}",
        "method": "bayes" if phase == 2 else "grid",
        "metric": dict(METRIC),
        "command": list(previous.get("command") or COMMAND),
        "parameters": parameters,
    }
    if phase == 2:
        sweep["run_cap"] = runs
    return sweep, reasons


def _not_run(
    candidates: Sequence[Mapping[str, Any]], added: Mapping[str, Sequence[Any]], results: Sequence[Result]
) -> list[dict[str, Any]]:
    """All combinations that no run has tried, those with the fewest settings away from their defaults first.

    Args:
        candidates: configurations that the phase continues from.
        added: what it searches for each of them; defaults come first.
        results: the runs so far.
    """
    points = [
        {**candidate, **dict(zip(added, values, strict=True))}
        for candidate in candidates
        for values in itertools.product(*added.values())
    ]
    new = [point for point in points if not any(point.items() <= run.config.items() for run in results)]
    return sorted(new, key=lambda point: sum(point[name] != values[0] for name, values in added.items()))


def _top_architectures(ranked: Sequence[Result], keys: Sequence[str]) -> list[Result]:
    """The best run of each of the two best architectures; with one architecture, its two best configurations."""
    best: dict[str, Result] = {}
    for result in ranked:
        best.setdefault(result.config["model_name"], result)
    return list(best.values())[:2] if len(best) > 1 else _top_configurations(ranked, keys)


def _top_configurations(ranked: Sequence[Result], keys: Sequence[str]) -> list[Result]:
    """The two best runs whose configurations differ."""
    different: dict[tuple, Result] = {}
    for result in ranked:
        different.setdefault(tuple(result.config[key] for key in keys), result)
    return list(different.values())[:2]
