"""The backbones: the library's own features from any form of the weights, each image normalised once and rightly."""

import hashlib
import time
import warnings

import h5py
import jax
import keras
import numpy as np
import pytest
import timm_reference
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from ctkeras import config
from ctkeras.errors import UserError
from ctkeras.models import backbones, blank, classifier, weights

SIZE = 32  # pixels of a side
APPLICATIONS = {
    "resnet50": ("ResNet50", keras.applications.resnet50.preprocess_input),
    "efficientnet_b0": ("EfficientNetB0", keras.applications.efficientnet.preprocess_input),
    "densenet121": ("DenseNet121", keras.applications.densenet.preprocess_input),
    "mobilenet_v2": ("MobileNetV2", keras.applications.mobilenet_v2.preprocess_input),
    "mobilenet_v3_large": ("MobileNetV3Large", keras.applications.mobilenet_v3.preprocess_input),
}
# As the upstream EfficientNet file has them: its "variance" is the deviation, which the library makes good for
# with one more Rescaling (tensorflow/tensorflow#49930).
UPSTREAM_NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "variance": [0.229, 0.224, 0.225], "count": 0}


def images(size=SIZE, count=3, seed=0):
    """Raw images whose channels differ, so that a change of their order shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.float32)
    return pixels * np.array([0.3, 1.0, 0.6], np.float32)


def from_library(name, **options):
    """keras.applications' model without its top."""
    with blank.initializers(), warnings.catch_warnings(action="ignore"):  # of 32 px
        build = getattr(keras.applications, APPLICATIONS[name][0])
        return build(include_top=False, input_shape=(SIZE, SIZE, 3), **options)


def set_random_weights(network, seed=0):
    """Weights that keep activations in scale, BatchNorm's statistics away from their defaults."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        for weight in layer.weights:
            shape = weight.shape
            if isinstance(layer, keras.layers.Normalization):
                weight.assign(np.broadcast_to(UPSTREAM_NORMALIZATION[weight.name], shape))
            elif weight.name == "kernel":
                inputs = shape[0] * shape[1] * (1 if isinstance(layer, keras.layers.DepthwiseConv2D) else shape[2])
                weight.assign(rng.standard_normal(shape, np.float32) * np.sqrt(2 / inputs).astype(np.float32))
            elif weight.name in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, shape))
            else:
                weight.assign(0.1 * rng.standard_normal(shape))


def save_upstream(network, path):
    """Saves weights in the format of the files that keras.applications downloads."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


def outputs(network, *batches):
    """The network's output in inference mode, averaged over places, for each of some batches: [B, D]."""
    state = [[v.value for v in vs] for vs in (network.trainable_variables, network.non_trainable_variables)]
    program = jax.jit(lambda state, x: network.stateless_call(*state, x, training=False)[0])
    # Unoptimised, it compiles in half the time.
    compiled = program.lower(state, batches[0]).compile({"xla_backend_optimization_level": 0})
    found = [np.asarray(compiled(state, batch)) for batch in batches]
    return [output.mean((1, 2)) if output.ndim == 4 else output for output in found]


def relative_error(got, expected):
    return np.linalg.norm(np.subtract(got, expected)) / np.linalg.norm(expected)


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """Returns a function that puts a file of random weights into a folder and opens it as the library does."""

    def write(name):
        network = from_library(name, weights=None)
        set_random_weights(network)
        path = tmp_path / backbones.BACKBONES[name].upstream_name
        save_upstream(network, path)
        asked = []

        def get_file(fname=None, origin=None, file_hash=None, **_):
            asked.append((fname, origin, file_hash or ""))
            return str(path)

        monkeypatch.setattr(file_utils, "get_file", get_file)
        library = from_library(name, weights="imagenet")
        monkeypatch.undo()
        return path, library, asked

    return write


def test_every_allowed_name_has_a_row():
    assert tuple(backbones.BACKBONES) == config.MODEL_NAMES
    without = [name for name, row in backbones.BACKBONES.items() if not row.source]
    assert tuple(without) == config.FROM_SCRATCH


@pytest.mark.parametrize(("size", "side"), [(32, 2), (64, 4), (100, 7), (129, 9), (224, 14), (511, 32)])
def test_small_cnn_takes_images_of_any_size(size, side):
    network = backbones.build("small_cnn", size)
    assert network.output.shape == (None, side, side, 128)
    assert 200_000 < network.count_params() < 300_000


def test_small_cnn_sees_each_image_between_minus_one_and_one():
    scale, offset = backbones.BACKBONES["small_cnn"].normalisation
    np.testing.assert_allclose([scale * 0 + offset, scale * 255 + offset], [[-1] * 3, [1] * 3])


def test_a_network_without_imagenet_weights_is_not_looked_for(tmp_path):
    for folder in ("", str(tmp_path)):
        with pytest.raises(UserError, match=r"no ImageNet weights for small_cnn.*pretrained false"):
            weights.find_weights("small_cnn", folder)


