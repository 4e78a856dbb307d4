"""The exported file: the trained model's probabilities, from core Keras alone, on any backend; and prediction from it."""

import doctest
import json
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import jax
import keras
import numpy as np
import pytest
from PIL import Image
from scipy import special

from ctkeras.cpu import layers
from ctkeras.data import crop, images
from ctkeras.errors import UserError
from ctkeras.models import backbones, classifier, contract, export, join, predict

SIZE, CLASS_NAMES = 32, ("adeno", "large", "normal")
NETWORKS = ("resnet18", "mobilenet_v2", "small_cnn", pytest.param("efficientnet_b0", marks=pytest.mark.slow))
OTHERS = ("resnet34", "resnet50", "densenet121", "mobilenet_v3_large")
BFLOAT16 = ("resnet18", "bfloat16")
# Random weights under which features neither vanish nor explode; found by trying.
SCALES = {"efficientnet_b0": 1.3, "mobilenet_v3_large": 1.1}

# Runs with Keras alone: whatever else the file asked for would not be found.
RELOAD = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ctkeras", "keras_hub", "keras_cv"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import keras

inputs, files = np.load(sys.argv[1]), sys.argv[3:]
answers = []
for file in files:
    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    answers.append([np.asarray(model.predict_on_batch(pixels)) for pixels in (inputs.astype(np.float32), inputs)])
np.save(sys.argv[2], np.array(answers))
print(keras.backend.backend())
"""


def raw_images(count=4):
    """Images of different brightness, so that answers differ; uint8."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 1))
    return (pixels * np.linspace(0.2, 1, count)[:, None, None, None]).astype(np.uint8).repeat(3, axis=-1)


def make_trained(name, precision="float32"):
    """A classifier as training leaves it: statistics and scales away from their start, dropout on."""
    built = classifier.build(name, SIZE, classes=len(CLASS_NAMES), precision=precision)
    classifier.initialise(built, seed=0, dropout=0.3)
    rng = np.random.default_rng(1)
    for layer in built.model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                factor = SCALES.get(name, 1) if weight.name == "gamma" else 1
                weight.assign(factor * np.array(weight.value) + rng.uniform(-0.2, 0.2, weight.shape))
    return built.model


def outputs_of(network, pixels):
    """The network's outputs in inference mode, float64."""
    state = [[v.value for v in vs] for vs in (network.trainable_variables, network.non_trainable_variables)]
    program = jax.jit(lambda state, x: network.stateless_call(*state, x, training=False)[0])
    # Unoptimised, it compiles in half the time.
    compiled = program.lower(state, pixels).compile({"xla_backend_optimization_level": 0})
    return np.asarray(compiled(state, pixels), np.float64)


