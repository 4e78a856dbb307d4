"""The classifier: normalisation + backbone + pooling + dropout + head, one flat graph, split where training begins."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ctkeras import backbones, kernels, runtime
from ctkeras.config import UserError

# PyTorch's default, momentum 0.1 in its terms. keras.applications has up to 0.999, with which the ~600 steps of a study's
# run would leave the statistics of a network trained from scratch near their start.
BATCH_NORM_MOMENTUM = 0.9


class TracedDropout(keras.layers.Layer):
    """Dropout whose rate is a variable, so that another rate runs the same compiled program. Exported as keras' Dropout."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the rate, a float32 scalar in [0, 1)."""
        self.rate = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="rate")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drops and rescales in training; passes through otherwise."""
        if not training:
            return inputs
        kept = 1.0 - keras.ops.cast(self.rate, inputs.dtype)
        drawn = keras.random.uniform(keras.ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        return keras.ops.where(drawn < keras.ops.cast(kept, "float32"), inputs / kept, keras.ops.zeros_like(inputs))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The whole graph, where it can be cut, and the programs compiled from it so far."""

    model: Any  # images [B, S, S, 3] in 0..255 to logits float32 [B, C]
    model_name: str
    pretrained: list[np.ndarray]  # the backbone's loaded weights, for the next run in this process; [] without any
    programs: dict[tuple, Any] = dataclasses.field(default_factory=dict)

    def split(self, cut: str) -> tuple[Any, Any]:
        """Cuts the graph where training begins.

        Args:
            cut: one of config.CUTS.

        Returns:
            (prefix, suffix): the prefix is None when everything is trained.

        Raises:
            UserError: the backbone has no such stage at this image size.
        """
        if cut == "input":
            return None, self.model
        tensor = self.model.get_layer("pool").output if cut == "head" else _stage_input(self.model, cut)
        # Named, as the name keys kept features and Keras would number unnamed models by their order in the process.
        prefix = keras.Model(self.model.input, tensor, name=f"{self.model_name}_to_{cut}")
        return prefix, keras.Model(tensor, self.model.output, name=f"{self.model_name}_from_{cut}")


def _stage_input(model: Any, stage: str) -> Any:
    """The tensor where a stage begins: the narrowest behind the last block of the stage before.

    Stage k works on features of a side 2^(k+1) times smaller than the image's, so it begins behind the last features twice
    as large. A tensor can be cut at when no later layer reads anything before it.
    """
    size = -(-model.input.shape[1] // 2 ** int(stage[-1]))
    operations = model.operations
    producer = {id(operation.output): place for place, operation in enumerate(operations)}
    parents = [{producer[id(tensor)] for tensor in keras.tree.flatten(operation.input)} for operation in operations]
    last_reader = list(range(len(operations)))
    for place, read in enumerate(parents):
        last_reader = [place if before in read else last for before, last in enumerate(last_reader)]
    chain: list[Any] = []  # since two branches last met, as a cut inside a block would part its layers
    reach = 0
    for place, operation in enumerate(operations):
        alone, reach = reach <= place, max(reach, last_reader[place])
        if len(operation.output.shape) != 4 or operation.output.shape[1] != size:
            continue
        if len(parents[place]) > 1:
            chain = []
        if alone:
            chain.append(operation.output)
    if not chain:
        raise UserError(f"unfreeze_from {stage}: {model.name} has no such stage at image_size {model.input.shape[1]}")
    return min(reversed(chain), key=lambda tensor: tensor.shape[-1])


def build(
    model_name: str,
    image_size: int,
    *,
    classes: int,
    precision: str = "float32",
    weights: Path | None = None,
    freeze_batch_norm: bool = False,
) -> Classifier:
    """Builds the classifier.

    Args:
        model_name: a key of BACKBONES.
        image_size: pixels of a side.
        classes: number of classes C.
        precision: "float32", or "bfloat16" to compute in it with weights in float32.
        weights: ImageNet weights from find_weights; None leaves every weight to `initialise`.
        freeze_batch_norm: BatchNorm stays in inference mode and its weights untrained.
    """
    backbone = backbones.build(model_name, image_size, weights=weights)
    scale, offset = backbones.BACKBONES[model_name].normalisation
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    # float32 even under bfloat16, whose 8 bits would round augmented pixels.
    normalise = keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="normalization")
    first = backbone.layers[1].name
    kind: Any = kernels.for_cpu if runtime.cpu_kernels() else type

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):  # MobileNetV3 adds constants by bare operations
            return type(layer).from_config(layer.get_config())
        settings = {**layer.get_config(), "dtype": policy}
        settings |= {key: _Zeros() for key in settings if key.endswith("_initializer")}
        if isinstance(layer, keras.layers.BatchNormalization):
            settings |= {"momentum": BATCH_NORM_MOMENTUM, "trainable": not freeze_batch_norm}
        return kind(layer).from_config(settings)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(normalise(*args), **kwargs) if layer.name == first else layer(*args, **kwargs)

    image = keras.Input((image_size, image_size, 3), name="image")
    flat = keras.models.clone_model(backbone, input_tensors=image, clone_function=clone, call_function=call)
    for source, target in zip(backbone.weights, flat.weights, strict=True):
        target.assign(source.value)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype=policy)(flat.output)
    dropped = TracedDropout(name="dropout", dtype=policy)(pooled)
    head = keras.layers.Dense(classes, name="logits", dtype="float32", kernel_initializer=_Zeros())
    loaded = [] if weights is None else [np.array(weight.value) for weight in flat.weights]
    return Classifier(keras.Model(flat.input, head(dropped), name=model_name), model_name, loaded)


class _Zeros(keras.initializers.Zeros):
    """Zeros without JAX compiling one fill a shape; `initialise` or a weight file sets the values."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")


def initialise(classifier: Classifier, *, seed: int, dropout: float) -> None:
    """Sets the start values of a run, the same for a fresh model and for one that has served another trial.

    He et al. 2015 (normal, fan out) for convolutions, as torchvision and EfficientNet have it; Glorot & Bengio 2010
    (uniform) for the head, Keras' default; BatchNorm starts as the identity.

    Args:
        classifier: from build.
        seed: decides every random value.
        dropout: rate, in [0, 1).
    """
    rng = np.random.default_rng([seed, 2])
    for layer in classifier.model.layers:
        if generator := getattr(layer, "seed_generator", None):
            generator.state.assign(rng.integers(2**32, size=2, dtype=np.uint32))
        if layer.name == "dropout":
            layer.rate.assign(dropout)
        elif layer.name == "logits":
            limit = np.sqrt(6.0 / sum(layer.kernel.shape))
            layer.kernel.assign(rng.uniform(-limit, limit, layer.kernel.shape).astype(np.float32))
            layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
        elif not classifier.pretrained:
            _initialise_backbone(layer, rng)
    # Dropout and head come last in the model, so the backbone's weights are its first.
    for weight, value in zip(classifier.model.weights, classifier.pretrained, strict=False):
        weight.assign(value)


def _initialise_backbone(layer: Any, rng: np.random.Generator) -> None:
    """Draws one backbone layer's weights."""
    for variable in layer.weights:
        shape = variable.shape
        if variable.name == "kernel":
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_out = shape[0] * shape[1] * (1 if depthwise else shape[3])
            variable.assign(rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2.0 / fan_out)))
        else:
            variable.assign(np.full(shape, variable.name in ("gamma", "moving_variance"), np.float32))