def check_as_the_library(library, ours, preprocess):
    """Raw images into ours give what preprocessed ones give in the library's model."""
    inputs = (images(), images()[..., ::-1], images() / 255)
    expected, turned, dimmed = outputs(library, *(preprocess(pixels.copy()) for pixels in inputs))
    (got,) = outputs(ours, images())
    error = relative_error(got, expected)
    print(f"{error:.1e}")
    assert error < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.01  # images are told apart
    for wrong in (turned, dimmed):
        assert relative_error(wrong, expected) > 1e-2  # the comparison can tell


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "mobilenet_v2")) for name in APPLICATIONS],
)
def test_each_form_of_the_weights_is_normalised_for_once_and_as_the_library_does(name, upstream):
    row, preprocess = backbones.BACKBONES[name], APPLICATIONS[name][1]
    path, library, asked = upstream(name)
    assert asked == [(row.upstream_name, row.source, row.md5)]  # what the library itself would download
    assert weights.find_weights(name, str(path.parent)) == path
    built = classifier.build(name, SIZE, classes=2, weights=path).model
    first = next(layer.name for layer in library.layers if isinstance(layer, keras.layers.Conv2D))
    stems = (keras.Model(network.input, network.get_layer(first).output) for network in (library, built))
    check_as_the_library(*stems, preprocess)
    # Behind its first convolution, all is as in the library's model.
    known = {weight.path: np.asarray(weight.value) for weight in library.weights}
    backbone = built.weights[:-5]  # without the head, its statistics and the dropout rate
    assert [weight.path for weight in backbone] == [path for path in known if not path.startswith("normalization")]
    for weight in backbone:
        if not (row.first_conv_bgr and weight.path == f"{first}/kernel"):
            np.testing.assert_array_equal(weight.value, known[weight.path])
    # The library's model saved by its user, preprocessing layers and all, is preferred and gives the same weights.
    saved = path.parent / f"{name}.weights.h5"
    library.save_weights(saved)
    assert weights.find_weights(name, str(path.parent)) == saved
    again = backbones.build(name, SIZE, weights=saved)
    for one, other in zip(backbone, again.weights, strict=True):
        np.testing.assert_array_equal(one.value, other.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_features_of_raw_images_are_the_librarys_of_preprocessed_ones(name, upstream):
    path, library, _ = upstream(name)
    built = classifier.build(name, SIZE, classes=2, weights=path)
    check_as_the_library(
        library, keras.Model(built.model.input, built.model.get_layer("pool").output), APPLICATIONS[name][1]
    )


def test_real_weights_give_the_librarys_features(real_weights):
    path = weights.find_weights("mobilenet_v2", real_weights)
    library = from_library("mobilenet_v2", weights=None)
    library.load_weights(path)
    built = classifier.build("mobilenet_v2", SIZE, classes=2, weights=path)
    (got,) = outputs(keras.Model(built.model.input, built.model.get_layer("pool").output), images())
    (expected,) = outputs(library, APPLICATIONS["mobilenet_v2"][1](images().copy()))
    assert relative_error(got, expected) < 1e-4


@pytest.mark.integration
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_timm_weights_give_pytorchs_features(name, tmp_path):
    folder = tmp_path / f"{name}.a1_in1k"
    timm_reference.write_timm_checkpoint(folder, model_name=name, seed=1)
    expected = timm_reference.reference_features(folder, images(64))
    assert weights.find_weights(name, str(tmp_path)) == folder
    built = classifier.build(name, 64, classes=2, weights=folder)
    (got,) = outputs(keras.Model(built.model.input, built.model.get_layer("pool").output), images(64))
    error = relative_error(got, expected)
    print(f"{name}: {error:.1e}")
    assert error < 1e-4
    assert relative_error(timm_reference.reference_features(folder, images(64)[..., ::-1].copy()), expected) > 1e-2


def test_timm_weights_saved_by_keras_are_the_same(tmp_path):
    folder = tmp_path / "resnet18.a1_in1k"
    timm_reference.write_timm_checkpoint(folder, model_name="resnet18", seed=1)
    ported = backbones.build("resnet18", SIZE, weights=folder)
    kernels = [np.array(layer.kernel) for layer in ported.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(kernels) == 20  # 17 convolutions and 3 of the shortcuts
    assert all(kernel.std() > 0 for kernel in kernels)
    ported.save_weights(tmp_path / "resnet18.weights.h5")
    found = weights.find_weights("resnet18", str(tmp_path))
    assert found.name == "resnet18.weights.h5"
    again = backbones.build("resnet18", SIZE, weights=found)
    for one, other in zip(ported.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.value, other.value)


def check_refused(name, path):
    with pytest.raises(UserError) as caught:
        backbones.build(name, SIZE, weights=path)
    message = str(caught.value)
    assert str(path) in message
    assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["text", "truncated", "other model", "other upstream file", "with its top"])
def test_a_wrong_file_is_refused_by_name(kind, tmp_path):
    path = tmp_path / ("mobilenet_v2.weights.h5" if kind in ("text", "other model") else "mobilenet_v2_no_top.h5")
    if kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "other model":
        from_library("mobilenet_v3_large", weights=None).save_weights(path)
    elif kind == "with its top":
        with blank.initializers():
            whole = keras.applications.MobileNetV2(weights=None, input_shape=(SIZE, SIZE, 3), classes=10)
        save_upstream(whole, path)
    else:
        save_upstream(from_library("mobilenet_v3_large", weights=None), path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:100_000])
    check_refused("mobilenet_v2", path)


