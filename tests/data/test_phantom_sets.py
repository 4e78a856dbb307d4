"""Generated sets: which slices are in which split, and patients with several slices each."""

import numpy as np
import pytest

from ctkeras.data import crop, facts, images, layout, phantom, phantom_sets, sources
from ctkeras.data.phantom_sets import Recipe
from ctkeras.errors import UserError


def test_a_set_without_patients_is_drawn_as_before():
    items = list(phantom_sets.items(Recipe(20), "valid"))
    assert [item[:3] for item in items] == phantom.split_items(20, "valid")
    source = sources.open_source("phantom:12")
    for split in layout.SPLITS:
        drawn = {file: phantom.phantom_slice(seed, label) for file, seed, label in phantom.split_items(12, split)}
        for entry, content in sources.read(source, split):
            assert entry.patient == ""
            np.testing.assert_array_equal(images.decode_gray(content, name=""), drawn[entry.file])
    assert source.fingerprint == "phantom-12-1.0.0"


@pytest.mark.parametrize("leaking", [False, True])
@pytest.mark.parametrize(("number", "patients"), [(48, 12), (240, 40), (241, 40), (1000, 13), (300, 70)])
def test_each_split_has_every_class_and_patients_are_parted_only_where_they_leak(number, patients, leaking):
    recipe = Recipe(number, patients, leaking)
    items = {split: list(phantom_sets.items(recipe, split)) for split in layout.SPLITS}
    everything = [item for split in layout.SPLITS for item in items[split]]
    assert len({item.file for item in everything}) == len({item[1:] for item in everything}) == number
    assert len({(item.patient, item.label) for item in everything}) == patients  # one class each
    assert all({item.label for item in items[split]} == {0, 1, 2, 3} for split in layout.SPLITS)
    assert sum(phantom_sets.count(recipe, split) for split in layout.SPLITS) == number
    shared = {item.patient for item in items["train"]} & {item.patient for item in items["test"]}
    assert len(shared) == (patients if leaking else 0)
    assert 0.5 < len(items["train"]) / number < 0.7 or patients < 14


def test_slices_of_a_patient_are_neighbours_and_not_copies():
    slices = [[phantom.phantom_slice(seed, 0, size=64, position=at) for at in range(4)] for seed in range(6)]
    rows = [crop.prepare(picture, facts.SMALL, crop.Preparation()).ravel() for series in slices for picture in series]
    correlation = np.corrcoef(rows)
    whose = np.repeat(np.arange(6), 4)
    same = whose[:, None] == whose
    assert correlation[same].min() > 0.75
    assert correlation[~same].max() < 0.88
    assert np.median(correlation[~same]) < 0.7 < np.median(correlation[same])
    assert len({picture.tobytes() for series in slices for picture in series}) == 24


def test_entries_name_their_patient_and_fingerprints_tell_sets_apart():
    source = sources.open_source("phantom:48:patients=12,leaking")
    entries = [entry for entry, _ in sources.read(source, "test")]
    assert len(entries) == sources.count(source, "test")
    assert all(entry.patient in entry.file for entry in entries)
    specs = ("phantom:48", "phantom:48:patients=12", "phantom:48:patients=12,leaking", "phantom:48:leaking,patients=12")
    keys = [sources.open_source(spec).key for spec in specs]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("phantom:240:", "is named as in"),
        ("phantom:240:patients", "takes a whole number"),
        ("phantom:240:patients=x", "takes a whole number"),
        ("phantom:240:leaking", "12 patients or more"),
        ("phantom:240:patients=100", "four images for each; got 100 patients"),
        ("phantom:240:patients=40,loud", "is named as in"),
    ],
)
def test_a_bad_recipe_is_refused_with_examples(spec, said):
    with pytest.raises(UserError, match=said) as refused:
        sources.open_source(spec)
    assert "phantom:240:patients=40" in str(refused.value)
