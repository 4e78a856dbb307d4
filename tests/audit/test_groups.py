"""Groups of similar slices, and folds that never part one."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from ctkeras.audit import groups
from ctkeras.data import similarity
from ctkeras.errors import UserError


def series(patients, slices, *, noise=0.3, seed=0):
    """Thumbnails of some slices of some patients, and whose each is."""
    rng = np.random.default_rng(seed)
    bases = rng.standard_normal((patients, 1, 32, 32))
    images = (bases + noise * rng.standard_normal((patients, slices, 32, 32))).reshape(-1, 32, 32)
    return images.astype(np.float32), np.repeat(np.arange(patients), slices)


def same(first, second):
    """Whether two numberings divide images in the same way."""
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


def test_slices_of_a_patient_are_one_cluster():
    thumbnails, whose = series(7, 5)
    assert (groups.clusters(thumbnails) == whose).all()
    order = np.random.default_rng(0).permutation(len(whose))
    assert same(groups.clusters(thumbnails[order]), whose[order])


def test_components_do_not_change_what_average_linkage_gives():
    images = np.cumsum(np.random.default_rng(0).standard_normal((200, 32, 32)), axis=0)  # a chain with no clear end
    ours = groups.clusters(images)
    tree = linkage(images.reshape(200, -1), "average", metric="correlation")
    assert same(ours, fcluster(tree, 1 - similarity.CORRELATION, "distance"))
    assert 1 < len(set(ours)) < 100


def test_too_many_images_are_divided_first(monkeypatch):
    thumbnails, whose = series(6, 8, noise=0.2)
    monkeypatch.setattr(similarity, "LARGEST", 3)
    numbers = groups.clusters(thumbnails, correlation=0.0)
    assert all(len(set(whose[numbers == number])) == 1 for number in set(numbers))


def test_flat_and_no_images():
    assert len(groups.clusters(np.zeros((0, 32, 32), np.uint8))) == 0
    assert len(groups.clusters(np.zeros((3, 32, 32), np.uint8))) == 3


def test_patients_are_groups():
    assert groups.of_patients(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("seed", range(3))
def test_folds_part_no_group_and_hold_every_class(seed):
    rng = np.random.default_rng(seed)
    whose = rng.integers(80, size=600)
    labels = rng.choice(4, size=80, p=(0.4, 0.2, 0.15, 0.25))[whose]
    fold = groups.folds(labels, whose, 5, seed=seed)
    assert all(len(set(fold[whose == group])) == 1 for group in set(whose))
    table = np.array([np.bincount(labels[fold == number], minlength=4) for number in range(5)])
    assert np.abs(table / table.sum(0) - 0.2).max() < 0.06
    assert (groups.folds(labels, whose, 5, seed=seed) == fold).all()
    assert (groups.folds(labels, whose, 5, seed=seed + 1) != fold).any()


def test_folds_refuse_what_cannot_be_divided():
    with pytest.raises(UserError, match="need at least 5 groups"):
        groups.folds(np.arange(8) % 2, np.arange(8) // 4, 5, seed=0)
    with pytest.raises(UserError, match="in one group"):
        groups.folds(np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 3]), 2, seed=0)