@pytest.mark.parametrize("kind", ["other model", "truncated", "no configuration"])
def test_a_wrong_timm_folder_is_refused_by_name(kind, tmp_path):
    folder = tmp_path / "resnet18.a1_in1k"
    other = {"other model": "resnet34"}.get(kind, "resnet18")
    timm_reference.write_timm_checkpoint(folder, model_name=other, seed=0)
    if kind == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100_000])
    elif kind == "no configuration":
        (folder / "config.json").write_text("{}")
    check_refused("resnet18", folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_timm_folder_is_refused_before_it_is_opened(missing, tmp_path):
    folder = tmp_path / "resnet18.a1_in1k"
    timm_reference.write_timm_checkpoint(folder, model_name="resnet18", seed=0)
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        weights.find_weights("resnet18", str(tmp_path))


def test_a_weights_dir_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        weights.find_weights("resnet18", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("with_folder", [True, False])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_without_a_network_the_file_to_get_is_named_at_once(name, with_folder, tmp_path, monkeypatch):
    nobody = "http://127.0.0.1:9"  # the discard port: nothing listens
    row = backbones.BACKBONES[name]
    if not row.source.startswith("hf://"):
        moved = backbones.dataclasses.replace(row, source=f"{nobody}/{row.upstream_name}")
        monkeypatch.setitem(backbones.BACKBONES, name, moved)
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        weights.find_weights(name, str(tmp_path) if with_folder else "")
    assert time.perf_counter() - start < 30
    for part in (f"{name}.weights.h5", row.upstream_name, str(tmp_path) if with_folder else "--weights_dir"):
        assert part in str(caught.value)


def test_an_earlier_download_is_found_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_reach", lambda _: pytest.fail("the network was asked"))
    row = backbones.BACKBONES["mobilenet_v2"]
    kept = tmp_path / "models" / row.upstream_name
    kept.parent.mkdir()
    kept.write_bytes(b"kept")
    monkeypatch.setattr(keras.utils, "get_file", lambda name, *_, cache_subdir, **__: tmp_path / cache_subdir / name)
    assert weights.find_weights("mobilenet_v2", "") == kept


def test_without_weights_everything_is_zero():
    assert not any(np.asarray(weight.value).any() for weight in backbones.build("mobilenet_v2", SIZE).weights)


def test_the_fingerprint_tells_weights_apart():
    variables = [keras.Variable(np.arange(6.0)), keras.Variable(np.ones(3))]
    known = weights.fingerprint(variables)
    assert weights.fingerprint([keras.Variable(v.value) for v in variables]) == known
    assert weights.fingerprint(variables[::-1]) != known
    variables[1].assign([1, 1, 1 + 1e-6])
    assert weights.fingerprint(variables) != known


@pytest.mark.parametrize("name", APPLICATIONS)
def test_each_row_normalises_as_its_library_preprocesses(name):
    row, pixels = backbones.BACKBONES[name], images()
    scale, offset = row.normalisation
    expected = APPLICATIONS[name][1](pixels.copy())
    if name.startswith("efficientnet"):  # it does so inside the model
        expected = (pixels / 255 - UPSTREAM_NORMALIZATION["mean"]) / UPSTREAM_NORMALIZATION["variance"]
    if name.startswith("mobilenet_v3"):  # as does its Rescaling layer
        expected = pixels / 127.5 - 1
    if row.first_conv_bgr:
        expected = expected[..., ::-1]
    np.testing.assert_allclose(pixels * scale + offset, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_timms_networks_are_normalised_as_imagenet_is(name):
    scale, offset = backbones.BACKBONES[name].normalisation
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(images() * scale + offset, (images() / 255 - mean) / deviation, atol=1e-4)
    assert backbones.BACKBONES[name].upstream_name == f"{name}.a1_in1k"


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("resnet34", 36)])
def test_timms_networks_have_their_depth_and_width(name, count):
    network = backbones.build(name, SIZE)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == count  # those of torchvision, with the three of the shortcuts
    assert network.output.shape == (None, 1, 1, 512)


def test_downloaded_weights_are_compared_with_their_checksum(tmp_path):
    content = b"weights"
    blob = tmp_path / hashlib.sha256(content).hexdigest()
    (tmp_path / "model.safetensors").symlink_to(blob)
    for found, intact in ((content, True), (b"weightz", False)):
        blob.write_bytes(found)
        assert weights._is_intact(tmp_path / "model.safetensors") is intact
    (tmp_path / "config.json").write_text("{}")
    assert weights._is_intact(tmp_path / "config.json")
