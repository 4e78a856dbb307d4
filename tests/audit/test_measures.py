"""What the splits measure: patients, the lookup and the shift; silent on clean sets, and not on leaking ones."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from ctkeras.audit import audit, groups, lookup, measures, shift
from ctkeras.data import sources
from ctkeras.errors import UserError

CLEAN, LEAKING = "phantom:240:patients=40", "phantom:240:patients=40,leaking"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield {spec: audit.check(sources.open_source(spec)) for spec in (CLEAN, LEAKING)}


@pytest.mark.parametrize("spec", [CLEAN, LEAKING])
def test_clusters_of_similar_slices_are_the_patients(audited, spec):
    whose = [image.patient for image in audited[spec].images]
    assert adjusted_rand_score(whose, groups.clusters(audited[spec].thumbnails)) > 0.9


def test_clean_patients_are_passed_over_and_leaking_ones_are_not(audited):
    clean, leaking = (list(measures.sentences(measures.measures(audited[spec]))) for spec in (CLEAN, LEAKING))
    assert len(clean) == 1
    assert clean[0].startswith("40 patients")
    kinds = [line.partition(":")[0] for line in leaking[1:]]
    assert {"LEAK", "LOOKUP", "SHIFT"} == set(kinds)
    assert any("rewards recognising patients" in line for line in leaking)
    assert any("the black margin" in line or "a larger black margin" in line for line in leaking)


def test_the_lookup_names_the_most_similar_reference(audited):
    told = audited[LEAKING]
    whose = {image.file: image.patient for image in told.images}
    found = lookup.nearest(told, "test")
    assert set(found) == {image.file for image in told.images if image.split == "test"}
    assert all(near.file.startswith("train/") and near.correlation > 0.8 for near in found.values())
    assert np.mean([whose[file] == whose[near.file] for file, near in found.items()]) > 0.9
    result = lookup.lookup(told, "test")
    classes = {image.file: image.class_name for image in told.images}
    assert result.acc == np.mean([classes[file] == near.class_name for file, near in found.items()])
    assert result.low <= result.acc <= result.high


def test_the_shift_is_gone_after_the_crop(audited):
    before, after = (shift.shift(audited[LEAKING], "test", prepared=prepared) for prepared in (False, True))
    assert before.speaks
    assert before.auc > 0.97
    assert not after.speaks
    marked = np.array([[image.split == "test"] for image in audited[LEAKING].images], float)
    noise = np.random.default_rng(0).normal(size=(len(marked), 5))
    assert shift.shift(audited[LEAKING], "test", features=noise + 3 * marked).auc > 0.9
    assert abs(shift.shift(audited[LEAKING], "test", features=noise).auc - 0.5) < 0.25


def test_a_pattern_names_patients():
    files = ["train/a/p7-01.png", "train/a/p7-02.png", "test/b/p9-01.png"]
    assert groups.named(files, r"(p\d+)-") == ["1", "1", "2"]
    for pattern, said in {"(": "not a regular expression", "p7": "needs brackets", "(p7)": "in 1 of 3 files"}.items():
        with pytest.raises(UserError, match=said):
            groups.named(files, pattern)


def test_a_pattern_reaches_the_groups_of_the_audit(audited):
    regrouped = audited[CLEAN].regrouped(r"-(\d+)\.png")
    assert regrouped.grouped_by == "patient"
    assert len({image.group for image in regrouped.images}) == 6  # the number of the slice, in place of the patient
    files = [image.file for image in regrouped.images]
    assert len(set(regrouped.group_of(files[:6]))) == 6


def test_groups_that_share_an_image_are_joined():
    assert groups.joined([0, 0, 1, 2, 3], [5, 6, 6, 7, 8]).tolist() == [0, 0, 0, 1, 2]
