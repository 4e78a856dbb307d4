"""A study of solved heads: when a study is one, which configurations its phases continue with, and its numbers in folds."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctkeras.config import RunConfig, parse_value
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_metrics
from ctkeras.runs.result import Result
from ctkeras.study.winner import Contender, contenders, standard_error
from ctkeras.sweep.file import searched

# Given for all trials, they ask for training in epochs, of which a solved head has none.
BY_EPOCHS = ("lr", "scheduler", "warmup_epochs", "batch_size", "max_epochs", "early_stopping", "dropout", "mixup_alpha")
RULE = (
    "of configurations within one standard error of the best, the cheapest wins: the architecture with the fewest "
    "parameters, then the fewest settings away from their defaults"
)
COST = "five folds would take five times as long"


class InFolds(NamedTuple):
    """How a configuration was validated out of fold."""

    folds: int
    images: int
    given_images: int  # how many of them are from the given validation split
    given_val_acc: float  # on these only: mean over the seeds


def why_not(options: Mapping[str, Any], *, engine: str, file: Path | None, wide: bool) -> str:
    """Why a study trains in epochs and validates on the given split; '' if it solves heads and validates them in folds.

    Args:
        options: hyperparameters that are the same in all trials, and places.
        engine: local or wandb.
        file: the sweep file of phase 1, if one is given.
        wide: whether phase 2 also searches optimizer, scheduler, max_epochs and weight_decay.
    """
    if file is not None:
        return f"{file} says what is searched"
    if engine != "local":
        return "the phases at W&B are those of sweep_yaml/"
    if wide:
        return "--wide searches how to train in epochs"
    try:
        if "folds" in options and parse_value("folds", options["folds"]) == 0:
            return "--folds is 0"
        config = RunConfig.from_mapping(options)
    except UserError:
        return ""  # the plan refuses it with the same message
    if config.cut != "head":
        return f"fine-tuned runs are validated on it, because {COST}"
    if not config.feature_cache:
        return f"without cached features, {COST}"
    if by_epochs := [name for name in BY_EPOCHS if name in options]:
        return f"--{by_epochs[0]} asks for training in epochs, and {COST}"
    return "" if config.optimizer == "lbfgs" else f"{config.optimizer} trains in epochs, and {COST}"


def cheapest(ranked: Sequence[Contender], folders: Mapping[str, Path], audited: Any = None) -> Contender:
    """The cheapest configuration within one standard error of the best one (Breiman et al. 1984, chapter 3).

    The standard error is that of the best one's own accuracy, by patient or group of similar slices and by seed. The best of
    many is partly lucky, so a paired error, which is smaller, would let luck decide.

    The cost of a configuration is first the size of its backbone: the parameters of the smallest run of its architecture,
    because heads of one backbone differ by a few percent that nobody notices. Then it is the number of settings that are not
    at their defaults, and last its out-of-fold loss.

    Args:
        ranked: configurations, the best first.
        folders: the run folders that are on this machine, by run name.
        audited: the audit.Audit of the data set, for its patients or groups of similar slices.
    """
    least = ranked[0].mean - standard_error(ranked[0], folders, audited)
    near = [one for one in ranked if one.mean >= least]
    sizes: dict[str, float] = {}
    for one in ranked:
        for run in one.runs.values():
            model = one.config["model_name"]
            sizes[model] = min(sizes.get(model, float("inf")), _parameters(folders.get(run.name)))

    def cost(one: Contender) -> tuple[float, int, float]:
        losses = [run.val_loss for run in one.runs.values()]
        return sizes[one.config["model_name"]], len(unusual(one.config)), sum(losses) / len(losses)

    return min(near, key=cost)


def unusual(config: Mapping[str, Any]) -> list[str]:
    """The settings of a configuration that are not at their defaults."""
    defaults = RunConfig(model_name=RunConfig.model_name).to_dict()
    return [name for name, value in config.items() if name in _CHOICES and value != defaults[name]]


_CHOICES = (
    "unfreeze_from",
    "head_stages",
    "crop",
    "fit",
    "gray",
    "class_weighting",
    "label_smoothing",
    "weight_decay",
    "image_size",
)


def _parameters(folder: Path | None) -> float:
    """The number of a run's parameters; infinite if its folder does not say."""
    try:
        return float(read_metrics(folder)["params_total"]) if folder is not None else float("inf")
    except (UserError, KeyError, TypeError, ValueError):
        return float("inf")


def finalists(
    content: Mapping[str, Any], results: Sequence[Result], folder: Path, audited: Any = None
) -> tuple[list[Result], str]:
    """The runs whose configurations phase 3 repeats, and the rule in words.

    They are the best, the cheapest within one standard error of it, and the one with the fewest settings away from their
    defaults of the best one's architecture; if these are one configuration, also the second best.

    Args:
        content: the sweep of phase 2, which has all hyperparameters that are searched.
        results: the runs of phases 1 and 2.
        folder: of the study.
        audited: the audit.Audit of the data set, for its patients or groups of similar slices.
    """
    ranked = contenders(results)
    folders = {run.name: folder / run.name for run in results if (folder / run.name).is_dir()}
    names = [name for name in searched(content) if name != "seed"]
    best, simple = ranked[0], cheapest(ranked, folders, audited)
    same = [one for one in ranked if one.config["model_name"] == best.config["model_name"]]
    usual = min(same, key=lambda one: len(unusual(one.config)))
    different: dict[tuple[Any, ...], Contender] = {}
    for one in (best, simple, usual):
        different.setdefault(tuple(one.config[name] for name in names), one)
    words = "by val_acc, the best, the cheapest within one standard error of it, and the defaults"
    if len(different) == 1:
        words += ", which are one configuration, and the second best"
        others = (one for one in ranked if tuple(one.config[name] for name in names) not in different)
        return [one.best for one in (*different.values(), *itertools.islice(others, 1))], words
    return [one.best for one in different.values()], words


def in_folds(one: Contender, folder: Path) -> InFolds | None:
    """A configuration's numbers in folds, from its run folders; None if it was validated on the given split.

    Args:
        one: the configuration.
        folder: of the study.
    """
    recorded = []
    for run in one.runs.values():
        try:
            metrics = read_metrics(folder / run.name)
        except UserError:
            return None
        if not metrics.get("folds") or metrics.get("given_val_acc") is None:
            return None
        recorded.append(metrics)
    if not recorded:
        return None
    first, values = recorded[0], [float(metrics["given_val_acc"]) for metrics in recorded]
    images, mean = int(first.get("train_images", 0)), sum(values) / len(values)
    return InFolds(int(first["folds"]), images, int(first["given_val_n"]), mean)
