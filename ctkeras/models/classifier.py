"""The classifier: normalisation, backbone, pooling, dropout and head in one flat graph, split where training begins."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from ctkeras.cpu import layers
from ctkeras.errors import UserError
from ctkeras.models import backbones, head
from ctkeras.models.blank import BlankZeros
from ctkeras.runtime import xla

# PyTorch's default (there called momentum 0.1). keras.applications uses up to 0.999: after the 600 or so steps of a run, a
# network trained from scratch would still have statistics close to their initial values.
BATCH_NORM_MOMENTUM = 0.9


class TracedDropout(keras.layers.Layer):
    """Dropout whose rate is a variable, so that any rate uses the same compiled program. Exported as Keras' Dropout."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the rate: a float32 scalar in [0, 1)."""
        self.rate = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False, name="rate")

    def call(self, inputs: jax.Array, training: bool = False) -> jax.Array:
        """Drops and rescales values in training; returns the inputs unchanged otherwise."""
        if not training:
            return inputs
        share = 1.0 - keras.ops.cast(self.rate, inputs.dtype)
        uniform = keras.random.uniform(keras.ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        retained = uniform < keras.ops.cast(share, "float32")
        return keras.ops.where(retained, inputs / share, keras.ops.zeros_like(inputs))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The whole graph, and the programs compiled from it so far."""

    model: keras.Model  # images [B, S, S, 3] in 0..255 to logits float32 [B, C]
    model_name: str
    pretrained: list[jax.Array]  # the loaded weights of the backbone, to reset them for the next run; [] without any
    programs: dict[tuple, Any] = dataclasses.field(default_factory=dict)

    def frozen_layers(self, cut: str) -> set[str]:
        """Names of the layers before the point where training begins; `cut` is one of config.CUTS."""
        if cut == "input":
            return set()
        if cut == "head":
            outputs = [self.model.get_layer("pool").output]
        else:
            outputs = [_stage_input(self.model, cut)]
            outputs += head.early_pools(self.model, outputs[0])
        return {operation.name for operation in keras.Model(self.model.input, outputs).operations}

    def split(self, cut: str) -> tuple[keras.Model | None, keras.Model]:
        """Splits the graph where training begins.

        Args:
            cut: one of config.CUTS.

        Returns:
            (prefix, suffix): the prefix is None if everything is trained.

        Raises:
            UserError: the backbone has no such stage at this image size.
        """
        if cut == "input":
            return None, self.model
        # The name is part of the key of cached features; Keras would number unnamed models in order of creation.
        names = f"{self.model_name}_to_{cut}", f"{self.model_name}_from_{cut}"
        tensor = self.model.get_layer("pool").output if cut == "head" else _stage_input(self.model, cut)
        if cut != "head" and (early := head.early_pools(self.model, tensor)):
            return head.packed_split(self.model, tensor, early, names=names)
        return keras.Model(self.model.input, tensor, name=names[0]), keras.Model(
            tensor, self.model.output, name=names[1]
        )


def _stage_input(model: keras.Model, stage: str) -> keras.KerasTensor:
    """The tensor where a stage begins: the one with the fewest channels after the last block of the previous stage.

    The features of stage k have a side 2^(k+1) times smaller than the image, so the stage begins after the last features
    that are twice as large. The graph can be cut at a tensor if no later layer reads anything before it.
    """
    size = -(-model.input.shape[1] // 2 ** int(stage[-1]))
    operations = model.operations
    producer = {id(operation.output): place for place, operation in enumerate(operations)}
    parents = [{producer[id(tensor)] for tensor in keras.tree.flatten(operation.input)} for operation in operations]
    last_reader = list(range(len(operations)))
    for place, read in enumerate(parents):
        if operations[place].name.startswith("pool_"):  # of the head, which may read stages before the cut
            continue
        last_reader = [place if before in read else last for before, last in enumerate(last_reader)]
    chain: list[keras.KerasTensor] = []  # since two branches last met: a cut inside a block would separate its layers
    reach = 0
    for place, operation in enumerate(operations):
        separates, reach = reach <= place, max(reach, last_reader[place])
        if len(operation.output.shape) != 4 or operation.output.shape[1] != size:
            continue
        if len(parents[place]) > 1:
            chain = []
        if separates:
            chain.append(operation.output)
    if not chain:
        raise UserError(f"unfreeze_from {stage}: {model.name} has no such stage at image_size {model.input.shape[1]}")
    return min(reversed(chain), key=lambda tensor: tensor.shape[-1])


def build(
    model_name: str,
    image_size: int,
    *,
    classes: int,
    head_stages: int = 1,
    members: int = 1,
    precision: str = "float32",
    weights: Path | None = None,
    freeze_batch_norm: bool = False,
) -> Classifier:
    """Builds the classifier.

    Args:
        model_name: a key of BACKBONES.
        image_size: side of the square images, in pixels.
        classes: number of classes C.
        head_stages: how many of the backbone's last stages the head reads, 1 to 4.
        members: number of heads M on the one backbone, whose logits [B, M * C] lie side by side.
        precision: "float32" or "bfloat16", the type to compute in; weights are float32.
        weights: ImageNet weights from find_weights; with None, `initialise` sets all weights.
        freeze_batch_norm: whether BatchNorm stays in inference mode, with its weights not trained.
    """
    backbone = backbones.build(model_name, image_size, weights=weights)
    scale, offset = backbones.BACKBONES[model_name].normalisation
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    # float32 also under bfloat16, whose 8 bits would round augmented pixels.
    normalise = keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="normalization")
    first = backbone.layers[1].name
    kind: Any = layers.for_cpu if xla.cpu_kernels() else type

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):  # MobileNetV3 adds constants by plain operations
            return type(layer).from_config(layer.get_config())
        settings = {**layer.get_config(), "dtype": policy}
        settings |= {key: BlankZeros() for key in settings if key.endswith("_initializer")}
        if isinstance(layer, keras.layers.BatchNormalization):
            settings |= {"momentum": BATCH_NORM_MOMENTUM, "trainable": not freeze_batch_norm}
        return kind(layer).from_config(settings)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(normalise(*args), **kwargs) if layer.name == first else layer(*args, **kwargs)

    image = keras.Input((image_size, image_size, 3), name="image")
    flat = keras.models.clone_model(backbone, input_tensors=image, clone_function=clone, call_function=call)
    for source, target in zip(backbone.weights, flat.weights, strict=True):
        target.assign(source.value)
    pooled = head.pooled(head.maps_of(flat, model_name, head_stages), policy=policy)
    dropped = TracedDropout(name="dropout", dtype=policy)(head.standardise(pooled))
    dense = keras.layers.Dense(classes * members, name="logits", dtype="float32", kernel_initializer=BlankZeros())
    loaded = [] if weights is None else [weight.value for weight in flat.weights]
    return Classifier(keras.Model(flat.input, dense(dropped), name=model_name), model_name, loaded)


def initialise(classifier: Classifier, *, seed: int, dropout: float) -> None:
    """Sets the initial values of a run. A new model and one that another trial has used get the same values.

    Convolutions: He et al. 2015 (normal, fan out), as in torchvision and EfficientNet. Head: Glorot & Bengio 2010 (uniform),
    the default of Keras. BatchNorm starts as the identity.

    Args:
        classifier: from build.
        seed: determines all random values.
        dropout: dropout rate in [0, 1).
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
        elif not classifier.pretrained or layer.name == "standardise":
            _initialise_backbone(layer, rng)
    # Dropout and head come last in the model, so its first weights are those of the backbone.
    for weight, value in zip(classifier.model.weights, classifier.pretrained, strict=False):
        weight.assign(value)


def _initialise_backbone(layer: keras.layers.Layer, rng: np.random.Generator) -> None:
    """Draws the weights of one layer of the backbone."""
    for variable in layer.weights:
        shape = variable.shape
        if variable.name == "kernel":
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_out = shape[0] * shape[1] * (1 if depthwise else shape[3])
            variable.assign(rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2.0 / fan_out)))
        else:
            variable.assign(np.full(shape, variable.name in ("gamma", "moving_variance"), np.float32))
