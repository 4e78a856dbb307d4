"""Every hyperparameter once: name, type, default, range, help. The CLI, wandb and YAML files all read from here."""

import dataclasses
import difflib
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# What a run logs once an epoch, under these names, to W&B and to history.csv.
EPOCH_METRICS = (
    "epoch",
    "train_acc",
    "train_loss",
    "val_acc",
    "val_loss",
    "lr",
    "epoch_seconds",
    "memory_bytes",
)

MODEL_NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "efficientnet_b0",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_large",
)


# Where training can begin: at the input, at the head, or at the stage whose features are a 4th to a 32nd of the image's side.
CUTS = ("input", "stage1", "stage2", "stage3", "stage4", "head")


class UserError(ValueError):
    """Something the user can put right: the CLI prints the message on one line and exits with 2."""


def _param(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """Declares one hyperparameter; `low`/`high` are inclusive bounds, `above`/`below` exclusive ones."""
    bounds = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, "choices": choices, **bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run. Fields are validated when the object is made.

    Raises:
        UserError: a value is of the wrong type or out of its range.
    """

    data: str = _param("", "zip file, folder, 'phantom', 'phantom:<images>' or 'kaggle' (default: $CTKERAS_DATA)")
    output_dir: str = _param("runs", "run folders are made in here")
    project: str = _param("", "W&B project (default: $WANDB_PROJECT, else ctkeras)")
    model_name: str = _param("efficientnet_b0", "backbone", choices=MODEL_NAMES)
    pretrained: bool = _param(True, "start from ImageNet weights")
    weights_dir: str = _param("", "folder searched for weight files before any download")
    freeze_backbone: bool = _param(True, "train the head only; false fine-tunes everything")
    unfreeze_from: str = _param("head", "frozen backbone: where training begins all the same", choices=CUTS[1:])
    head_epochs: int = _param(0, "when fine-tuning, first train the head alone for this many epochs", low=0)
    freeze_batch_norm: bool = _param(True, "when fine-tuning ImageNet weights, keep BatchNorm in inference mode")
    feature_cache: bool = _param(True, "frozen backbone: compute its features once and keep them; false: every epoch")
    feature_views: int = _param(1, "frozen backbone: augmented views of each image to keep features of", low=1, high=64)
    image_size: int = _param(224, "images are resized to this many pixels squared", low=32, high=512)
    precision: str = _param("float32", "compute type; weights stay float32", choices=("float32", "bfloat16"))
    batch_size: int = _param(16, "images a step", low=1)
    max_epochs: int = _param(30, "epochs to train", low=1)
    early_stopping: int = _param(0, "stop after this many epochs without a better val_acc; 0 never", low=0)
    optimizer: str = _param("adamw", "adam and sgd decay by L2, adamw decoupled", choices=("adam", "adamw", "sgd"))
    lr: float = _param(0.03, "peak learning rate; for fine-tuning all layers about 1e-4 is usual", above=0)
    weight_decay: float = _param(1e-4, "decay of kernels; biases and BatchNorm are left alone", low=0)
    scheduler: str = _param("cosine", "learning rate over time", choices=("cosine", "step", "plateau"))
    warmup_epochs: float = _param(0.0, "epochs over which the learning rate rises from 0", low=0)
    dropout: float = _param(0.3, "dropout rate before the head", low=0, below=1)
    label_smoothing: float = _param(0.0, "share of the label spread over all classes", low=0, below=1)
    mixup_alpha: float = _param(0.0, "mixup's Beta(alpha, alpha); 0 is off", low=0)
    augmentation: float = _param(1.0, "strength of the augmentations; 0 is off", low=0, high=2)
    class_weighting: str = _param("loss", "against class imbalance", choices=("loss", "sampling", "none"))
    leaks: str = _param(
        "drop", "training images that stand in validation or test, exact or near", choices=("drop", "keep")
    )
    log_model: bool = _param(True, "upload the best model to W&B as an artifact with its contract")
    seed: int = _param(0, "seed of everything random", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, parse_value(field.name, getattr(self, field.name)))
        if self.warmup_epochs >= self.max_epochs and self.warmup_epochs > 0:
            raise UserError(f"warmup_epochs must be below max_epochs ({self.max_epochs}); got {self.warmup_epochs:g}")
        if wrong := set(self.project) & set("/\\#?%:"):
            raise UserError(
                f"project must be a W&B project's name, without {' '.join(sorted(wrong))}; got {self.project!r}"
            )
        if not self.data:
            object.__setattr__(self, "data", os.environ.get("CTKERAS_DATA", ""))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Makes a config from a mapping of hyperparameter names to values.

        Args:
            values: values as their types or as text, as a CLI or a sweep gives them.

        Raises:
            UserError: an unknown name, a wrong type or a value out of range.
        """
        for name in values:
            check_name(name)
        return cls(**values)

    @property
    def cut(self) -> str:
        """Where training begins, one of CUTS; what comes before is frozen."""
        return self.unfreeze_from if self.freeze_backbone else "input"

    def to_dict(self) -> dict[str, Any]:
        """All values by name, in the order of declaration."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(RunConfig)}


def check_name(name: str) -> None:
    """Raises UserError, naming the nearest hyperparameters, when `name` is none."""
    if name in FIELDS:
        return
    hint = did_you_mean(name, FIELDS) or f"; known: {', '.join(FIELDS)}"
    raise UserError(f"unknown hyperparameter {name!r}{hint}")


def parse_value(name: str, value: Any) -> Any:
    """Returns `value` as the type of hyperparameter `name`, checked against its range.

    Args:
        name: a field of RunConfig.
        value: the value itself or its text; YAML 1.1 reads 1e-4 as text, so numbers in text are numbers.

    Raises:
        UserError: wrong type, not a finite number, out of range or not among the choices.
    """
    field = FIELDS[name]
    converted = _converted(value, field.type)
    if converted is None or not _allowed(converted, field.metadata):
        raise UserError(
            f"{name} must be {describe(name)}; got {value!r}{did_you_mean(value, field.metadata['choices'])}"
        )
    return converted


def did_you_mean(word: Any, known: Collection[str]) -> str:
    """The end of an error about a misspelt word: the most similar known word; '' when none is similar."""
    similar = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _converted(value: Any, kind: Any) -> Any:
    """The value as `kind`, or None when it is not one."""
    if kind is str:
        return value if isinstance(value, str) else str(value) if isinstance(value, os.PathLike) else None
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}.get(str(value).strip().lower())
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if kind is float:
        return number
    try:
        whole = int(value) if isinstance(value, (int, str)) else int(number)
    except (ValueError, OverflowError):
        return None
    return whole if whole == number else None


def _allowed(value: Any, meta: Mapping[str, Any]) -> bool:
    """Whether a value of the right type is finite, within its bounds and among its choices."""
    if isinstance(value, str):
        return not meta["choices"] or value in meta["choices"]
    return (
        math.isfinite(value)
        and (meta["low"] is None or value >= meta["low"])
        and (meta["high"] is None or value <= meta["high"])
        and (meta["above"] is None or value > meta["above"])
        and (meta["below"] is None or value < meta["below"])
    )


def describe(name: str) -> str:
    """What a hyperparameter may be, in words: 'a number, 0 <= dropout < 1'."""
    field = FIELDS[name]
    meta = field.metadata
    if meta["choices"]:
        return "one of " + ", ".join(meta["choices"])
    if field.type is bool:
        return "true or false"
    if field.type is str:
        return "text"
    word = "a whole number" if field.type is int else "a number"
    bounds = [f"{meta[key]:.10g} {sign}" for key, sign in (("low", "<="), ("above", "<")) if meta[key] is not None]
    bounds.append(name)
    bounds += [f"{sign} {meta[key]:.10g}" for key, sign in (("high", "<="), ("below", "<")) if meta[key] is not None]
    return f"{word}, {' '.join(bounds)}" if len(bounds) > 1 else word


@dataclasses.dataclass(frozen=True)
class Yaml:
    """A YAML file as read: its content, and the line of each key by its path, from 1."""

    content: Any
    lines: dict[tuple[str, ...], int]
    repeated: tuple[tuple[str, ...], ...]  # keys given twice, of which YAML silently keeps the last


def read_yaml(path: str | Path) -> Yaml:
    """Reads a YAML file.

    Raises:
        UserError: it can't be read or is not YAML.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        content, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # an impossible date raises ValueError
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    lines: dict[tuple[str, ...], int] = {}
    repeated: list[tuple[str, ...]] = []
    _locate(root, (), lines, repeated, set())
    return Yaml(content, lines, tuple(repeated))


def _locate(node: Any, path: tuple[str, ...], lines: dict, repeated: list, seen: set[int]) -> None:
    """Notes the line of every key below a YAML node; what an alias repeats, which may be itself, is noted once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "mapping":
        for key, value in node.value:
            place = (*path, str(key.value))
            if place in lines:
                repeated.append(place)
            lines[place] = key.start_mark.line + 1
            _locate(value, place, lines, repeated, seen)
    elif node.id == "sequence":
        for number, item in enumerate(node.value):
            _locate(item, (*path, str(number)), lines, repeated, seen)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads hyperparameters from a YAML file, for --config.

    Raises:
        UserError: the file can't be read, is not YAML or holds no mapping; or, with its line, a name that is unknown or given
            twice, or a value out of range.
    """
    read = read_yaml(path)
    values = {} if read.content is None else read.content
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} must hold a mapping of hyperparameters, as in 'lr: 0.001'")
    for name, *below in read.repeated:
        if not below:
            raise UserError(f"{path}, line {read.lines[name,]}: {name} is given twice; one of them must go")
    for name, value in values.items():
        try:
            check_name(name)
            parse_value(name, value)
        except UserError as error:
            line = read.lines.get((name,))  # none where it was merged in, as by <<
            raise UserError(f"{path}, {f'line {line}: ' if line else ''}{error}") from error
    return values


