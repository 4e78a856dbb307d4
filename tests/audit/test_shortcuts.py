"""Files that give their class away are found out, and copies don't make it look as if they did."""

import numpy as np
import pytest

from ctkeras.audit import shortcuts
from ctkeras.audit.audit import Image


def image(number, class_name, *, split="train", near=None, kind=("PNG", "L"), size=(100, 80), ending="png"):
    file = f"{split}/{class_name}/{number}.{ending}"
    return Image(file, split, class_name, number, number if near is None else near, *kind, *size)


def random_size(rng):
    return int(rng.integers(100, 200)), int(rng.integers(100, 200))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mode", lambda label: {"kind": ("PNG", "RGBA") if label else ("PNG", "RGB")}),
        ("mode", lambda label: {"kind": ("PNG", "L") if label else ("JPEG", "L")}),
        ("size", lambda label: {"size": (300, 300) if label else (500, 500)}),
        ("aspect", lambda label: {"size": (300 + label, 300) if label else (450, 300)}),
    ],
)
def test_what_gives_the_class_away_is_found(name, options):
    result = shortcuts.class_by_file([image(i, "ab"[i % 2], **options(i % 2)) for i in range(60)])
    assert result["majority"] == 0.5
    assert result["accuracy"][name] == result["accuracy"]["all"] == 1.0 > result["chance"] > result["majority"]
    assert (result["accuracy"]["mode"] > result["chance"]) == (name == "mode")
    assert (result["accuracy"]["aspect"] > result["chance"]) == (name == "aspect")


def test_what_says_nothing_stays_within_chance():
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(10):
        images = [image(i, "aab"[i % 3], size=random_size(rng)) for i in range(90)]
        result = shortcuts.class_by_file(images)
        assert result["majority"] == pytest.approx(2 / 3, abs=1e-3)
        beyond += result["accuracy"]["all"] > result["chance"]
    assert beyond <= 1


def test_copies_do_not_let_the_tree_know_a_size_again():
    rng = np.random.default_rng(0)
    images = []
    for group in range(16):  # of sizes that say nothing, each eight times
        size = random_size(rng)
        images += [image(8 * group + i, "ab"[group % 2], near=group, size=size) for i in range(8)]
    together = shortcuts.class_by_file(images)
    apart = shortcuts.class_by_file(
        [image(i, one.class_name, size=(one.width, one.height)) for i, one in enumerate(images)]
    )
    assert apart["accuracy"]["size"] > apart["chance"]
    assert together["accuracy"]["size"] <= together["chance"]


def test_only_training_is_looked_at():
    train = [image(i, "ab"[i % 2]) for i in range(20)]
    test = [image(100 + i, "ab"[i % 2], split="test", kind=("PNG", "LA" if i % 2 else "P")) for i in range(20)]
    assert shortcuts.class_by_file(train + test) == shortcuts.class_by_file(train)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_to_tell(count):
    result = shortcuts.class_by_file([image(i, "ab"[i % 2]) for i in range(count)])
    assert result["images"] == count
    assert "fewer than two" in result["reason"]


def test_formats_that_contradict_a_name():
    images = [
        image(0, "a", kind=("JPEG", "L")),
        image(1, "a", kind=("JPEG", "L"), ending="JPG"),
        image(2, "a", kind=("MPO", "RGB"), ending="jpeg"),
        image(3, "a", kind=("PNG", "L"), ending="tif"),
        image(4, "a", kind=("TIFF", "L"), ending="tiff"),
    ]
    assert shortcuts.contradicting(images) == {"train/a/0.png": "JPEG", "train/a/3.tif": "PNG"}


def test_every_ending_that_is_read_has_its_formats():
    from ctkeras.data import images

    assert set(shortcuts.FORMATS) == set(images.EXTENSIONS)


def test_counts_and_sizes():
    images = [
        image(0, "a", size=(100, 50)),
        image(1, "a", size=(300, 100), kind=("PNG", "RGB")),
        image(2, "a", size=(100, 50), split="test"),
        image(3, "b", split="valid"),
    ]
    assert shortcuts.balance(images) == {"train": {"a": 2, "b": 0}, "valid": {"a": 0, "b": 1}, "test": {"a": 1, "b": 0}}
    assert shortcuts.modes(images) == {"a": {"PNG L": 2, "PNG RGB": 1}, "b": {"PNG L": 1}}
    assert shortcuts.sizes(images)["a"] == {
        "width": [100, 100, 300],
        "height": [50, 50, 100],
        "aspect": [2, 2, 3],
        "different_sizes": 2,
    }


@pytest.mark.slow
def test_the_real_set_gives_its_classes_away(real_data):
    from ctkeras.audit import audit
    from ctkeras.data import sources

    result = shortcuts.class_by_file(audit.load(sources.open_source(real_data)).images)
    assert result["accuracy"]["size"] > result["chance"] + 0.1


def test_chance_folds_and_rounding_by_hand():
    images = [image(i, "aab"[i % 3], near=i // 2) for i in range(90)]  # pairs of copies: 45 groups
    result = shortcuts.class_by_file(images)
    assert (result["folds"], result["majority"]) == (5, 0.6667)
    assert result["chance"] == round(2 / 3 + 1.96 * (2 / 9 / 45) ** 0.5, 4)
    assert result["accuracy"]["all"] == 0.6667  # nothing to learn from equal files


@pytest.mark.parametrize(("groups", "folds"), [(2, 2), (3, 3), (9, 5)])
def test_the_rarest_class_limits_the_folds(groups, folds):
    common = [image(i, "a") for i in range(20)]
    rare = [image(100 + i, "b", near=100 + i % groups) for i in range(20)]
    assert shortcuts.class_by_file(common + rare)["folds"] == folds


def test_the_tree_is_too_small_to_learn_single_images(monkeypatch):
    from sklearn import tree

    options = []
    real = tree.DecisionTreeClassifier
    monkeypatch.setattr(tree, "DecisionTreeClassifier", lambda **given: options.append(given) or real(**given))
    shortcuts.class_by_file([image(i, "ab"[i % 2]) for i in range(60)])
    assert options == [{"max_depth": 4, "min_samples_leaf": 5, "random_state": 0}] * 4


def test_sizes_have_three_decimals_and_a_true_median():
    table = shortcuts.sizes(
        [image(i, "a", size=size) for i, size in enumerate([(100, 30), (200, 30), (400, 30), (800, 30)])]
    )
    assert table["a"]["width"] == [100, 300, 800]
    assert table["a"]["aspect"] == [3.333, 10, 26.667]
