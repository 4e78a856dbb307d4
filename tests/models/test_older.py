"""Exported files open in older versions of Keras, with the same answers on every backend."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.cpu import layers as cpu_layers
from ctkeras.models import classifier, export, older
from ctkeras.training.train import train

# The keys of each layer's configuration that Keras 3.6 takes, with where they are from.
KNOWN = json.loads(pathlib.Path(__file__).with_name("keras_3_6.json").read_text())
VERSIONS = (older.OLDEST, "3.10.0", "3.13.2", "")  # "": the one installed
BACKENDS = ("jax", "tensorflow", "torch")
MODELS = ("mobilenet_v2", "resnet18", "efficientnet_b0", "small_cnn")
OPEN = """
import sys
import numpy as np
import keras

answers = {}
for number, path in enumerate(sys.argv[3:]):
    model = keras.saving.load_model(path, compile=False)
    size = model.input_shape[1]
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("float32")
    answers[str(number)] = np.asarray(model.predict(pixels, verbose=0))
np.savez(sys.argv[1], **answers)
assert keras.__version__ == sys.argv[2], keras.__version__
"""


def trained(folder, name, **more):
    """The model.keras of a short training of a network with random weights."""
    config = RunConfig.from_mapping(
        {"data": "phantom:48", "model_name": name, "pretrained": False, "image_size": 32, "max_epochs": 1}
        | {"output_dir": str(folder), "batch_size": 8, **more}
    )
    return train(config).folder / "model.keras"


def layers(path):
    """The class and the settings of each layer in a .keras file."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read(older.CONFIG))
    return [(layer["class_name"], layer["config"]) for layer in config["config"]["layers"]]


def unknown(path):
    """The settings that Keras 3.6 would refuse."""
    found = []
    for name, settings in layers(path):
        known = (
            {*KNOWN["layers"][name], "batch_shape", "batch_input_shape"} if name in KNOWN["layers"] else set(settings)
        )
        found += [f"{name}.{key}" for key in settings if key not in known]
    return found


def test_the_file_has_no_setting_that_keras_3_6_does_not_know(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3, use_bias=False)(image))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(6)(x))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(x)))
    path = tmp_path / "model.keras"
    model.save(path)
    older.rewrite(path)
    assert unknown(path) == []
    back = keras.saving.load_model(path)
    assert [layer.get_config() for layer in back.layers] == [layer.get_config() for layer in model.layers]
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_array_equal(back.predict_on_batch(pixels), model.predict_on_batch(pixels))


def test_a_setting_that_is_not_at_its_default_stays():
    config = {"renorm": True, "renorm_momentum": 0.99, "layers": [{"quantization_config": None, "name": "a"}]}
    assert older.without_new(config) == {"renorm": True, "layers": [{"name": "a"}]}


def test_a_network_as_training_exports_it_has_none_either(tmp_path):
    built = classifier.build("small_cnn", 32, classes=3)
    export.core_model(built.model, 3, cpu_layers.core).save(tmp_path / "model.keras")
    older.rewrite(tmp_path / "model.keras")
    assert unknown(tmp_path / "model.keras") == []
    assert len(layers(tmp_path / "model.keras")) > 10


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"freeze_backbone": False, "folds": 0}], ids=["folds joined", "fine-tuned"])
def test_what_training_exports_has_none_either(more, tmp_path):
    path = trained(tmp_path, "small_cnn", **more)
    assert unknown(path) == []
    assert len(layers(path)) > 10
    contract = json.loads(path.with_name("contract.json").read_text())
    assert contract["keras"] == {"written_by": keras.__version__, "oldest_opened": "3.6.0"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One file per network, and one of five folds' members joined."""
    place = tmp_path_factory.mktemp("exported")
    files = [trained(place, name, freeze_backbone=False, folds=0) for name in MODELS]
    return [*files, trained(place, "small_cnn")]


@pytest.fixture(scope="module")
def kerases(tmp_path_factory):
    """Returns the folder of a version of Keras, installed by pip without what it needs: that is here."""

    def of(version):
        place = tmp_path_factory.getbasetemp() / f"keras-{version}"
        if not place.exists():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place)]
            if subprocess.run([*command, f"keras=={version}"], capture_output=True, check=False).returncode:
                pytest.skip(f"keras {version} cannot be installed here")
        return str(place)

    return of


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_keras_opens_every_file_on_every_backend(exported, kerases, tmp_path):
    answers = {}
    for version in VERSIONS:
        for backend in BACKENDS:
            path = tmp_path / f"{version}-{backend}.npz"
            environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
            environment |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
            environment |= {"PYTHONPATH": kerases(version)} if version else {}
            command = [sys.executable, "-c", OPEN, str(path), version or keras.__version__, *map(str, exported)]
            ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
            assert ended.returncode == 0, f"{version} {backend}: {ended.stderr[-1500:]}"
            answers[version, backend] = np.load(path)
    first = answers["", "jax"]
    for (version, backend), others in answers.items():
        worst = max(float(np.abs(others[name] - first[name]).max()) for name in first.files)
        print(f"keras {version or keras.__version__} {backend}: {worst:.1e}")
        assert worst < 1e-4
