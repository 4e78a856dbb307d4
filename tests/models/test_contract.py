"""How images are prepared: stated by contract.json, followed by every way to an answer."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from ctkeras import app
from ctkeras.cli import main
from ctkeras.data import crop, decoded, images, phantom, sources
from ctkeras.data.crop import Preparation
from ctkeras.evaluation import gradcam
from ctkeras.models import contract, predict

SIZE, NAMES = 32, ("adenocarcinoma", "normal")
CHOICES = [Preparation(c, f, g) for c in crop.CROPS for f in crop.FITS for g in crop.GRAYS]


def network():
    """Answers that differ where a few pixels do."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, keras.layers.Softmax()(x))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    network().save(path)
    return path


@pytest.fixture
def folder(tmp_path, model_file):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.keras").write_bytes(model_file.read_bytes())
    return tmp_path / "run"


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_every_way_to_an_answer_sees_the_same_pixels(folder, tmp_path, choice):
    contract.write(folder, model_name="tiny", size=SIZE, class_names=NAMES, preparation=choice)
    root = tmp_path / "set"
    for split in ("train", "valid", "test"):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            gray = np.pad(phantom.phantom_slice(label, label, size=90 + 40 * label), ((3, 20), (11, 60 * label)))
            Image.fromarray(gray).save(root / split / name / "1.png")
    model, names, preparation = predict.open_model(folder)
    assert (names, preparation) == (list(NAMES), choice)
    split = decoded.load_split(sources.open_source(str(root)), "valid", SIZE, choice)
    trained_on = images.as_rgb(np.asarray(split.images))
    expected = model.predict_on_batch(trained_on.astype(np.float32))
    files = [root / name for name in split.files]
    for file, pixels, answer in zip(files, trained_on, expected, strict=True):
        np.testing.assert_array_equal(images.read_rgb(file, SIZE, choice), pixels)
        ((_, row, _),) = predict.predict(model, [file], preparation=preparation)
        np.testing.assert_allclose(row, answer, atol=1e-6)
        ((_, explained, _),) = gradcam.explain_files(model, [file], preparation=preparation)
        np.testing.assert_allclose(explained.probabilities, answer, atol=1e-6)
        by_name, _, _ = app.Answer(model, names, preparation)(file.read_bytes(), name="1.png")
        np.testing.assert_allclose(list(by_name.values()), answer, atol=1e-6)
        loaded = predict.load(folder)
        np.testing.assert_allclose(loaded.predict(file).probabilities[0], answer, atol=1e-6)
        gray = np.asarray(Image.open(file))[None]
        np.testing.assert_allclose(loaded.predict(gray).probabilities[0], answer, atol=1e-6)


def test_a_contract_without_preparation_means_the_whole_image(folder):
    (folder / "contract.json").write_text(json.dumps({"class_names": NAMES, "input_resize": "antialiased bilinear"}))
    assert predict.open_model(folder).preparation == Preparation("none", "stretch", "as_is")


@pytest.mark.parametrize("change", [{"crop": "lungs"}, {"version": "99"}, {"gray": None}])
def test_an_unknown_preparation_is_refused_in_one_line(folder, tmp_path, capfd, change):
    contract.write(folder, model_name="tiny", size=SIZE, class_names=NAMES, preparation=Preparation())
    stated = json.loads((folder / "contract.json").read_text())
    stated["preparation"] |= change
    (folder / "contract.json").write_text(json.dumps(stated))
    Image.fromarray(phantom.phantom_slice(0, 0)).save(tmp_path / "1.png")
    with pytest.raises(SystemExit) as end:
        main.main(["predict", str(folder / "model.keras"), str(tmp_path / "1.png")])
    out, err = capfd.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert "does not know" in err


def test_the_scale_of_deep_images_is_stated_and_followed(tmp_path):
    from PIL import Image

    from ctkeras.data import images
    from ctkeras.data.crop import Preparation

    form = Preparation(crop="none", span="0/4095")
    contract.write(tmp_path, model_name="small_cnn", size=32, class_names=["a", "b"], preparation=form)
    read = contract.preparation(tmp_path / "contract.json")
    assert read == form
    file = tmp_path / "dark.png"  # alone it looks like an image of 8 bits
    Image.fromarray(np.full((32, 32), 200, np.uint16)).save(file)
    assert set(images.read_rgb(file, 32, read).ravel()) == {12}
