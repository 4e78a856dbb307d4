"""Each hyperparameter, declared once: name, type, default, range and help. The CLI, W&B and YAML files read them here."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ctkeras.errors import UserError, did_you_mean
from ctkeras.values import allowed, converted

PLACES = ("data", "columns", "output_dir", "project", "weights_dir")  # belong to a machine, not to a configuration
# What a run logs to W&B and to history.csv, one row per epoch.
EPOCH_METRICS = ("epoch", "train_acc", "train_loss", "val_acc", "val_loss", "lr", "epoch_seconds", "memory_bytes")
MODEL_NAMES = (
    *("resnet18", "resnet34", "resnet50", "efficientnet_b0", "densenet121"),
    *("mobilenet_v2", "mobilenet_v3_large", "small_cnn"),
)
_WINDOW = r"auto|lung|mediastinal|bone|three|percentile|\d+(\.\d+)?/-?\d+(\.\d+)?"  # the last is WIDTH/LEVEL
_SLICES = r"all|labelled|(middle|every):[1-9]\d*"  # the last with a number
_PATTERN_WORDS = {
    _WINDOW: "auto, lung, mediastinal, bone, three, percentile or WIDTH/LEVEL",
    _SLICES: "all, middle:N, every:K or labelled",
}
FOLD_WORDS = ("all", "refit")
AUTO = "auto"  # in place of a value: the tool chooses
SOLVED_FOLDS = 5  # what folds auto stands for with a solved head; 0 with any other
FROM_SCRATCH = ("small_cnn",)  # without ImageNet weights: the whole network is always trained
# What lr auto stands for with adam, adamw and sgd: for a head, for layers with ImageNet weights, and for a new network.
HEAD_LR, FINE_TUNING_LR, SCRATCH_LR = 0.03, 1e-4, 3e-3
SCRATCH_IDLE: tuple[str, ...] = ("pretrained", "weights_dir", "freeze_backbone", "unfreeze_from", "head_epochs")
SCRATCH_IDLE += ("freeze_batch_norm", "feature_cache", "feature_views", "head_stages")
# Where training can begin: at the input, at the head, or at stage k, whose features are 2^(k+1) times smaller than the image.
CUTS = ("input", "stage1", "stage2", "stage3", "stage4", "head")


def _param(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    auto: bool = False,
    pattern: str = "",
) -> Any:
    """Declares one hyperparameter; `low`/`high` are inclusive bounds, `above`/`below` exclusive ones, `auto` also a value."""
    metadata: dict[str, Any] = {"help": help, "choices": choices, "auto": auto, "pattern": pattern}
    metadata |= {"low": low, "high": high, "above": above, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The hyperparameters of one training run, checked when the object is made.

    Raises:
        UserError: a value has the wrong type or is out of range.

    Example:
        >>> RunConfig(model_name="resnet18", lr=0.01).batch_size
        16
    """

    data: str = _param(
        "", "zip file, folder, table, 'phantom', 'phantom:<images>' or 'kaggle' (default: $CTKERAS_DATA)"
    )
    columns: str = _param(
        "", "a table's own column names, as in label=diagnosis,patient=PatientID; becomes part of data"
    )
    output_dir: str = _param("runs", "folder in which each run creates its own folder")
    project: str = _param("", "W&B project (default: $WANDB_PROJECT, or else ctkeras)")
    model_name: str = _param("efficientnet_b0", "backbone; small_cnn is trained from scratch", choices=MODEL_NAMES)
    pretrained: bool = _param(True, "start from ImageNet weights")
    weights_dir: str = _param("", "folder to search for weight files before downloading any")
    freeze_backbone: bool = _param(True, "train only the head; false fine-tunes the whole network")
    unfreeze_from: str = _param("head", "frozen backbone: train from this stage on", choices=CUTS[1:])
    head_epochs: int = _param(0, "fine-tuning: number of epochs at the start that train only the head", low=0)
    freeze_batch_norm: bool = _param(True, "fine-tuning ImageNet weights: BatchNorm stays in inference mode")
    feature_cache: bool = _param(True, "frozen backbone: cache features; false computes them in every epoch")
    feature_views: int = _param(1, "frozen backbone: augmented views per image with cached features", low=1, high=64)
    image_size: int = _param(224, "side in pixels of the square that images are resized to", low=32, high=512)
    crop: str = _param("body", "crop each image to the body before it is resized", choices=("body", "none"))
    fit: str = _param("stretch", "stretch an image to a square, or pad it", choices=("stretch", "pad"))
    gray: str = _param("as_is", "stretch: percentiles 1 and 99 become black and white", choices=("as_is", "stretch"))
    window: str = _param(
        "auto",
        "grays of Hounsfield units: auto (lung), lung, mediastinal, bone, three (one per channel), percentile or WIDTH/LEVEL",
        pattern=_WINDOW,
    )
    slices: str = _param("all", "slices of a volume: all, middle:N, every:K or labelled", pattern=_SLICES)
    head_stages: int = _param(4, "how many of the backbone's last stages the head reads", low=1, high=4)
    precision: str = _param("float32", "number type to compute in", choices=("float32", "bfloat16"))
    best: str = _param("val", "export the epoch of best val_acc, or the last", choices=("val", "last"))
    batch_size: int = _param(16, "images per step", low=1)
    max_epochs: int = _param(30, "number of epochs to train", low=1)
    early_stopping: int = _param(0, "stop after this many epochs without a better val_acc; 0 is off", low=0)
    optimizer: str = _param(
        AUTO,
        "lbfgs solves a head on cached features to its optimum; adam and sgd apply weight_decay as an L2 penalty, adamw "
        "decoupled from the gradient; auto: lbfgs for a frozen backbone if no lr or mixup is given, otherwise adamw",
        choices=("lbfgs", "adam", "adamw", "sgd"),
        auto=True,
    )
    lr: float = _param(AUTO, "peak learning rate; auto: 0.03 for a head, 1e-4 for fine-tuning", above=0, auto=True)
    weight_decay: float = _param(
        AUTO, "decay of kernels; auto: chosen by folds if lbfgs, or else 1e-4", low=0, auto=True
    )
    folds: int = _param(
        AUTO,
        "cross-validation on train and valid together, never parting similar slices; 0: the given validation split; "
        "auto: 5 with lbfgs, otherwise 0",
        low=0,
        high=20,
        auto=True,
    )
    fold: str = _param("all", "all: one member per fold, averaged; refit: one on everything; or a fold from 0")
    scheduler: str = _param("cosine", "learning rate schedule after warm-up", choices=("cosine", "step", "plateau"))
    warmup_epochs: float = _param(0.0, "epochs in which the learning rate rises from 0 to lr; may be a fraction", low=0)
    dropout: float = _param(0.3, "dropout rate in front of the head", low=0, below=1)
    label_smoothing: float = _param(0.0, "share of each label that is spread evenly over all classes", low=0, below=1)
    mixup_alpha: float = _param(0.0, "alpha of mixup's Beta(alpha, alpha); 0 is off", low=0)
    augmentation: float = _param(1.0, "strength of augmentation; 0 is off", low=0, high=2)
    class_weighting: str = _param(
        "loss",
        "correct class imbalance by weights in the loss, by drawing rare classes more often, or not at all",
        choices=("loss", "sampling", "none"),
    )
    group_pattern: str = _param(
        "",
        "regular expression whose first brackets name the patient in a file's path; '': as the data says, if it does",
    )
    leaks: str = _param("drop", "training images that also appear in valid or test", choices=("drop", "keep"))
    calibrate: bool = _param(
        True, "export logits divided by the temperature at which validation labels are most probable"
    )
    log_model: bool = _param(True, "upload the best model and its contract to W&B as an artifact")
    seed: int = _param(0, "seed of all random numbers", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, parse_value(field.name, getattr(self, field.name)))
        for resolve in (_from_scratch, _resolved):
            for name, value in resolve(self).items():
                object.__setattr__(self, name, value)
        _check_solver(self)
        _check_folds(self)
        if self.warmup_epochs >= self.max_epochs and self.warmup_epochs > 0:
            raise UserError(f"warmup_epochs must be below max_epochs ({self.max_epochs}); got {self.warmup_epochs:g}")
        if wrong := set(self.project) & set("/\\#?%:"):
            raise UserError(
                f"project must be the name of a W&B project, without {' '.join(sorted(wrong))}; got {self.project!r}"
            )
        data = with_columns(self.data or os.environ.get("CTKERAS_DATA", ""), self.columns)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "columns", "")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Creates a config from a mapping of hyperparameter names to values.

        Args:
            values: values of their own type, or as text, as the command line or a sweep passes them.

        Raises:
            UserError: a name is unknown, or a value has the wrong type or is out of range.
        """
        for name in values:
            check_name(name)
        return cls(**values)

    @property
    def cut(self) -> str:
        """Where training begins, one of CUTS; the layers before it are frozen."""
        return self.unfreeze_from if self.freeze_backbone else "input"

    @property
    def fold_count(self) -> int:
        """The number of folds; 0 to validate on the given split."""
        return (SOLVED_FOLDS if self.optimizer == "lbfgs" else 0) if is_auto(self.folds) else self.folds

    def to_dict(self) -> dict[str, Any]:
        """All values by name, in the order in which they are declared."""
        return dataclasses.asdict(self)


def _resolved(config: RunConfig) -> dict[str, Any]:
    """What `auto` stands for in a config, by name. weight_decay stays auto with lbfgs, which chooses it in training."""
    solvable = config.cut == "head" and config.feature_cache and is_auto(config.lr) and not config.mixup_alpha
    optimizer = ("lbfgs" if solvable else "adamw") if is_auto(config.optimizer) else config.optimizer
    values: dict[str, Any] = {"optimizer": optimizer}
    if is_auto(config.lr):
        values["lr"] = default_lr(config)
    if is_auto(config.weight_decay) and optimizer != "lbfgs":
        values["weight_decay"] = 1e-4
    return values


def _check_solver(config: RunConfig) -> None:
    """Refuses lbfgs where there is more to train than a head on cached features."""
    if config.optimizer != "lbfgs":
        return
    needs = {"freeze_backbone true": config.freeze_backbone, "unfreeze_from head": config.unfreeze_from == "head"}
    needs |= {"feature_cache true": config.feature_cache, "mixup_alpha 0": not config.mixup_alpha}
    if missing := [need for need, met in needs.items() if not met]:
        raise UserError(f"optimizer lbfgs solves a head on cached features, so it needs {', '.join(missing)}")


def _check_folds(config: RunConfig) -> None:
    """Refuses a number of folds, or a fold, that cannot be trained."""
    count = config.fold_count
    if count == 1:
        raise UserError("folds must be 0 or at least 2; got 1")
    if config.fold not in FOLD_WORDS and not config.fold.isdecimal():
        raise UserError(f"fold must be all, refit or a number from 0; got {config.fold!r}")
    if count and config.fold.isdecimal() and int(config.fold) >= count:
        raise UserError(f"fold must be below folds ({count}); got {config.fold}")
    if count and config.fold == "refit" and config.optimizer != "lbfgs":
        raise UserError(
            f"fold refit needs optimizer lbfgs; with {config.optimizer} nothing would say when training on everything is "
            "to end: use --fold all"
        )


def _from_scratch(config: RunConfig) -> dict[str, Any]:
    """The values that a backbone without ImageNet weights fixes, by name; empty for any other backbone."""
    if config.model_name not in FROM_SCRATCH:
        return {}
    fixed = {"pretrained": False, "freeze_backbone": False, "head_epochs": 0, "head_stages": 1}
    return {name: FIELDS[name].default for name in SCRATCH_IDLE} | fixed


def default_lr(config: RunConfig) -> float:
    """The usual peak learning rate for what is trained: a new network, a head, or layers with ImageNet weights."""
    if config.model_name in FROM_SCRATCH:
        return SCRATCH_LR
    return HEAD_LR if config.cut == "head" else FINE_TUNING_LR


FIELDS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(RunConfig)}


def with_columns(data: str, columns: str) -> str:
    """The data set with the names of its table's columns, as all verbs keep it.

    Example:
        >>> with_columns("table.csv", "label=diagnosis")
        'table.csv:label=diagnosis'
    """
    return f"{data}:{columns}" if data and columns and not data.endswith(f":{columns}") else data


def check_name(name: str) -> None:
    """Raises UserError, with the most similar name, if `name` is not a hyperparameter."""
    if name in FIELDS:
        return
    hint = did_you_mean(name, FIELDS) or f"; hyperparameters: {', '.join(FIELDS)}"
    raise UserError(f"unknown hyperparameter {name!r}{hint}")


def parse_value(name: str, value: Any) -> Any:
    """Converts a value to the type of its hyperparameter and checks its range.

    Args:
        name: a field of RunConfig.
        value: a value, or its text. YAML 1.1 reads 1e-4 as text, so text that holds a number counts as a number.

    Raises:
        UserError: the value has the wrong type, is not finite, is out of range or is not one of the choices.
    """
    field = FIELDS[name]
    if field.metadata["auto"] and is_auto(value):
        return AUTO
    result = converted(str(value) if name == "fold" and type(value) is int else value, field.type)
    if result is None or not allowed(result, field.metadata):
        raise UserError(
            f"{name} must be {describe(name)}; got {value!r}{did_you_mean(value, field.metadata['choices'])}"
        )
    return result


def is_auto(value: Any) -> bool:
    """Whether a value is the word auto, by which the tool chooses."""
    return isinstance(value, str) and value.strip().lower() == AUTO


def describe(name: str) -> str:
    """The values that a hyperparameter allows, in words: 'a number, 0 <= dropout < 1'."""
    field = FIELDS[name]
    meta = field.metadata
    if meta["choices"]:
        return "one of " + ", ".join([*meta["choices"], *([AUTO] if meta["auto"] else [])])
    if field.type is bool:
        return "true or false"
    if field.type is str:
        return _PATTERN_WORDS.get(meta["pattern"], "text")
    word = "a whole number" if field.type is int else "a number"
    bounds = [f"{meta[key]:.10g} {sign}" for key, sign in (("low", "<="), ("above", "<")) if meta[key] is not None]
    bounds.append(name)
    bounds += [f"{sign} {meta[key]:.10g}" for key, sign in (("high", "<="), ("below", "<")) if meta[key] is not None]
    text = f"{word}, {' '.join(bounds)}" if len(bounds) > 1 else word
    return f"{text}, or auto" if meta["auto"] else text
