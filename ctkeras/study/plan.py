"""What a study is: the sweep of phase 1, options, and the number of trials, checked before anything runs."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import RunConfig, check_name
from ctkeras.errors import UserError
from ctkeras.search import plan as search_plan
from ctkeras.search.plan import Search
from ctkeras.sweep.phases import PHASE2_RUNS, SOLVED2_RUNS

PHASE3_RUNS = 10  # two configurations, five seeds each


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
    fine_tune: bool = False  # phase 3 also fine-tunes the best configuration


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
    fine_tune: bool = False,
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
        fine_tune: phase 3 of solved heads also fine-tunes the best configuration.

    Raises:
        UserError: a value out of range.
    """
    if fine_tune and not solved:
        raise UserError(
            "--fine_tune needs a study whose runs are validated in folds; remove it, or what rules folds out"
        )
    if refit and not solved:
        raise UserError("--refit needs a study whose runs are validated in folds; remove it, or what rules folds out")
    if fine_tune and refit:
        raise UserError("--refit trains solved heads only; remove it, or --fine_tune")
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
    name = _name(first, (one, two, three), wide=wide, fine_tune=fine_tune)
    kind = {"solved": solved, "refit": refit, "fine_tune": fine_tune}
    return Study(name, first, content, dict(options), (one, two, three), wide, seed, output_dir, command, where, **kind)


def _name(first: Search, trials: Sequence[int], *, wide: bool, fine_tune: bool) -> str:
    """The study's name, made from all that its results depend on."""
    facts: list[Any] = [first.name, tuple(trials), wide, *(["fine_tune"] if fine_tune else [])]
    return f"study-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"
