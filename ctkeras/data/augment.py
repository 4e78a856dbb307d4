"""Random augmentation and mixup, seeded by seed and epoch."""

import functools
from typing import Any, NamedTuple

import numpy as np

# At strength 1. Angles and shifts are those of usual positioning, contrast that of common window settings.
ROTATION = 10.0  # degrees either way
SHIFT = 0.05  # of the side, either way
ZOOM = 0.10  # of the side, either way
BRIGHTNESS = 0.10  # of 0..255, either way
CONTRAST = 0.15  # of the distance to the mean, either way


def _uniform(seed: Any, which: int, half_width: Any, shape: tuple) -> Any:
    """Returns stateless draws from -half_width..half_width; `which` distinguishes the draws of one batch."""
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, seed=seed + [0, which], minval=-half_width, maxval=half_width)


class Draws(NamedTuple):
    """How each image of a batch is augmented."""

    transforms: (
        Any  # float32 [B, 8], from pixels of the result to those of the image, as TensorFlow's projective transform
    )
    contrast: Any  # float32 [B], factor on the distance to the image's mean
    brightness: Any  # float32 [B], gray levels


def draw(count: Any, side: Any, seed: Any, strength: Any) -> Draws:
    """Draws a rotation, zoom, shift, contrast and brightness for each image of a batch.

    Args:
        count: number of images B, int32.
        side: of the images in pixels, float32.
        seed: int32 [2].
        strength: factor on the ranges above, a scalar.
    """
    import tensorflow as tf

    angle = _uniform(seed, 4, np.pi / 180 * ROTATION * strength, (count,))
    zoom = 1.0 + _uniform(seed, 1, ZOOM * strength, (count,))
    down, right = (side * _uniform(seed, which, SHIFT * strength, (count,)) for which in (2, 3))
    cos, sin, middle = zoom * tf.cos(angle), zoom * tf.sin(angle), (side - 1) / 2
    # Maps each output pixel to its source: (cos x - sin y, sin x + cos y) about the middle, then shifted.
    across = [cos, -sin, middle * (1 - cos + sin) + right]
    along = [sin, cos, middle * (1 - sin - cos) + down]
    transforms = tf.stack([*across, *along, tf.zeros_like(cos), tf.zeros_like(cos)], axis=1)
    contrast = 1.0 + _uniform(seed, 5, CONTRAST * strength, (count,))
    return Draws(transforms, contrast, _uniform(seed, 6, 255 * BRIGHTNESS * strength, (count,)))


def augment(gray: Any, seed: Any, strength: Any) -> Any:
    """Augments a batch: one warp, then keras-cv's contrast and brightness with our draws, because theirs cannot be seeded.

    Args:
        gray: uint8 [B, S, S, 1].
        seed: int32 [2].
        strength: factor on the ranges above, a scalar.

    Returns:
        float32 [B, S, S, 1], within 0..255.
    """
    import keras_cv
    import tensorflow as tf

    layers, shape = keras_cv.layers, tf.shape(gray)
    drawn = draw(shape[0], tf.cast(shape[1], tf.float32), seed, strength)
    out = _warp(gray, drawn.transforms)
    for layer, draws in (
        (layers.RandomContrast((0, 255), 0.5), drawn.contrast),
        (layers.RandomBrightness(0.5), drawn.brightness),
    ):
        layer.get_random_transformation_batch = functools.partial(_given, tf.reshape(draws, (-1, 1, 1, 1)))
        out = layer(out)
    return out


def _warp(gray: Any, transforms: Any) -> Any:
    """Rotates, zooms and shifts a batch in one bilinear resampling; three in a row, as by three layers, blur lesion edges."""
    import tensorflow as tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(gray, tf.float32),
        transforms=transforms,
        output_shape=tf.shape(gray)[1:3],
        fill_value=0.0,  # air, as outside the scanner's circle
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _given(draws: Any, *_: Any, **__: Any) -> Any:
    """Replaces a keras-cv layer's own draws."""
    return draws


def _log_gamma_draw(seed: Any, which: int, alpha: Any, shape: Any) -> Any:
    """Returns stateless draws of log Gamma(alpha), float32 (Marsaglia & Tsang 2000, note on alpha below 1)."""
    import tensorflow as tf

    boosted = tf.random.stateless_gamma(shape, seed + [0, which], alpha + 1.0)
    uniform = tf.random.stateless_uniform(shape, seed + [1, which], minval=1e-38)  # above 0, for the logarithm
    return tf.math.log(boosted) + tf.math.log(uniform) / alpha


def draw_mix(count: Any, seed: Any, alpha: Any) -> tuple[Any, Any]:
    """Draws mixup's pairs and shares for a batch.

    Args:
        count: number of images B, int32.
        seed: int32 [2].
        alpha: of Beta(alpha, alpha), above 0, a scalar.

    Returns:
        int32 [B], the image that each is mixed with, and float32 [B], its own share.
    """
    import tensorflow as tf

    pairs = tf.argsort(tf.random.stateless_uniform((count,), seed + [0, 9]))
    # In logarithms, by G(a) = G(a + 1) U^(1/a): for small alpha both draws would underflow to 0.
    logs = [_log_gamma_draw(seed, which, alpha, (count,)) for which in (7, 8)]
    return pairs, tf.sigmoid(logs[0] - logs[1])


def mix_pixels(batch: Any, labels: Any, seed: Any, alpha: Any) -> tuple[Any, Any]:
    """Applies keras-cv's MixUp, with its two draws, pairs and shares, taken from `seed`.

    Args:
        batch: float32 [B, S, S, 1].
        labels: float32 [B, C].
        seed: int32 [2].
        alpha: of Beta(alpha, alpha), above 0, a scalar.
    """
    import keras_cv
    import tensorflow as tf

    class SeededMixUp(keras_cv.layers.MixUp):
        def _mixup(self, images: Any) -> tuple[Any, Any, Any]:
            pairs, shares = draw_mix(tf.shape(images)[0], seed, alpha)
            share = tf.reshape(shares, [-1, 1, 1, 1])
            return share * images + (1.0 - share) * tf.gather(images, pairs), shares, pairs

    mixed = SeededMixUp()({"images": batch, "labels": labels})
    return mixed["images"], mixed["labels"]
