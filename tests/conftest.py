"""Shared by all tests: a temporary cache, no W&B, and small data sets."""

import os
import pathlib
import tempfile

# Before any import of ctkeras or wandb. One cache for the whole session, so that programs are compiled once.
_SESSION = tempfile.TemporaryDirectory(prefix="ctkeras-tests-")
os.environ["CTKERAS_CACHE_DIR"] = os.path.join(_SESSION.name, "cache")
os.environ["WANDB_MODE"] = "disabled"
os.environ["KERAS_BACKEND"] = "jax"
# Tests run side by side, one per core: a second thread of OpenBLAS would only spin against the other tests' threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
REAL_DATA = os.environ.pop("CTKERAS_DATA", "")  # tests name their data; none may use this by accident

import pytest  # noqa: E402
from image_sets import write_images  # noqa: E402

from ctkeras.runtime import process  # noqa: E402

process.configure()


@pytest.fixture
def image_folder(tmp_path):
    """A split/class/image folder: two classes that differ by their bright half; 8, 4 and 4 images per class."""
    return write_images(tmp_path / "images", classes=("left", "right"), counts={"train": 8, "valid": 4, "test": 4})


@pytest.fixture(scope="session")
def real_data():
    """The public chest-CT zip, named by CTKERAS_DATA; tests that need it are skipped without it."""
    if not REAL_DATA or not pathlib.Path(REAL_DATA).exists():
        pytest.skip("CTKERAS_DATA names no data set")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_weights(real_data):
    """A folder with real ImageNet weights: $CTKERAS_WEIGHTS_DIR, or weights/ beside the data."""
    folder = pathlib.Path(os.environ.get("CTKERAS_WEIGHTS_DIR", pathlib.Path(real_data).parent / "weights"))
    if not (folder / "mobilenet_v2.weights.h5").exists():
        pytest.skip("no mobilenet_v2.weights.h5 in CTKERAS_WEIGHTS_DIR")
    return str(folder)