def write(trained, folder, name="tiny", *, preparation=crop.WHOLE, temperature=None):
    return export.export(
        trained,
        folder,
        class_names=CLASS_NAMES,
        model_name=name,
        preparation=preparation,
        temperature=temperature,
        kind=layers.core,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns a function giving (path of model.keras, expected probabilities of raw_images), each made once."""
    made = {}

    def of(name, precision="float32"):
        if (name, precision) not in made:
            exact = make_trained(name)
            logits = outputs_of(exact, raw_images().astype(np.float32))
            scale, mean = 1 / np.ptp(logits, axis=0).max(), logits.mean(0)
            # What computes in bfloat16 is exported as what computes in float32 with the same weights.
            trained = exact if precision == "float32" else make_trained(name, precision)
            head = trained.get_layer("logits")
            assert not np.any(head.bias)
            head.kernel.assign(np.array(head.kernel) * scale)  # images are told apart by odds of up to e
            head.bias.assign(-mean * scale)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(export, "is_proved", lambda _: True)  # the tests below are the proof
                path = write(trained, tmp_path_factory.mktemp(name), name)
            made[name, precision] = path, special.softmax((logits - mean) * scale, axis=-1)
        return made[name, precision]

    return of


def tiny(image_size):
    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, name="conv")(image)
    return keras.Model(image, keras.layers.DepthwiseConv2D(3, name="depthwise")(x))


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """A small trained model, and a cache in which nothing is proved."""
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, backbones._TORCH, "hf://none/tiny"))
    return make_trained("tiny")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def check_answers(network, expected):
    error = np.abs(outputs_of(network, raw_images().astype(np.float32)) - expected).max()
    print(f"{network.name}: {error:.1e}")
    assert error < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.1  # images are told apart


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_the_trained_models_probabilities(name, exported):
    path, expected = exported(name)
    opened, names, _ = predict.open_model(path)
    assert tuple(names) == CLASS_NAMES
    check_answers(opened, expected)


def test_what_was_trained_in_bfloat16_is_exported_in_float32(exported):
    path, expected = exported(*BFLOAT16)
    opened, _, _ = predict.open_model(path)
    assert {layer.compute_dtype for layer in opened.layers} == {"float32"}
    check_core(path)
    check_answers(opened, expected)


def classes_in(node):
    """(module, class, registered name) of everything a file's configuration would make."""
    if isinstance(node, dict):
        if "class_name" in node:
            yield node.get("module"), node["class_name"], node.get("registered_name")
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from classes_in(part)


def check_core(path):
    with zipfile.ZipFile(path) as file:
        configuration = json.loads(file.read("config.json"))
    found = set(classes_in(configuration))
    assert {"Functional", "Dropout", "Dense", "Softmax", "Rescaling"} <= {name for _, name, _ in found}
    for module, name, registered in found:
        if module is None:  # Keras' own marks of a tensor or a tuple
            assert name in ("__keras_tensor__", "__tuple__"), name
        else:
            assert module.split(".")[0] in ("keras", "builtins"), (module, name)
        assert registered is None or registered == name, registered  # nothing of a package of its own
    assert sum(name == "Functional" for _, name, _ in found) == 1
    for word in ("ctkeras", "keras_hub", "TracedDropout", "ShiftedDepthwise", "PointwiseDot", "bfloat16"):
        assert word not in json.dumps(configuration)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_names_only_core_keras_layers(name, exported):
    check_core(exported(name)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_is_exported_as_well(name, exported):
    path, expected = exported(name)
    check_core(path)
    check_answers(predict.open_model(path)[0], expected)


def reload_elsewhere(backend, folder, cases):
    """Loads files in another process that has Keras alone, and compares its answers."""
    inputs, answers = folder / "inputs.npy", folder / "answers.npy"
    np.save(inputs, raw_images())
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    environment |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    files = [str(path) for path, _ in cases]
    command = [sys.executable, "-c", RELOAD, str(inputs), str(answers), *files]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == backend
    for (path, expected), (as_float, as_integers) in zip(cases, np.load(answers), strict=True):
        print(f"{backend} {path.parent.name}: {np.abs(as_float - expected).max():.1e}")
        assert np.abs(as_float - expected).max() < 1e-4
        assert np.abs(as_integers - expected).max() < 1e-4


def test_keras_alone_opens_the_file(exported, tmp_path):
    reload_elsewhere("jax", tmp_path, [exported("resnet18")])


@pytest.mark.integration
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_keras_alone_opens_the_file_on_any_backend(backend, exported, tmp_path):
    pytest.importorskip(backend)
    names = ("resnet18", "mobilenet_v2", "efficientnet_b0", "mobilenet_v3_large")
    reload_elsewhere(backend, tmp_path, [*(exported(name) for name in names), exported(*BFLOAT16)])


def test_the_contract_says_what_goes_in_and_what_comes_out(trained, folder):
    path = write(trained, folder)
    assert path == folder / "model.keras"
    contract = json.loads((folder / "contract.json").read_text())
    opened = keras.saving.load_model(path, compile=False)
    assert contract["input_shape"] == list(opened.input.shape[1:]) == [SIZE, SIZE, 3]
    assert contract["input_dtype"] == opened.input.dtype == "float32"
    assert contract["input_range"] == [0, 255]
    assert contract["class_names"] == list(CLASS_NAMES)
    assert len(CLASS_NAMES) == opened.output.shape[-1]
    assert contract["model_name"] == "tiny"
    assert contract["intended_use"].startswith("Research")
    assert "Not a medical device" in contract["intended_use"]
    assert {"input_colour", "preparation", "output"} <= contract.keys()
    assert sorted(file.name for file in folder.iterdir()) == ["contract.json", "model.keras"]
    np.testing.assert_allclose(opened.predict_on_batch(raw_images()).sum(-1), 1, atol=1e-6)


def test_integers_are_taken_as_floats_are(trained, folder):
    opened, _, _ = predict.open_model(write(trained, folder))
    expected = opened.predict_on_batch(raw_images().astype(np.float32))
    np.testing.assert_allclose(opened.predict_on_batch(raw_images()), expected, atol=1e-6)
    np.testing.assert_allclose(opened(raw_images()), expected, atol=1e-6)


def test_the_exported_dropout_is_keras_own_with_the_trained_rate(trained, folder):
    opened, _, _ = predict.open_model(write(trained, folder))
    dropout = opened.get_layer("dropout")
    assert type(dropout) is keras.layers.Dropout
    assert dropout.rate == pytest.approx(0.3)


def test_exporting_changes_nothing_in_the_trained_model(trained, folder):
    before = [np.array(variable.value) for variable in trained.variables]
    write(trained, folder)
    for variable, value in zip(trained.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)


def reloading(monkeypatch, change):
    """Makes keras.saving.load_model return a changed model; returns the number of answers that were computed."""
    load, answers, calls = keras.saving.load_model, export._answers, []

    def changed(*args, **options):
        loaded = load(*args, **options)
        change(loaded)
        return loaded

    def counted(network, batch):
        calls.append(network)
        return answers(network, batch)

    monkeypatch.setattr(keras.saving, "load_model", changed)
    monkeypatch.setattr(export, "_answers", counted)
    return calls


def test_a_file_that_reloads_as_it_was_saved_answers_once(trained, folder, monkeypatch):
    calls = reloading(monkeypatch, lambda loaded: None)
    write(trained, folder)
    assert len(calls) == 1
    assert export.is_proved(trained)


def test_a_file_that_reloads_as_another_graph_is_not_left_behind(trained, folder, monkeypatch):
    calls = reloading(monkeypatch, lambda loaded: setattr(loaded.get_layer("logits"), "activation", keras.ops.tanh))
    with pytest.raises(RuntimeError, match="nothing was exported"):
        write(trained, folder)
    assert len(calls) == 2
    assert not list(folder.iterdir())
    assert not export.is_proved(trained)


def test_a_file_that_only_states_other_settings_is_kept(trained, folder, monkeypatch):
    calls = reloading(monkeypatch, lambda loaded: setattr(loaded.get_layer("dropout"), "rate", 0.9))
    write(trained, folder)
    assert len(calls) == 2  # the settings differ, and the answers do not
    assert export.is_proved(trained)


@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_a_file_whose_answers_are_not_probabilities_is_not_left_behind(trained, folder, wrong, monkeypatch):
    answers = export._answers
    monkeypatch.setattr(export, "_answers", lambda network, batch: answers(network, batch) + wrong)
    with pytest.raises(RuntimeError, match="nothing was exported"):
        write(trained, folder)
    assert not list(folder.iterdir())
    assert not export.is_proved(trained)


def test_a_failing_proof_keeps_the_file_from_before(trained, folder, monkeypatch):
    before = write(trained, folder).read_bytes()
    perturb(trained)
    load = keras.saving.load_model

    def forgetful(*args, **options):
        loaded = load(*args, **options)
        loaded.get_layer("logits").bias.assign(np.ones(len(CLASS_NAMES)))
        return loaded

    monkeypatch.setattr(keras.saving, "load_model", forgetful)
    with pytest.raises(RuntimeError, match="different weights"):
        write(trained, folder)
    assert (folder / "model.keras").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["contract.json", "model.keras"]


def perturb(trained):
    kernel = trained.get_layer("logits").kernel
    kernel.assign(np.array(kernel.value) + 0.1)


def test_a_graph_is_proved_once_and_each_files_weights_always(trained, folder, monkeypatch):
    assert not export.is_proved(trained)
    write(trained, folder)
    assert export.is_proved(trained)
    perturb(trained)
    monkeypatch.setattr(export, "_answers", lambda *_: pytest.fail("computed again"))
    path = write(trained, folder)
    monkeypatch.undo()
    opened = keras.saving.load_model(path, compile=False)
    expected = special.softmax(outputs_of(trained, raw_images().astype(np.float32)), axis=-1)
    assert np.abs(opened.predict_on_batch(raw_images()) - expected).max() < 1e-4


def test_another_graph_is_proved_anew(trained, folder):
    write(trained, folder)
    assert export.is_proved(trained)
    assert not export.is_proved(classifier.build("tiny", SIZE, classes=2).model)
    assert not export.is_proved(classifier.build("tiny", 64, classes=len(CLASS_NAMES)).model)


def write_files(folder, count):
    """PNGs of other sizes than the model's, and an unreadable one in the middle; what each should be read as."""
    rng, files, pixels = np.random.default_rng(0), [], []
    for i in range(count):
        file = folder / f"{i}.png"
        gray = rng.integers(0, 60 + 40 * i, (40, 50), dtype=np.uint8)
        Image.fromarray(gray).save(file)
        files.append(file)
        pixels.append(images.as_rgb(crop.prepare(gray, SIZE, crop.WHOLE)))
    return files, np.stack(pixels)


@pytest.mark.parametrize("batch_size", [2, 3, 32])
def test_predict_keeps_the_order_pads_the_last_batch_and_names_what_it_cannot_read(
    trained, folder, tmp_path, batch_size, monkeypatch
):
    opened, _, _ = predict.open_model(write(trained, folder))
    files, pixels = write_files(tmp_path, 5)
    expected = opened.predict_on_batch(pixels.astype(np.float32))
    assert len(np.unique(expected.round(4), axis=0)) == 5  # no two files have the same answer
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    gone = tmp_path / "gone.png"
    given = [files[3], broken, files[0], files[4], gone, files[1], files[2]]
    shapes, answers = [], predict._probabilities
    monkeypatch.setattr(predict, "_probabilities", lambda m, batch: shapes.append(batch.shape) or answers(m, batch))
    rows = list(predict.predict(opened, given, batch_size=batch_size, preparation=crop.WHOLE))
    assert [row[0] for row in rows] == given
    for (file, answer, reason), index in zip(rows, (3, None, 0, 4, None, 1, 2), strict=True):
        if index is None:
            assert answer is None
            assert str(file) in reason
        else:
            assert reason == ""
            np.testing.assert_allclose(answer, expected[index], atol=1e-5)
    size = min(batch_size, len(given))
    assert shapes == [(size, SIZE, SIZE, 3)] * -(-len(given) // size)


def test_image_files_finds_images_in_order_and_refuses_what_is_not_there(tmp_path):
    files, _ = write_files(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "UPPER.JPG").write_bytes(b"")
    assert predict.image_files([files[2], tmp_path]) == [files[2], *files, tmp_path / "more" / "UPPER.JPG"]
    with pytest.raises(UserError, match="nowhere"):
        predict.image_files([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        predict.image_files([tmp_path / "empty"])


@pytest.mark.parametrize("contract", [None, "{", '{"class_names": ["a", "b"]}', '{"class_names": 3}', "[]"])
def test_without_a_fitting_contract_classes_are_numbered(trained, folder, contract):
    path = write(trained, folder)
    (folder / "contract.json").unlink()
    if contract is not None:
        (folder / "contract.json").write_text(contract)
    assert predict.open_model(folder)[1] == ["class_0", "class_1", "class_2"]
    assert predict.open_model(path)[0].output.shape == (None, 3)


def test_a_file_with_code_in_it_is_not_opened(folder):
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Lambda(lambda y: y * 2)(image))
    keras.Model(image, x).save(folder / "model.keras")
    with pytest.raises(UserError, match=r"model\.keras"):
        predict.open_model(folder)


def test_check_contract_refuses_what_does_not_fit(trained, folder):
    write(trained, folder)
    predict.check_contract(folder)
    contract = json.loads((folder / "contract.json").read_text())
    for change in ({"input_shape": [64, 64, 3]}, {"class_names": ["a", "b"]}):
        (folder / "contract.json").write_text(json.dumps(contract | change))
        with pytest.raises(UserError, match="contract"):
            predict.check_contract(folder)
    (folder / "contract.json").unlink()
    with pytest.raises(UserError, match=r"contract\.json"):
        predict.check_contract(folder)


@pytest.fixture
def loaded(trained, folder):
    write(trained, folder)
    return predict.load(folder)


def test_load_opens_a_run_folder_or_its_file_with_the_contract(loaded, folder):
    assert loaded.class_names == list(CLASS_NAMES)
    assert loaded.contract == json.loads((folder / "contract.json").read_text())
    again = predict.load(str(folder / "model.keras"))
    assert (again.class_names, again.contract) == (loaded.class_names, loaded.contract)
    with pytest.raises(UserError, match="nowhere does not exist"):
        predict.load(folder / "nowhere")
    (folder / "contract.json").unlink()
    without = predict.load(folder)
    assert (without.class_names, without.contract) == (["class_0", "class_1", "class_2"], {})


def test_a_table_of_files_is_what_predict_gives(loaded, tmp_path):
    files, _ = write_files(tmp_path, 3)
    expected = np.stack([row for _, row, _ in predict.predict(loaded.model, files, preparation=crop.WHOLE)])
    for inputs in (tmp_path, str(tmp_path), files, [str(file) for file in files]):
        table = loaded.predict(inputs)
        assert table.images == [str(file) for file in files]
        np.testing.assert_allclose(table.probabilities, expected, atol=1e-6)
    assert loaded(files[1]).images == [str(files[1])]
    assert len(table) == 3
    np.testing.assert_array_equal(table["large"], table.probabilities[:, 1])
    assert table.predicted == [CLASS_NAMES[label] for label in expected.argmax(-1)]
    rows = table.rows()
    assert [list(row) for row in rows] == [["image", "predicted", *CLASS_NAMES]] * 3
    assert rows[2]["adeno"] == pytest.approx(float(expected[2, 0]))
    with pytest.raises(KeyError, match="adeno, large, normal"):
        table["small"]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_arrays_are_prepared_as_files_are(loaded, tmp_path, batch_size):
    files, _ = write_files(tmp_path, 3)
    gray = np.stack([np.asarray(Image.open(file)) for file in files])
    expected = loaded.predict(files).probabilities
    for pixels in (gray, gray.astype(np.float32), gray.astype(np.int64), gray[..., None].repeat(3, -1)):
        table = loaded.predict(pixels, batch_size=batch_size)
        np.testing.assert_allclose(table.probabilities, expected, atol=1e-6)
    assert table.images == ["0", "1", "2"]
    colours = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    Image.fromarray(colours[0]).save(tmp_path / "colours.png")
    as_file = loaded.predict(tmp_path / "colours.png").probabilities
    np.testing.assert_allclose(loaded.predict(colours).probabilities, as_file, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((8, 9), np.uint8), r"\[B, H, W\]"),
        (np.zeros((8, 9, 3), np.uint8), r"image\[None\]"),
        (np.zeros((2, 8, 9, 4), np.uint8), r"\[2, 8, 9, 4\]"),
        (np.zeros((0, 8, 9), np.uint8), r"\[0, 8, 9\]"),
        (np.full((1, 8, 9), -1.0), "got -1 to -1"),
        (np.full((1, 8, 9), 255.5), "got 255.5"),
        (np.full((1, 8, 9), np.nan), "nan"),
        (np.full((1, 8, 9), 1.0), "multiply by 255"),
    ],
)
def test_arrays_that_are_not_of_images_are_refused(pixels, reason):
    with pytest.raises(UserError, match=reason):
        predict._gray(pixels)


def test_arrays_at_the_ends_of_the_range_are_taken():
    for value in (0, 255):
        assert (predict._gray(np.full((1, 8, 9), value, np.float32)) == value).all()
    assert (predict._gray(np.full((1, 8, 9), 1, np.int32)) == 1).all()
    assert (predict._gray(np.full((1, 8, 9), 1.5)) == 2).all()  # rounded, not cut off


def test_a_file_that_cannot_be_read_is_an_error(loaded, tmp_path):
    files, _ = write_files(tmp_path, 2)
    files[1].write_bytes(files[1].read_bytes()[:60])
    with pytest.raises(UserError, match=r"1\.png"):
        loaded.predict(files)


def test_outputs_that_are_not_probabilities_are_refused(trained):
    with pytest.raises(UserError, match="lacks a softmax"):
        predict._probabilities(trained, np.full((1, SIZE, SIZE, 3), 9, np.float32))


def test_a_folders_images_are_found_whatever_their_case_and_format(tmp_path):
    for name in ("a.png", "b.JPEG", "c.tiff", "d.bmp", "e.webp", "f.txt", "g.dcm", "1.2.840"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    expected = ["IM0001", "a.png", "b.JPEG", "c.tiff", "d.bmp", "e.webp", "g.dcm"]
    assert [file.name for file in predict.image_files([tmp_path])] == expected
    assert predict.image_files([tmp_path / "f.txt"]) == [tmp_path / "f.txt"]  # a file named is tried


def test_the_example_of_load_runs_as_written(trained, tmp_path, monkeypatch):
    (tmp_path / "runs/example").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    write(trained, tmp_path / "runs/example")
    write_files(tmp_path / "images", 2)
    monkeypatch.chdir(tmp_path)
    (test,) = doctest.DocTestFinder().find(predict.load, "load", globs={"ctkeras": SimpleNamespace(load=predict.load)})
    assert len(test.examples) == 3
    assert doctest.DocTestRunner().run(test).failed == 0


def test_a_graph_proved_by_other_versions_is_proved_anew(trained, folder, monkeypatch):
    write(trained, folder)
    monkeypatch.setattr(export, "version", lambda package: "0.0.1")
    assert not export.is_proved(trained)


@pytest.mark.parametrize("members", [1, 3])
def test_the_temperature_is_inside_the_model_and_in_its_contract(members, trained, folder):
    """Of several members each is tempered, and then the mean is taken; nobody who opens the file needs to know."""
    if members > 1:
        dense = trained.layers[-1]
        rng = np.random.default_rng(0)
        values = [{weight.path: rng.standard_normal(weight.shape) for weight in dense.weights} for _ in range(members)]
        trained = join.joined(trained, {layer.name for layer in trained.layers[:-1]}, values)
    pixels = raw_images().astype(np.float32)
    logits = outputs_of(trained, pixels).reshape(len(pixels), members, -1)
    path = write(trained, folder, temperature=2.5)
    opened = keras.saving.load_model(path, compile=False)
    expected = special.softmax(logits / 2.5, axis=-1).mean(1)
    np.testing.assert_allclose(opened.predict_on_batch(pixels), expected, atol=1e-5)
    assert np.abs(special.softmax(logits, axis=-1).mean(1) - expected).max() > 1e-3
    assert contract.temperature(folder / "contract.json") == 2.5
    assert export.is_joined(opened) == (members > 1)
    write(trained, folder)
    assert contract.temperature(folder / "contract.json") is None
    plain = keras.saving.load_model(path, compile=False).predict_on_batch(pixels)
    np.testing.assert_allclose(plain, special.softmax(logits, axis=-1).mean(1), atol=1e-5)