def without_effect(config: RunConfig, given: Collection[str], *, searched: Collection[str] = ()) -> list[str]:
    """Says of each hyperparameter given why it changes nothing, where it changes nothing.

    Args:
        config: the run's.
        given: names of what was given, rather than left to its default.
        searched: names of what is not decided yet; nothing is said that depends on them.
    """
    c, frozen, head = config, config.cut != "input", config.cut == "head"
    pixels = not frozen and not c.head_epochs  # the images themselves, at every step
    views = c.feature_views > 1
    late = not head and c.head_epochs >= c.max_epochs
    told = {"pixels": "freeze_backbone is false", "head": "the head alone is trained"}
    told |= {"late": f"head_epochs {c.head_epochs} is all of max_epochs", "random": "pretrained is false"}
    told["kept"] = "kept features are of 1 view, the image as it is: give feature_views, or feature_cache false"
    # The hyperparameter, what else decides, whether it changes nothing, and why.
    rules = (
        ("weights_dir", "pretrained", c.weights_dir and not c.pretrained, told["random"]),
        ("unfreeze_from", "freeze_backbone", not c.freeze_backbone, told["pixels"]),
        ("unfreeze_from", "head_epochs max_epochs", late, told["late"]),
        ("freeze_backbone", "head_epochs max_epochs", not c.freeze_backbone and late, told["late"]),
        ("head_epochs", "freeze_backbone unfreeze_from", c.head_epochs and head, told["head"]),
        ("freeze_batch_norm", "pretrained", not c.pretrained, told["random"]),
        ("freeze_batch_norm", "freeze_backbone unfreeze_from", head, told["head"]),
        ("feature_cache", "freeze_backbone head_epochs", pixels, told["pixels"]),
        ("feature_views", "freeze_backbone head_epochs", views and pixels, told["pixels"]),
        ("feature_views", "feature_cache", views and not c.feature_cache, "feature_cache is false"),
        ("feature_views", "augmentation", views and not c.augmentation, "augmentation is 0"),
        (
            "augmentation",
            "freeze_backbone feature_cache feature_views",
            c.augmentation and frozen and c.feature_cache and not views,
            told["kept"],
        ),
        ("early_stopping", "max_epochs", c.early_stopping >= c.max_epochs, f"max_epochs is {c.max_epochs}"),
    )
    found: dict[str, str] = {}
    for name, deciding, idle, why in rules:
        if idle and name in given and not {name, *deciding.split()} & set(searched):
            found.setdefault(name, f"{name} has no effect because {why}")
    return list(found.values())


def reference_table() -> str:
    """The hyperparameters as a Markdown table, for the README."""
    rows = ["| name | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in FIELDS.items():
        default = (
            "" if field.default == "" else str(field.default).lower() if field.type is bool else f"{field.default}"
        )
        allowed = describe(name).replace("one of ", "").replace("<", "&lt;")
        rows.append(f"| `{name}` | {allowed} | {default} | {field.metadata['help'].replace('<', '&lt;')} |")
    return "\n".join(rows)
