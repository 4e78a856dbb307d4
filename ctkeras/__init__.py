"""ctkeras: honest hyperparameter studies for chest-CT classification, Keras 3 on JAX."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # keras reads it once, at its first import

__version__ = "0.1.0"
