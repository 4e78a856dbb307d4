"""Backbones by name: their graphs, the input normalisation they were trained with, and their ImageNet weights.

Each graph starts after the library's own preprocessing layers, if there are any. Those of EfficientNet differ between
`weights="imagenet"` and `weights=None`, so one constant Rescaling of ours replaces them all.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.errors import UserError

if TYPE_CHECKING:
    import keras

# Channel means and standard deviations of ImageNet, RGB in 0..1, as in torchvision and keras.applications' "torch" mode.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_CAFFE_MEAN = np.array([123.68, 116.779, 103.939])  # of RGB in 0..255; keras.applications' "caffe" mode
_PREPROCESSING = ("InputLayer", "Rescaling", "Normalization")
_KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications/"
REACH_SECONDS = 10  # without a network, the download fails within this time
_TORCH = (1 / (255 * _STD), -_MEAN / _STD)
_PLUS_MINUS_ONE = (np.full(3, 1 / 127.5), np.full(3, -1.0))
_CAFFE = (np.ones(3), -_CAFFE_MEAN)
SMALL_CNN_WIDTHS = (16, 32, 64, 128, 128)  # channels per convolution


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One backbone: `build(image_size)` creates its graph, `normalisation` is for RGB in 0..255, `source` has the weights."""

    build: Callable[[int], "keras.Model"]
    normalisation: tuple[np.ndarray, np.ndarray]  # scale and offset, float [3] each
    source: str = ""  # URL of a file, or hf://owner/repository; "" if there are no ImageNet weights
    md5: str = ""
    first_conv_bgr: bool = False  # trained on BGR: the input channels of the first kernel are reversed on loading

    @property
    def upstream_name(self) -> str:
        """Upstream name of the file, or of the folder for timm."""
        return self.source.rpartition("/")[2]


def _application(name: str, **options: Any) -> Callable[[int], "keras.Model"]:
    """A function that builds a keras.applications model without its top."""

    def build(image_size: int) -> "keras.Model":
        import keras

        shape = (image_size, image_size, 3)
        return getattr(keras.applications, name)(include_top=False, weights=None, input_shape=shape, **options)

    return build


def _resnet(blocks: tuple[int, ...]) -> Callable[[int], "keras.Model"]:
    """A function that builds a keras_hub ResNet of basic blocks, as timm's resnet18 and resnet34."""

    def build(image_size: int) -> "keras.Model":
        import keras
        import keras_hub

        backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=list(blocks),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="basic_block",
            image_shape=(image_size, image_size, 3),
        )
        return keras.Model(backbone.inputs[0], backbone.pyramid_outputs["P5"])

    return build


def _small_cnn(image_size: int) -> "keras.Model":
    """Five convolutions, each with BatchNorm and ReLU, and max pooling between them; about 246,000 parameters.

    The last feature map has a 16th of the image's side rather than a 32nd, so that small images still show a location.
    """
    import keras

    image = features = keras.Input((image_size, image_size, 3))
    for number, width in enumerate(SMALL_CNN_WIDTHS, start=1):
        if number > 1:  # "same", so that a side is halved and rounded up, as in the other backbones
            features = keras.layers.MaxPooling2D(padding="same", name=f"block{number}_pool")(features)
        features = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"block{number}_conv")(features)
        features = keras.layers.BatchNormalization(name=f"block{number}_bn")(features)
        features = keras.layers.ReLU(name=f"block{number}_relu")(features)
    return keras.Model(image, features)


# Each normalisation is the one that the weights in `source` were trained with; the md5s are from keras.applications.
BACKBONES = {
    "resnet18": Backbone(_resnet((2, 2, 2, 2)), _TORCH, "hf://timm/resnet18.a1_in1k"),
    "resnet34": Backbone(_resnet((3, 4, 6, 3)), _TORCH, "hf://timm/resnet34.a1_in1k"),
    "resnet50": Backbone(
        _application("ResNet50"),
        _CAFFE,
        _KERAS_FILES + "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
        first_conv_bgr=True,
    ),
    "efficientnet_b0": Backbone(
        _application("EfficientNetB0"),
        _TORCH,
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "50bc09e76180e00e4465e1a485ddc09d",
    ),
    "densenet121": Backbone(
        _application("DenseNet121"),
        _TORCH,
        _KERAS_FILES + "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "30ee3e1110167f948a6b9946edeeb738",
    ),
    "mobilenet_v2": Backbone(
        _application("MobileNetV2"),
        _PLUS_MINUS_ONE,
        _KERAS_FILES + "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    "mobilenet_v3_large": Backbone(
        _application("MobileNetV3Large", include_preprocessing=False),
        _PLUS_MINUS_ONE,
        _KERAS_FILES + "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "small_cnn": Backbone(_small_cnn, _PLUS_MINUS_ONE),
}


def build(name: str, image_size: int, *, weights: Path | None = None) -> "keras.Model":
    """Builds a backbone that takes normalised images.

    Args:
        name: a key of BACKBONES.
        image_size: side of the square images, in pixels.
        weights: the path from find_weights; with None all weights are zero, for the caller to initialise.

    Returns:
        A functional keras.Model from normalised [B, S, S, 3] to the last feature map [B, h, w, D].

    Raises:
        UserError: the file does not hold weights of this backbone.
    """
    import keras

    from ctkeras.models import blank

    row = BACKBONES[name]
    with blank.initializers():
        whole = row.build(image_size)
        if weights is not None:
            _load(whole, weights, name)
    first = next(layer for layer in whole.layers if type(layer).__name__ not in _PREPROCESSING)
    if weights is not None and row.first_conv_bgr:
        kernel = next(layer for layer in whole.layers if isinstance(layer, keras.layers.Conv2D)).kernel
        kernel.assign(np.asarray(kernel)[:, :, ::-1])
    return keras.Model(first.input, whole.output)


def _load(whole: "keras.Model", path: Path, name: str) -> None:
    """Loads weights in any of the three forms into a newly built backbone."""
    try:
        if path.is_dir():
            import keras
            import keras_hub

            # An absolute path as text: keras_hub looks up other names among its own presets first.
            loaded = keras_hub.models.ResNetBackbone.from_preset(str(path.absolute()))
            whole.set_weights(keras.Model(loaded.inputs[0], loaded.pyramid_outputs["P5"]).get_weights())
        else:
            with warnings.catch_warnings(action="ignore"):  # a file of another model is rejected below, in one line
                whole.load_weights(path)
    except Exception as error:  # h5py, safetensors and Keras each raise their own for a file of another model
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not hold weights of {name} without its top ({reason})") from error
