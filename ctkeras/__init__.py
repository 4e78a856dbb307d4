"""ctkeras: hyperparameter studies for chest-CT classification whose numbers can be trusted. Keras 3 on JAX.

From Python: `train`, `RunConfig`, `evaluate`, `load`, `audit` and `UserError`; docs/python.md shows them in use. Each is
imported when it is first used, so that importing ctkeras is quick.
"""

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if not os.environ.get("KERAS_BACKEND"):  # set but empty leaves the choice to keras.json
    os.environ["KERAS_BACKEND"] = "jax"  # keras reads it once, at its first import

__version__ = "0.1.0"
__all__ = ["RunConfig", "UserError", "audit", "evaluate", "load", "train"]

if TYPE_CHECKING:
    from ctkeras.audit.summary import audit
    from ctkeras.config import RunConfig
    from ctkeras.data import images as images
    from ctkeras.errors import UserError
    from ctkeras.evaluation.evaluate import evaluate
    from ctkeras.models.predict import load
    from ctkeras.training.train import train

_HOMES = {
    "RunConfig": "ctkeras.config",
    "UserError": "ctkeras.errors",
    "audit": "ctkeras.audit.summary",
    "evaluate": "ctkeras.evaluation.evaluate",
    "load": "ctkeras.models.predict",
    "train": "ctkeras.training.train",
}


class _Package(types.ModuleType):
    """The package as a module whose public names are looked up in their homes."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        if name == "images":  # the module that decodes files as training does
            return importlib.import_module("ctkeras.data.images")
        raise AttributeError(f"module 'ctkeras' has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})

    @property
    def audit(self) -> Any:
        """The function, not the folder of the same name, whose import would otherwise take its place."""
        return self.__getattr__("audit")

    @audit.setter
    def audit(self, folder: types.ModuleType) -> None:
        """Does nothing: the import system assigns the folder here."""


sys.modules[__name__].__class__ = _Package
