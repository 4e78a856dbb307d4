"""Model files and archives from elsewhere: no code runs, no file appears, memory stays low, and the answer is one line."""

import io
import os
import resource
import subprocess
import sys

import hostile
import numpy as np
import pytest
from PIL import Image

from ctkeras.errors import UserError
from ctkeras.models import predict, safety

GIGABYTE = 2**20  # in the unit of ru_maxrss


@pytest.fixture(scope="module")
def png():
    content = io.BytesIO()
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return tmp_path_factory.mktemp("alone")


@pytest.mark.parametrize("kind", [k for k in hostile.MODELS if k not in ("deep", "wide")])
def test_a_hostile_model_is_refused_in_a_line_before_keras_builds_it(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    hostile.MODELS[kind](tmp_path / "model.keras")
    with pytest.raises(UserError) as refused:
        predict.open_model(tmp_path / "model.keras")
    assert "\n" not in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["model.keras"]


def test_a_plain_model_passes(tmp_path):
    import keras

    images = keras.Input((8, 8, 3))
    built = keras.Model(images, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(images)))
    config = built.to_json()
    hostile.keras_file(tmp_path / "model.keras", config=config, weights=hostile.h5(hostile._weights))
    assert safety.check(tmp_path / "model.keras") == 192 * 2 + 2
    assert predict.open_model(tmp_path / "model.keras").class_names == ["class_0", "class_1"]


def command(words, folder):
    """Runs the real command; returns it with the peak of memory that children of this process have reached, in KiB."""
    done = subprocess.run(
        [sys.executable, "-m", "ctkeras", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def assert_refused(done, folder, *, made):
    """One line, exit code 2, no traceback, no new file."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 2, done.stderr[-500:]
    assert len(errors) == 1, done.stderr[-500:]
    assert "Traceback" not in done.stderr
    assert hostile.RAN not in {name.partition(".")[0] for name in os.listdir(folder)}
    assert not (folder.parent / f"{hostile.RAN}.png").exists()
    assert set(os.listdir(folder)) <= made


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*hostile.MODELS, *hostile.LARGE_MODELS])
def test_no_hostile_model_runs_code_or_fills_memory(alone, png, kind):
    (alone / "image.png").write_bytes(png)
    (hostile.MODELS | hostile.LARGE_MODELS)[kind](alone / "model.keras")
    done, peak = command(["predict", "model.keras", "image.png"], alone)
    assert_refused(done, alone, made={"image.png", "model.keras"})
    assert peak < GIGABYTE
    (alone / "model.keras").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*hostile.ARCHIVES, *hostile.LARGE_ARCHIVES])
def test_no_hostile_archive_runs_code_or_fills_memory(alone, png, kind):
    (hostile.ARCHIVES | hostile.LARGE_ARCHIVES)[kind](alone / "set.zip", png)
    done, peak = command(["data", "check", "--data", "set.zip"], alone)
    if done.returncode == 1:  # the set can be checked, and the check names the files that cannot be read
        assert "Traceback" not in done.stderr
        assert set(os.listdir(alone)) <= {"set.zip", "image.png"}
    else:
        assert_refused(done, alone, made={"set.zip", "image.png"})
    assert peak < GIGABYTE
    (alone / "set.zip").unlink()
