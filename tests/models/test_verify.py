"""A converted model answers like the model, and a contract is checked against the file beside it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ctkeras.cpu import layers
from ctkeras.data import crop
from ctkeras.errors import UserError
from ctkeras.models import classifier, convert, export, verify

CLASSES = ("left", "right")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    built = classifier.build("small_cnn", 32, classes=2)
    classifier.initialise(built, seed=0, dropout=0.1)
    export.export(
        built.model, folder, class_names=CLASSES, model_name="small_cnn", preparation=crop.WHOLE, kind=layers.core
    )
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "run")


def failures(model, contract, images=()):
    return [text for holds, text in verify.verify(model, contract, images) if not holds]


def change(folder, **values):
    path = folder / "contract.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_model_fits_its_own_contract(folder, image_folder):
    assert failures(folder, folder) == []
    assert failures(folder / "model.keras", folder / "contract.json", sorted(image_folder.rglob("*.png"))[:3]) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_sha256": "0" * 64}, "is another file"),
        ({"input_shape": [64, 64, 3]}, "has inputs of shape"),
        ({"class_names": ["a", "b", "c"]}, "has 2 outputs; the contract names 3 classes"),
    ],
)
def test_what_does_not_fit_is_named(folder, values, problem):
    change(folder, **values)
    [text] = failures(folder, folder)
    assert problem in text


def test_what_is_not_a_contract_is_refused(folder):
    for content, problem in (
        ("{", "is not JSON"),
        ("[]", "is not a contract"),
        ('{"input_shape": 3}', "is not a contract"),
    ):
        (folder / "contract.json").write_text(content)
        with pytest.raises(UserError, match=problem):
            failures(folder, folder)


def test_exit_codes(folder):
    for values, code in (({}, 0), ({"class_names": ["one"]}, 1)):
        change(folder, **values)
        command = [sys.executable, "-m", "ctkeras", "verify", str(folder), str(folder / "contract.json")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
        assert ended.stdout.count("FAILED") == code


def test_a_missing_package_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "ctkeras\[onnx\]"'):
        convert.convert(folder / "model.keras", "onnx", folder)


def test_the_probe_is_of_ten_different_images():
    images = convert.probe(32)
    assert images.shape == (10, 32, 32, 3)
    assert 0 <= images.min() < 30 < 220 < images.max() <= 255
    assert len({image.tobytes() for image in images}) == 10


def test_a_file_with_other_answers_is_not_written(folder, monkeypatch):
    monkeypatch.setattr(convert, "_in_own_process", lambda *_: 0.01)
    with pytest.raises(UserError, match=r"differ by 0.01; nothing was written"):
        convert.convert(folder / "model.keras", "savedmodel", folder / "out")
    assert list((folder / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("kind", convert.FORMATS)
def test_each_format_gives_the_models_answers(kind, folder, tmp_path):
    for name in convert.FORMATS[kind].modules:
        pytest.importorskip(name)
    path, difference = convert.convert(folder / "model.keras", kind, tmp_path / "out")
    assert difference < 1e-4
    assert (tmp_path / "out" / "contract.json").read_text() == (folder / "contract.json").read_text()
    assert np.isfinite(difference) and path.exists()
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted(["contract.json", path.name])
