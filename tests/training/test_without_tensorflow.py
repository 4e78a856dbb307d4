"""A frozen run needs no TensorFlow, with nothing in the cache either."""

import os
import subprocess
import sys

import pytest

# As if they were not installed; a spec of None would only pass the question on to the next finder.
BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras_cv", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
from ctkeras.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_frozen_run_never_imports_tensorflow(image_folder, tmp_path):
    words = ["--model_name=mobilenet_v2", "--pretrained=false", "--image_size=32", f"--output_dir={tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "train", f"--data={image_folder}", *words],
        env=os.environ | {"CTKERAS_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").glob("*/model.keras"))
