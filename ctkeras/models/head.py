"""The head: pooled features of a backbone's last stages, standardised, dropout, and one dense layer.

A backbone's last layer is fitted to ImageNet's classes; what separates slices is also found in the stages before it
(Head2Toe, Evci et al. 2022, arXiv 2201.03529).
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

# The layers that end the three stages before the last; the last is the backbone's output, which Keras names anew in each
# process for MobileNetV3. A stage ends where features change their size or width.
STAGES = {
    "resnet18": ("stack0_block1_out", "stack1_block1_out", "stack2_block1_out"),
    "resnet34": ("stack0_block2_out", "stack1_block3_out", "stack2_block5_out"),
    "resnet50": ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
    "efficientnet_b0": ("block5c_add", "block6d_add", "block7a_project_bn"),
    # DenseNet's blocks end before BatchNorm and ReLU, with which the next transition begins.
    "densenet121": ("pool2_relu", "pool3_relu", "pool4_relu"),
    "mobilenet_v2": ("block_12_add", "block_15_add", "block_16_project_BN"),
    "mobilenet_v3_large": ("expanded_conv_9_add", "expanded_conv_11_add", "expanded_conv_14_add"),
}
EPSILON = 1e-6  # added to each variance, of features near 1; a feature that is always 0 stays 0
LEAST_SCALE = EPSILON**0.5  # a smaller variance would be lost in float32 beside EPSILON, and a division by 0 follow


class Unpack(keras.layers.Layer):
    """Parts of a vector: the first as a feature map, the others as they are. Only in training; never exported.

    Args:
        shape: (h, w, D) of the feature map.
        widths: of the vectors behind it.
    """

    def __init__(self, shape: tuple[int, int, int], widths: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.widths = shape, tuple(widths)

    def call(self, packed: Any) -> list[Any]:
        """[B, h * w * D + sum(widths)] to [B, h, w, D] and one [B, width] per width."""
        ends = np.cumsum([int(np.prod(self.shape)), *self.widths])
        first = keras.ops.reshape(packed[:, : ends[0]], (-1, *self.shape))
        return [first, *(packed[:, start:end] for start, end in itertools.pairwise(ends))]


def maps_of(backbone: Any, model_name: str, stages: int) -> list[Any]:
    """The feature maps [B, h, w, D] that end the last stages of a backbone, the earliest first.

    Args:
        backbone: a functional keras.Model with the layers of the backbone.
        model_name: its name; one that is not in STAGES has only its last map.
        stages: how many, 1 to 4.
    """
    earlier = STAGES.get(model_name, ())[4 - stages :] if stages > 1 else ()
    return [*(backbone.get_layer(name).output for name in earlier), backbone.output]


def pooled(maps: Sequence[Any], *, policy: str) -> Any:
    """Adds global average pooling of feature maps [B, h, w, D].

    Args:
        maps: from maps_of.
        policy: dtype policy of the new layers.

    Returns:
        A tensor [B, D] whose layer is named pool: the maps' features, those of the last one at the end.
    """
    if len(maps) == 1:
        return keras.layers.GlobalAveragePooling2D(name="pool", dtype=policy)(maps[0])
    pools = [
        keras.layers.GlobalAveragePooling2D(name=f"pool_{number}", dtype=policy)(features)
        for number, features in enumerate(maps, start=1)
    ]
    return keras.layers.Concatenate(name="pool", dtype=policy)(pools)


def standardise(features: Any) -> Any:
    """Adds the layer that standardises features [B, D] by statistics set before training; they are never trained."""
    return keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=EPSILON, trainable=False, dtype="float32", name="standardise"
    )(features)


def set_statistics(model: Any, mean: np.ndarray, scale: np.ndarray) -> None:
    """Sets what the head standardises by.

    Args:
        model: with a layer named standardise.
        mean: float [D].
        scale: float [D], standard deviations; 1 for a feature that is constant. Those below LEAST_SCALE count as that.
    """
    layer = model.get_layer("standardise")
    scale = np.maximum(scale, LEAST_SCALE)
    layer.moving_mean.assign(np.asarray(mean, np.float32))
    layer.moving_variance.assign(np.maximum(scale**2 - EPSILON, 0).astype(np.float32))


def set_weights(model: Any, kernels: Sequence[np.ndarray], biases: Sequence[np.ndarray]) -> None:
    """Sets the dense layer.

    Args:
        model: with a layer named logits of M * C units.
        kernels: M of float [D, C], on standardised features; one per member.
        biases: M of float [C].
    """
    layer = model.get_layer("logits")
    layer.kernel.assign(np.concatenate(kernels, axis=1).astype(np.float32))
    layer.bias.assign(np.concatenate(biases).astype(np.float32))


def probabilities(logits: Any, members: int) -> Any:
    """Adds the layers that make probabilities of logits.

    Args:
        logits: a tensor [B, members * C].
        members: how many heads answer together; their probabilities are averaged.

    Returns:
        A tensor [B, C].
    """
    if members == 1:
        return keras.layers.Softmax(name="probabilities")(logits)
    each = keras.layers.Reshape((members, logits.shape[-1] // members), name="members")(logits)
    chances = keras.layers.Softmax(name="member_probabilities")(each)
    return keras.layers.GlobalAveragePooling1D(name="probabilities")(chances)


def early_pools(model: Any, cut: Any) -> list[Any]:
    """The pooled features that a head reads of stages before a cut, or of the cut itself: tensors [B, d].

    Args:
        model: the whole classifier.
        cut: the feature map [B, h, w, D] where training begins.
    """
    before = keras.Model(model.input, cut).operations
    pools = (layer for layer in model.layers if re.fullmatch(r"pool_\d+", layer.name))
    return [pool.output for pool in pools if any(pool.input is operation.output for operation in before)]


def packed_split(model: Any, cut: Any, early: Sequence[Any], *, names: tuple[str, str]) -> tuple[Any, Any]:
    """Cuts a model at a feature map where the head also reads stages before it.

    What the prefix gives is packed into one vector per image, so that cached features and batches stay one array.

    Args:
        model: the whole, from images to logits.
        cut: the feature map [B, h, w, D] where training begins.
        early: pooled features [B, d] of stages before it.
        names: of the prefix and of the suffix.

    Returns:
        (prefix, suffix), from images to [B, N] and from there to logits.
    """
    flat = keras.layers.Flatten(name="map")(cut)
    prefix = keras.Model(model.input, keras.layers.Concatenate(name="packed")([flat, *early]), name=names[0])
    parts = keras.Input((prefix.output.shape[-1],), name="packed_features")
    unpack = Unpack(tuple(cut.shape[1:]), [tensor.shape[-1] for tensor in early], name="unpack")
    rest = keras.Model([cut, *early], model.output, name=f"{names[1]}_parts")
    return prefix, keras.Model(parts, rest(unpack(parts)), name=names[1])
