"""Phantoms: reproducible, plausible, split without leaks, hard for linear models only."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ctkeras.data.phantom import CLASSES, VERSION, lesion_mask, phantom_slice, split_items, split_sizes

NORMAL = CLASSES.index("normal")
LESIONS = [label for label in range(len(CLASSES)) if label != NORMAL]
CHANCE_CEILING = 0.45  # accuracy; chance is 0.25 for four balanced classes


def draw(first, count, size):
    """Balanced slices in [0, 1] as float32 [count, size, size], and labels [count]."""
    labels = np.arange(count) % len(CLASSES)
    images = [phantom_slice(first + i, int(label), size=size) for i, label in enumerate(labels)]
    return np.stack(images).astype("float32") / 255, labels


def grown(mask, steps):
    """Mask widened by so many pixels, diagonals included."""
    padded = np.pad(mask, steps)
    shifts = range(-steps, steps + 1)
    parts = [np.roll(padded, (dy, dx), (0, 1)) for dy in shifts for dx in shifts]
    return np.any(parts, axis=0)[steps:-steps, steps:-steps]


def test_classes_are_sorted():
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize("size", [32, 64, 100, 128, 224])
@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_slice_and_mask_form(size, label):
    image, mask = phantom_slice(5, label, size=size), lesion_mask(5, label, size=size)
    assert image.shape == mask.shape == (size, size)
    assert (image.dtype, mask.dtype) == (np.uint8, bool)
    assert np.ptp(image) > 100  # gray levels: air and bone both show


def test_default_size():
    assert phantom_slice(0, 0).shape == lesion_mask(0, 0).shape == (128, 128)


def test_same_arguments_give_the_same_bytes_in_another_process():
    code = (
        "import hashlib; from ctkeras.data.phantom import phantom_slice as p;"
        "print(hashlib.sha256(b''.join(p(s, s % 4).tobytes() for s in range(8))).hexdigest())"
    )
    runs = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(runs) == 1
    for label in range(len(CLASSES)):
        np.testing.assert_array_equal(phantom_slice(9, label), phantom_slice(9, label))


# Slices of seeds 0 to 7, as the mean gray of 8 x 8 blocks, and the share of each that is lesion.
DRAWN = (
    "171b3f5d583b17174674507a44746f17833151a45e5b7a2675387eb388417038919d6ab4585b9520569e53af907b53242234555f43251c171717171717181817",
    "0e0d0e0e0f0f0f0e112450543f111011256e2d4c7e64350e6b8e81b64c44720f769f8ea47e646f155f45669f6d4c6911256d7a8e41664a0f0e183e6761431a18",
    "0a090a0c0b0a0b0d0b164b678253530f0b5e2b658038344b0c664193a2722d550a76695f9c5d3b461434585cb8614e150f13151b22170c0b090c08090b0b090b",
    "18181717181718181818204f574c2318183d5469772c651f185b37af9e48364c185e467ca7613c511755424c99416a282223576196592c1e1718171818171817",
    "15123552664c3115135040227a227c4b1c5f2898a1446a6226502eac9c832d5c185d3672ac5b6d701253423c913c74511f214c679c65431f1214151413121215",
    "212128342820212021696166c6624a214e4b335cb6405346658194afc96b34665f9091abb5453865307546a6623c7230252f5fa6776d442c2021202121242120",
    "0a0b0a0b0c0c0b0a0a4758b277603f0c424959ba3c26681a604ba7c994463c4a603d7eb2a0624b3e2d6b6579724d76121841668d965b20180c0b0c0d0b0b0a0b",
    "212021202021211f2269897daf7e48213a913972bd397468596952a2c45f3b9a388f459fb17b479b2e5d86c6a083a65621212a476167422d20211f2020202020",
)
LESION = (0.01508, 0.02942, 0, 0.0152, 0.01422, 0.03119, 0, 0.01416)


def test_what_version_1_0_0_draws():
    assert VERSION == "1.0.0"
    for seed, (known, share) in enumerate(zip(DRAWN, LESION, strict=True)):
        blocks = phantom_slice(seed, seed % 4, size=64).reshape(8, 8, 8, 8).mean((1, 3))
        np.testing.assert_allclose(blocks.ravel(), list(bytes.fromhex(known)), atol=0.75)  # gray levels
        assert lesion_mask(seed, seed % 4).mean() == pytest.approx(share, abs=2e-4)


def test_which_slices_version_1_0_0_puts_where():
    assert split_sizes(20) == {"train": 11, "valid": 4, "test": 5}
    assert split_sizes(1000) == {"train": 600, "valid": 150, "test": 250}
    assert split_items(20, "valid")[:2] == [
        ("valid/adenocarcinoma/0001.png", 1, 0),
        ("valid/large_cell/0001.png", 4, 1),
    ]
    assert split_items(20, "test")[4] == ("test/adenocarcinoma/0002.png", 14, 0)


def test_seeds_give_distinct_slices():
    for label in range(len(CLASSES)):
        assert len({phantom_slice(seed, label, size=32).tobytes() for seed in range(40)}) == 40


@pytest.mark.parametrize("size", [32, 128, 224])
def test_label_changes_the_lesion_only(size):
    for seed in range(12):
        normal = phantom_slice(seed, NORMAL, size=size)
        assert not lesion_mask(seed, NORMAL, size=size).any()
        for label in LESIONS:
            changed = phantom_slice(seed, label, size=size) != normal
            mask = lesion_mask(seed, label, size=size)
            # The mask counts pixels well inside; faint ground glass reaches a little further.
            assert not (changed & ~grown(mask, 1 + size // 32)).any()
            assert changed[mask].mean() > 0.2


def test_lesion_lies_within_the_body():
    for seed in range(30):
        normal = phantom_slice(seed, NORMAL)
        tissue = normal > 0.5 * np.percentile(normal, 98)
        for label in LESIONS:
            mask = lesion_mask(seed, label)
            assert 0.004 < mask.mean() < 0.12  # share of the image
            rows, cols = np.nonzero(mask)
            for row, col in zip(rows[::7], cols[::7], strict=True):
                rays = tissue[row, : col + 1], tissue[row, col:], tissue[: row + 1, col], tissue[row:, col]
                assert all(ray.any() for ray in rays)


def test_adenocarcinoma_is_smaller_than_large_cell():
    area = {label: [] for label in LESIONS}
    for seed in range(20):
        for label in LESIONS:
            area[label].append(lesion_mask(seed, label).mean())
    small, large = CLASSES.index("adenocarcinoma"), CLASSES.index("large_cell")
    assert np.median(area[small]) < 0.7 * np.median(area[large])


@pytest.mark.parametrize(("seed", "label", "size"), [(-1, 0, 64), (0, 4, 64), (0, -1, 64), (0, 0, 15)])
def test_bad_arguments(seed, label, size):
    for draw_one in (phantom_slice, lesion_mask):
        with pytest.raises(ValueError, match="no phantom for"):
            draw_one(seed, label, size=size)


def test_split_sizes():
    for n in range(12, 1500):
        sizes = split_sizes(n)
        assert list(sizes) == ["train", "valid", "test"]
        assert sum(sizes.values()) == n
        assert min(sizes.values()) >= len(CLASSES)
        if n >= 40:
            for name, share in (("train", 0.60), ("valid", 0.15), ("test", 0.25)):
                assert abs(sizes[name] - share * n) <= 1.5


@pytest.mark.parametrize("n", [-1, 0, 11])
def test_too_few_images(n):
    with pytest.raises(ValueError, match="at least 12 images") as caught:
        split_sizes(n)
    assert "\n" not in str(caught.value)


def test_unknown_split():
    with pytest.raises(ValueError, match="dev"):
        split_items(40, "dev")


@pytest.mark.parametrize("n", [12, 13, 60, 101, 1000])
def test_split_items_are_balanced_and_unique(n):
    items = {split: split_items(n, split) for split in split_sizes(n)}
    for split, size in split_sizes(n).items():
        counts = Counter(label for _, _, label in items[split])
        assert len(items[split]) == size
        assert len(counts) == len(CLASSES)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert all(file.startswith(f"{split}/{CLASSES[label]}/") for file, _, label in items[split])
    everything = [item for split in items.values() for item in split]
    assert len({seed for _, seed, _ in everything}) == len({file for file, _, _ in everything}) == n
    assert items["train"][0][0] == "train/adenocarcinoma/0001.png"


def test_no_slice_occurs_in_two_splits():
    items = [item for split in split_sizes(200) for item in split_items(200, split)]
    assert len({phantom_slice(seed, label, size=32).tobytes() for _, seed, label in items}) == 200


@pytest.mark.parametrize("count", [360, pytest.param(1200, marks=pytest.mark.slow)])
def test_linear_models_stay_near_chance(count):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, labels = draw(0, count, 64)
    trained = 2 * count // 3
    small = images.reshape(-1, 32, 2, 32, 2).mean((2, 4))
    features = {
        **({"64 px": images.reshape(len(images), -1)} if count > 1000 else {}),
        "32 px": small.reshape(len(images), -1),
        "mean": images.mean((1, 2))[:, None],
        "mean, std": np.stack([images.mean((1, 2)), images.std((1, 2))], 1),
        "histogram": np.stack([np.histogram(image, 32, (0, 1))[0] for image in images]),
    }
    for name, x in features.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        score = model.fit(x[:trained], labels[:trained]).score(x[trained:], labels[trained:])
        print(f"linear on {name}: {score:.3f}")
        assert score < CHANCE_CEILING, name


@pytest.mark.slow
def test_small_cnn_learns():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    images, labels = draw(0, 1200, 64)
    images = images[..., None]
    keras.utils.set_random_seed(0)
    layers = [keras.Input((64, 64, 1)), keras.layers.RandomFlip("horizontal")]
    for filters in (16, 32, 48, 64):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.8),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    model = keras.Sequential([*layers, keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(4)])
    epochs, steps = 12, 800 // 32
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(images[:800], labels[:800], batch_size=32, epochs=epochs, verbose=0)
    score = model.evaluate(images[800:], labels[800:], verbose=0)[1]
    print(f"small CNN: {score:.3f}")
    assert score > 0.85


def test_drawing_does_not_import_tensorflow():
    code = "import sys, ctkeras.data.phantom; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
