"""Grad-CAM: CAM under a pooled linear head, gradients as finite differences give them, heat where the evidence is."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from ctkeras.cli import main
from ctkeras.config import MODEL_NAMES
from ctkeras.cpu.layers import core
from ctkeras.data import crop, images, phantom
from ctkeras.errors import UserError
from ctkeras.evaluation import gradcam, heatmap
from ctkeras.models import classifier, export, head, predict

SIZE, NAMES = 32, ("adeno", "large", "normal")


def pixels(count=5):
    """Noise of different brightness, so that answers differ."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (count, SIZE, SIZE, 3)) * rng.random((count, 1, 1, 1))).astype(np.uint8)


def tiny(*head, scale=1.0):
    """A small network with random weights and the head given, all but the pooling; the last layer's weights times scale."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    for filters in (6, 8):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    for layer in head:
        x = layer(x)
    network = keras.Model(image, x)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        if weight.dtype == "float32" and weight.name in ("kernel", "beta", "moving_mean"):
            weight.assign(rng.standard_normal(weight.shape) * (0.4 if weight.name == "kernel" else 0.1))
    last = next(layer for layer in reversed(network.layers) if layer.weights)
    last.kernel.assign(scale * np.array(last.kernel))
    return network


def linear_head():
    return keras.layers.Dropout(0.5), keras.layers.Dense(3), keras.layers.Softmax()


def features_of(network):
    """What comes before the last pooling (squeeze-and-excitation pools too), as a function of arrays."""
    pool = [layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)][-1]
    body = keras.Model(network.input, pool.input)
    return lambda batch: np.asarray(body.predict_on_batch(batch.astype(np.float32)), np.float64)


def reopened(network, folder):
    """The network as its file gives it."""
    network.save(folder / "model.keras")
    (folder / "contract.json").write_text(json.dumps({"class_names": NAMES}))
    return predict.open_model(folder)[0]


def test_under_a_pooled_linear_head_it_is_cam(tmp_path):
    network = reopened(tiny(*linear_head()), tmp_path)
    features = features_of(network)(pixels())
    kernel = np.array(network.layers[-2].kernel, np.float64)
    for label in range(3):
        cam = np.maximum(features @ kernel[:, label], 0)
        found = gradcam.heat_maps(network, pixels(), [label] * 5)
        np.testing.assert_allclose(found, cam / cam[0].size, rtol=1e-4, atol=1e-6)


def test_by_default_it_explains_the_likeliest_class():
    network = tiny(*linear_head())
    network.layers[-2].bias.assign(-keras.Model(network.input, network.layers[-2].output)(pixels(20)).mean(0))
    answers = np.asarray(network.predict_on_batch(pixels(20).astype(np.float32))).argmax(-1)
    assert len(set(answers)) > 1
    np.testing.assert_array_equal(
        gradcam.heat_maps(network, pixels(20)), gradcam.heat_maps(network, pixels(20), answers)
    )


def test_gradients_are_finite_differences():
    hidden = keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3), keras.layers.Softmax()
    network = tiny(*hidden)
    features = features_of(network)(pixels(1))[0]
    weights = [np.array(w, np.float64) for layer in network.layers[-3:-1] for w in layer.weights]

    def logit(feature_map):
        return (np.tanh(feature_map.mean((0, 1)) @ weights[0] + weights[1]) @ weights[2] + weights[3])[1]

    step = 1e-4
    slopes = np.zeros(features.shape)
    for place in np.ndindex(features.shape):
        moved = features.copy()
        moved[place] += step
        slopes[place] = (logit(moved) - logit(features)) / step
    expected = np.maximum((slopes.mean((0, 1)) * features).sum(-1), 0)
    np.testing.assert_allclose(gradcam.heat_maps(network, pixels(1), [1])[0], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("closing", ["softmax", "activation", "fused", "sigmoid"])
def test_however_the_model_ends_the_logit_is_explained_and_not_the_probability(closing):
    plain = tiny(keras.layers.Dense(3))
    last = {
        "softmax": (keras.layers.Dense(3), keras.layers.Softmax()),
        "activation": (keras.layers.Dense(3), keras.layers.Activation("softmax")),
        "fused": (keras.layers.Dense(3, activation="softmax"),),
        "sigmoid": (keras.layers.Dense(3), keras.layers.Activation("sigmoid")),
    }[closing]
    # So sure that every probability is 0 or 1, where its slope would vanish.
    network = tiny(*last, scale=1000)
    labels = [0, 1, 2, 0, 1]
    found = gradcam.heat_maps(network, pixels(), labels)
    np.testing.assert_allclose(found, 1000 * gradcam.heat_maps(plain, pixels(), labels), rtol=1e-3)
    assert found.max() > 0
    assert len(network.layers[-1].weights) == (2 if closing == "fused" else 0)  # the model itself is left alone
    assert np.asarray(network.predict_on_batch(pixels().astype(np.float32))).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_an_images_map_does_not_depend_on_its_batch(batch_size):
    network = tiny(*linear_head())
    found = gradcam.heat_maps(network, pixels(), batch_size=batch_size)
    assert found.shape == (5, 8, 8)
    assert found.dtype == np.float32
    alone = [gradcam.heat_maps(network, pixels()[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


def test_heat_lies_on_what_the_model_looks_for():
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.AveragePooling2D(4)(image)  # 8x8 places of brightness
    x = keras.layers.Conv2D(2, 1)(x)
    network = keras.Model(image, keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x)))
    bright, dark = np.full((1, 1, 3), 1 / 765), np.full((1, 1, 3), -1 / 765)
    network.layers[2].set_weights([np.stack([bright, dark], -1), np.array([0.0, 1.0])])
    network.layers[-1].set_weights([np.eye(2), np.zeros(2)])
    for row, column in ((0, 0), (3, 6), (7, 2)):
        shown = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        shown[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
        light, shade = gradcam.heat_maps(network, np.concatenate([shown, shown]), [0, 1])
        assert np.unravel_index(light.argmax(), light.shape) == (row, column)
        assert np.count_nonzero(light) == 1
        assert shade[row, column] == shade.min() < shade.max()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "small_cnn" else pytest.mark.slow) for n in MODEL_NAMES]
)
def test_every_backbone_as_exported_is_explained(name):
    built = classifier.build(name, 64, classes=3)
    classifier.initialise(built, seed=0, dropout=0.2)
    exported = export.core_model(built.model, 3, core)
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    found = gradcam.heat_maps(exported, batch, [0, 1])
    features = features_of(exported)(batch)
    side = 4 if name == "small_cnn" else 2
    assert found.shape == features.shape[:3] == (2, side, side)
    cam = np.maximum(np.einsum("nhwd,dn->nhw", features, np.array(exported.layers[-2].kernel)[:, :2]), 0)
    np.testing.assert_allclose(found, cam / side**2, rtol=1e-3, atol=1e-4 * cam.max())


def multi_stage(members):
    """A classifier whose head reads four stages, with features away from their standard form, as it is exported."""
    built = classifier.build("mobilenet_v2", 64, classes=3, head_stages=4, members=members)
    classifier.initialise(built, seed=0, dropout=0.2)
    rng = np.random.default_rng(2)
    width = built.model.get_layer("pool").output.shape[-1]
    head.set_statistics(built.model, rng.standard_normal(width), rng.uniform(0.5, 2, width))
    kernels = [rng.standard_normal((width, 3)) for _ in range(members)]
    head.set_weights(built.model, kernels, [np.zeros(3)] * members)
    return export.core_model(built.model, 3, core)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.slow
def test_maps_of_all_stages_sum_to_the_logit(members, monkeypatch):
    """Before negative values are set to 0, the sum of the map is the mean logit but for a constant of the class: CAM."""
    import jax

    network = multi_stage(members)
    monkeypatch.setattr(jax.nn, "relu", lambda heat: heat)
    batch = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    found = gradcam.heat_maps(network, batch, [1] * 4)
    assert found.shape == (4, 2, 2)
    logits = keras.Model(network.input, network.get_layer("logits").output).predict_on_batch(batch.astype(np.float32))
    mean = np.asarray(logits, np.float64).reshape(4, members, 3).mean(1)[:, 1]
    sums = found.sum((1, 2), dtype=np.float64)
    np.testing.assert_allclose(sums - sums[0], mean - mean[0], rtol=1e-3, atol=1e-3 * np.abs(mean).max())


def test_models_pooled_otherwise_are_explained_at_their_last_feature_map():
    layers = (
        keras.Input((SIZE, SIZE, 3)),
        keras.layers.Conv2D(4, 3, strides=4, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    )
    assert gradcam.heat_maps(keras.Sequential(layers), pixels()).shape == (5, 8, 8)


def test_a_nested_backbone_is_explained_at_its_output():
    image = keras.Input((SIZE, SIZE, 3))
    backbone = keras.Model(image, keras.layers.Conv2D(4, 3, strides=4, activation="relu")(image))
    outer = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(outer))
    network = keras.Model(outer, keras.layers.Dense(2, activation="softmax")(pooled))
    assert gradcam.heat_maps(network, pixels()).shape == (5, 8, 8)


def test_models_without_a_last_feature_map_are_refused():
    image = keras.Input((SIZE, SIZE, 3))
    dense = keras.Model(image, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(image)))
    first, second = (keras.layers.Conv2D(4, 3, strides=4)(image) for _ in range(2))
    pooled = [keras.layers.GlobalAveragePooling2D()(x) for x in (first, second)]
    forked = keras.Model(image, keras.layers.Dense(2)(keras.layers.Concatenate()(pooled)))
    for network in (dense, forked):
        with pytest.raises(UserError, match="last feature map"):
            gradcam.heat_maps(network, pixels())


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match="KERAS_BACKEND is torch"):
        gradcam.heat_maps(tiny(*linear_head()), pixels())


def test_pictures_have_names_of_their_own_and_never_an_images(tmp_path):
    names = ("a/1.png", "b/1.png", "b/1.jpg", "1_heat.png", "1_heat_2.png", "x.png")
    files = [tmp_path / name for name in names]
    paths = gradcam.picture_paths(files, tmp_path)
    assert len({*paths, *files}) == 2 * len(files)
    assert all(path.suffix == ".png" and path.parent == tmp_path for path in paths)
    assert gradcam.picture_paths(files, tmp_path) == paths
    assert gradcam.picture_paths(files[-1:], tmp_path) == [tmp_path / "x_heat.png"]


@pytest.fixture
def place(tmp_path):
    """An exported model, and a folder with images, one of them damaged."""
    reopened(tiny(*linear_head(), scale=20), tmp_path)
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("1.png", "2.jpg", "more/1.png")):
        Image.fromarray(pixels(3)[i]).resize((60, 40)).save(folder / name)
    return tmp_path


def run(capfd, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main.main(["explain", *map(str, arguments)])
    out, err = capfd.readouterr()
    return exit_.value.code, out, err


def test_pictures_go_beside_the_model_by_default(place, capfd, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    code, text, _ = run(capfd, place, place / "images" / "1.png")
    assert code == 0 and str(place / "heat" / "1_heat.png") in text
    assert (place / "heat" / "1_heat.png").exists() and not list(Path.cwd().iterdir())


def test_the_verb_writes_a_picture_an_image_and_says_what_predict_says(place, capfd):
    out = place / "out"
    code, text, err = run(capfd, place / "model.keras", place / "images", "--out", out, "--json", "--batch_size", 2)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in text.splitlines()]
    network, names, _ = predict.open_model(place)
    files = predict.image_files([place / "images"])
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for row, (_, chances, _) in zip(rows, predict.predict(network, files, preparation=crop.WHOLE), strict=True):
        assert row["predicted"] == row["explained"] == names[chances.argmax()]
        assert [row["probabilities"][name] for name in names] == pytest.approx(chances.tolist(), abs=1e-5)
    assert sorted(str(path) for path in out.iterdir()) == sorted(row["picture"] for row in rows)
    for row in rows:
        with Image.open(row["picture"]) as picture:
            assert picture.format == "PNG"
            assert picture.width > 2 * 384
    code, text, _ = run(capfd, place, place / "images/1.png", "--out", out)  # a run folder, and a table
    assert code == 0
    assert text.count(str(out / "1_heat.png")) == text.count("\n") == 1


def test_another_class_gives_another_picture(place, capfd):
    found = {}
    for name in NAMES:
        code, text, _ = run(capfd, place, place / "images/1.png", "--out", place / name, "--class", name, "--json")
        assert (code, json.loads(text)["explained"]) == (0, name)
        found[name] = (place / name / "1_heat.png").read_bytes()
    assert len(set(found.values())) == 3


def test_what_can_not_be_read_is_skipped_and_told(place, capfd):
    bad = place / "images/more/0.png"
    bad.write_bytes((place / "images/1.png").read_bytes()[:100])
    code, text, err = run(capfd, place, place / "images", "--out", place / "out", "--json")
    assert code == 1
    assert err.startswith(f"Skipped: {bad} is a damaged image")
    rows = [json.loads(line) for line in text.splitlines()]
    assert ["error" in row for row in rows] == [False, False, True, False]
    assert len(list((place / "out").iterdir())) == 3
    code, text, err = run(capfd, place, bad, "--out", place / "none")
    assert (code, text) == (1, "")
    assert not (place / "none").exists()


def test_images_are_never_written_over(place, capfd):
    folder = place / "images"
    (folder / "1_heat.png").write_bytes((folder / "1.png").read_bytes())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, _ = run(capfd, place, folder, "--out", folder)
    assert code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_map_of_one_place_is_said_to_point_nowhere(tmp_path, capfd):
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, SIZE)(image))
    reopened(keras.Model(image, keras.layers.Dense(3, activation="softmax")(x)), tmp_path)
    Image.fromarray(pixels(1)[0]).save(tmp_path / "1.png")
    code, _, err = run(capfd, tmp_path, tmp_path / "1.png", "--out", tmp_path / "out")
    assert code == 0
    assert "only one place" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--class", "small"), "has no class small; its classes are adeno, large, normal"),
        (("--class", "Large"), "its classes are adeno, large, normal; did you mean large?"),
        (("--out", "model.keras"), "is a file"),
        (("--batch_size", "0"), "--batch_size"),
        (("nowhere.png",), "nowhere.png does not exist"),
    ],
)
def test_mistakes_are_one_line(place, capfd, monkeypatch, more, message):
    monkeypatch.chdir(place)
    code, text, err = run(capfd, ".", "images", *more)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.fixture(scope="module")
def taught():
    """A small network that tells phantoms apart, as an exported one ends; 200 phantoms it has not seen and their lesions."""
    keras.utils.set_random_seed(0)
    labels = np.arange(1000) % 4
    slices = np.stack([phantom.phantom_slice(i, int(label), size=64) for i, label in enumerate(labels)])
    shown = images.as_rgb(slices)
    image = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    for filters in (16, 32, 48, 64):
        x = keras.layers.MaxPooling2D()(x) if filters > 16 else x
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)
        x = keras.layers.ReLU()(x)
    logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    trained = keras.Model(image, logits)
    epochs, steps = 12, 800 // 32
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, epochs * steps)), loss)
    trained.fit(shown[:800].astype(np.float32), labels[:800], batch_size=32, epochs=epochs, verbose=0)
    masks = [phantom.lesion_mask(i, int(labels[i]), size=64) for i in range(800, 1000)]
    return keras.Model(image, keras.layers.Softmax()(logits)), shown[800:], labels[800:], np.stack(masks)


@pytest.mark.slow
def test_a_phantoms_lesion_lies_under_the_heat_more_than_chance(taught):
    network, shown, labels, masks = taught
    answers = np.asarray(network.predict_on_batch(shown.astype(np.float32))).argmax(-1)
    assert np.mean(answers == labels) > 0.85
    sick = (answers == labels) & (labels != phantom.CLASSES.index("normal"))
    masks = masks[sick]
    heat = np.stack([heatmap.stretched(each, (64, 64)) for each in gradcam.heat_maps(network, shown[sick])])
    heat /= heat.sum((1, 2), keepdims=True)
    inside, area = (heat * masks).sum((1, 2)), masks.mean((1, 2))
    # Lesions of other images, too: these lie in the lungs as well, so heat on the lungs alone would not do.
    elsewhere = np.einsum("nhw,mhw->nm", heat, masks)[~np.eye(len(masks), dtype=bool)]
    peaks = np.mean([mask.ravel()[each.argmax()] for mask, each in zip(masks, heat, strict=True)])
    print(
        f"{len(masks)} lesions: {inside.mean():.3f} of the heat on {area.mean():.3f} of the image "
        f"({inside.mean() / area.mean():.1f} times chance), {elsewhere.mean():.3f} on other images' lesions; "
        f"the peak within the lesion in {peaks:.3f}"
    )
    assert inside.mean() > 3 * area.mean()
    assert inside.mean() > 1.5 * elsewhere.mean()
    assert np.mean(inside > area) > 0.9
    assert peaks > 5 * area.mean()


@pytest.mark.slow
@pytest.mark.parametrize("randomised", ["head", "all"])
def test_with_randomised_weights_the_heat_is_another(taught, randomised):
    # Adebayo et al. 2018: a map that outlives the loss of what was learned shows the image, not the model.
    network, shown, _, _ = taught
    kept = network.get_weights()
    answers = np.asarray(network.predict_on_batch(shown.astype(np.float32))).argmax(-1)
    before = gradcam.heat_maps(network, shown, answers)
    rng = np.random.default_rng(0)
    try:
        for layer in network.layers[-2:-1] if randomised == "head" else network.layers:
            layer.set_weights([rng.permutation(weight.ravel()).reshape(weight.shape) for weight in layer.get_weights()])
        after = gradcam.heat_maps(network, shown, answers)
    finally:
        network.set_weights(kept)
    np.testing.assert_allclose(gradcam.heat_maps(network, shown, answers), before)
    told = [i for i in range(len(shown)) if np.ptp(before[i]) and np.ptp(after[i])]  # a map without heat ranks nothing
    likeness = np.mean([stats.spearmanr(before[i].ravel(), after[i].ravel()).statistic for i in told])
    print(f"{randomised} randomised: rank correlation {likeness:.2f} over {len(told)} of {len(shown)} maps")
    assert likeness < 0.5
