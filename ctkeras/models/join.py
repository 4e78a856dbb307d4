"""Several models with one frozen beginning, joined into one whose logits lie side by side."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ctkeras.models.blank import BlankZeros


def joined(model: Any, shared: Collection[str], weights: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """Joins M models that differ only behind a point.

    Args:
        model: a flat keras.Model from images to logits [B, C], which has the weights of what is shared.
        shared: names of the layers before that point.
        weights: per member, the values of all other weights by their path.

    Returns:
        A flat keras.Model from images to logits [B, M * C]. Names of member m's own layers end in _m and its number.
    """
    image = keras.Input(model.input.shape[1:], name="image")
    copies: dict[str, Any] = {}
    outputs: dict[str, Any] = {}  # of shared layers, which are called once

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name not in shared:
            return layer(*args, **kwargs)
        if layer.name not in outputs:
            outputs[layer.name] = layer(*args, **kwargs)
        return outputs[layer.name]

    logits = []
    for number, values in enumerate(weights):

        def clone(layer: Any, number: int = number) -> Any:
            name = layer.name if layer.name in shared else f"{layer.name}_m{number}"
            return copies.setdefault(name, _copy(layer, name))

        own = keras.models.clone_model(model, input_tensors=image, clone_function=clone, call_function=call)
        for target, source in zip(own.weights, model.weights, strict=True):
            target.assign(values.get(source.path, source.value))
        logits.append(own.output)
    return keras.Model(image, keras.layers.Concatenate(name="logits_of_members")(logits), name=model.name)


def _copy(layer: Any, name: str) -> Any:
    """A new layer or operation of the same kind, whose weights are set later."""
    settings = layer.get_config()
    if isinstance(layer, keras.layers.Layer):
        settings |= {key: BlankZeros() for key in settings if key.endswith("_initializer")}
        settings["name"] = name
    copy = type(layer).from_config(settings)
    copy.name = name  # plain operations have no name in their settings
    return copy
