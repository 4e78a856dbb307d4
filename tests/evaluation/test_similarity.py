"""Results by similarity, from correlations that are known, and the sentences that `evaluate` prints of them."""

import dataclasses

import numpy as np
import pytest

from ctkeras.audit import lookup
from ctkeras.audit.audit import Audit, Image
from ctkeras.evaluation import similarity, summary

# Test images and the correlation of each with the training image of its number.
CORRELATIONS = (1.0, 0.98, 0.94, 0.90, 0.87, 0.86, 0.5, 0.3)


@pytest.fixture(scope="module")
def audited():
    """Eight training images of unrelated noise, and eight of test; test image 6 has another class than its most similar."""
    rng = np.random.default_rng(0)
    base, other = np.split(np.linalg.qr(rng.standard_normal((1024, 17)) - 0.0)[0].T[:16], 2)
    images, thumbnails = [], []
    for split, rows in (("test", range(8)), ("train", range(8))):
        for i in rows:
            share = CORRELATIONS[i]
            row = base[i] if split == "train" else share * base[i] + np.sqrt(1 - share**2) * other[i]
            thumbnails.append(np.clip(np.rint(128 + 900 * (row - row.mean())), 0, 255).reshape(32, 32))
            name = "ab"[(i + (split == "test" and i == 6)) % 2]
            number = len(images)
            images.append(Image(f"{split}/{i}.png", split, name, number, number, "PNG", "L", 32, 32, group=i // 2))
    return Audit(tuple(images), {}, (), np.array(thumbnails, np.uint8))


def results(audited, right, **changes):
    files = [f"test/{i}.png" for i in range(8)]
    trained = similarity.Trained(("train",), "keep", False)._replace(**changes)
    given = {"right": np.array(right, bool), "seen": np.arange(8) == 0, "trained": trained}
    return similarity.results(audited, "test", files=files, **given)


def test_images_are_divided_by_their_correlation(audited):
    values = results(audited, [1, 1, 1, 1, 1, 0, 1, 0])
    found = lookup.nearest(audited, "test", leaks="keep")
    measured = [found[f"test/{i}.png"].correlation for i in range(8)]
    assert measured == pytest.approx(CORRELATIONS, abs=0.02)
    rows = values["by_similarity"]
    assert [(row["from"], row["to"]) for row in rows] == [(0.97, None), (0.92, 0.97), (0.85, 0.92), (None, 0.85)]
    assert [row["n"] for row in rows] == [2, 1, 3, 2]
    assert [row["acc"] for row in rows] == pytest.approx([1, 1, 2 / 3, 1 / 2])
    assert [row["lookup_acc"] for row in rows] == [1, 1, 1, 0.5]
    assert (values["novel_n"], values["novel_acc"], values["novel_lookup_acc"]) == (4, 0.5, 0.75)
    assert values["lookup_acc"] == 7 / 8
    assert values["clean_lookup_acc"] == 6 / 7
    for row in rows:
        assert 0 <= row["low"] <= row["acc"] <= row["high"] <= 1
        assert row["low"] < row["high"]


def test_a_part_without_images_has_no_number(audited):
    rows = tuple(
        dataclasses.replace(image, split="train" if image.split == "test" else "test")
        if image.file.endswith("/6.png")
        else image
        for image in audited.images
    )
    some = dataclasses.replace(audited, images=tuple(image for image in rows if not image.file.endswith("/2.png")))
    some = dataclasses.replace(some, thumbnails=audited.thumbnails[[i for i in range(16) if i % 8 != 2]])
    files = [image.file for image in some.images if image.split == "test"]
    trained = similarity.Trained(("train",), "keep", False)
    values = similarity.results(some, "test", files=files, right=np.ones(7, bool), seen=None, trained=trained)
    empty = values["by_similarity"][1]
    assert (empty["n"], empty["acc"], empty["low"], empty["lookup_acc"]) == (0, None, None, None)
    assert "clean_lookup_acc" not in values


def test_in_folds_an_image_is_compared_with_other_groups_only(audited):
    values = results(audited, [1] * 8, apart=True)
    assert [row["n"] for row in values["by_similarity"]] == [0, 0, 0, 8]
    assert not values["lookup_speaks"]


def test_without_references_there_are_no_results(audited):
    assert results(audited, [1] * 8, into=("valid",)) == {}


def test_sentences_name_the_three_numbers_their_intervals_and_the_lookup(audited):
    values = results(audited, [1, 1, 1, 1, 1, 0, 1, 0])
    values |= {"split": "test", "n": 8, "acc": 0.75, "acc_low": 0.5, "acc_high": 1.0, "clean_n": 7, "clean_acc": 5 / 7}
    values |= {"clean_acc_low": 0.4, "clean_acc_high": 0.9, "group_n": 4, "grouped_by": "similarity"}
    values |= {"acc_group_low": 0.4, "acc_group_high": 1.0}
    first, published, clean, novel, looked_up, size = summary.lines(values)
    assert "groups of similar images" in first
    assert "0.750 (0.400 to 1.000)  8 images in 4 groups; lookup 0.875" in published
    assert "0.714 (0.400 to 0.900)  7 images; lookup 0.857" in clean
    assert "below 0.88" in novel and "0.500 (" in novel and "lookup 0.750" in novel
    assert "right for 88%" in looked_up and ("recognising" in looked_up) == values["lookup_speaks"]
    assert size == "Precision of this set: 8 images: plus or minus 25 points; 4 groups: plus or minus 30 points."


def test_certainty_says_what_it_rests_on():
    values = {"split": "valid", "n": 30, "acc": 1.0, "acc_low": 0.886, "acc_high": 1.0, "grouped_by": "patient"}
    said = summary.lines(values)
    assert "patients" in said[0]
    assert any("Wilson" in line for line in said)
    assert not any("Wilson" in line for line in summary.lines(values | {"acc": 0.9}))
