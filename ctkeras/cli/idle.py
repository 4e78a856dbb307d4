"""Which of the given hyperparameters have no effect, and why."""

from collections.abc import Collection

from ctkeras.config import FROM_SCRATCH, SCRATCH_IDLE, RunConfig


def without_effect(config: RunConfig, given: Collection[str], *, searched: Collection[str] = ()) -> list[str]:
    """Names each given hyperparameter that has no effect on a run, and why.

    Args:
        config: the configuration of the run.
        given: names of the hyperparameters that were set, rather than left at their defaults.
        searched: names of those that a search has yet to choose; whatever depends on them is not reported.

    Returns:
        One line per hyperparameter: 'NAME has no effect because …'.
    """
    c, frozen, head = config, config.cut != "input", config.cut == "head"
    pixels = not frozen and not c.head_epochs  # every step computes from the images
    views = c.feature_views > 1
    late = not head and c.head_epochs >= c.max_epochs
    not_frozen, only_head, random = "freeze_backbone is false", "only the head is trained", "pretrained is false"
    only_head_epochs = (
        f"head_epochs is {c.head_epochs} and max_epochs {c.max_epochs}, so every epoch trains only the head"
    )
    one_view = (
        "features are cached from one view, the unchanged image; set feature_views above 1, or feature_cache to false"
    )
    solved = "optimizer lbfgs solves the head to its optimum; use --optimizer adamw to train it in epochs"
    by_epochs: tuple[str, ...] = (
        "lr",
        "scheduler",
        "warmup_epochs",
        "batch_size",
        "max_epochs",
        "early_stopping",
        "dropout",
    )
    by_epochs += ("best",)
    scratch = f"{c.model_name} has no ImageNet weights and is always trained whole"
    # The hyperparameter, the names that also decide, whether it has no effect, and why.
    rules = (
        *((name, "model_name", c.model_name in FROM_SCRATCH, scratch) for name in SCRATCH_IDLE),
        *((name, "optimizer lr freeze_backbone unfreeze_from", c.optimizer == "lbfgs", solved) for name in by_epochs),
        ("fold", "folds optimizer lr", not c.fold_count, "folds is 0"),
        ("weights_dir", "pretrained", c.weights_dir and not c.pretrained, random),
        ("unfreeze_from", "freeze_backbone", not c.freeze_backbone, not_frozen),
        ("unfreeze_from", "head_epochs max_epochs", late, only_head_epochs),
        ("freeze_backbone", "head_epochs max_epochs", not c.freeze_backbone and late, only_head_epochs),
        ("head_epochs", "freeze_backbone unfreeze_from", c.head_epochs and head, only_head),
        ("freeze_batch_norm", "pretrained", not c.pretrained, random),
        ("freeze_batch_norm", "freeze_backbone unfreeze_from", head, only_head),
        ("feature_cache", "freeze_backbone head_epochs", pixels, not_frozen),
        ("feature_views", "freeze_backbone head_epochs", views and pixels, not_frozen),
        ("feature_views", "feature_cache", views and not c.feature_cache, "feature_cache is false"),
        ("feature_views", "augmentation", views and not c.augmentation, "augmentation is 0"),
        (
            "augmentation",
            "freeze_backbone feature_cache feature_views",
            c.augmentation and frozen and c.feature_cache and not views,
            one_view,
        ),
        ("early_stopping", "best", c.early_stopping and c.best == "last", "best is last"),
        ("early_stopping", "max_epochs", c.early_stopping >= c.max_epochs, f"max_epochs is {c.max_epochs}"),
    )
    lines: dict[str, str] = {}
    for name, deciding, idle, why in rules:
        if idle and name in given and not {name, *deciding.split()} & set(searched):
            lines.setdefault(name, f"{name} has no effect because {why}")
    return list(lines.values())
