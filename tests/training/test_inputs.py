"""What a run reads: its two splits, what was removed from training, and as many views of features as augmentation makes."""

import dataclasses

import numpy as np
import pytest

from ctkeras.audit import cleaning
from ctkeras.config import RunConfig
from ctkeras.data import decoded, sources
from ctkeras.training import features, inputs
from ctkeras.training.programs import Programs
from ctkeras.training.steps import Parts

SPLIT = decoded.Split(np.zeros((2, 8, 8), np.uint8), np.array([0, 1], np.int32), ("0.png", "1.png"), ("a", "b"))


@dataclasses.dataclass
class Cleaned:
    train_images: int
    train_images_dropped: int
    conflicts_dropped: int


@pytest.mark.parametrize(
    ("dropped", "conflicts", "said"), [(0, 0, ""), (3, 2, ": 5 are left out"), (0, 1, ": 1 are left out")]
)
def test_images_left_out_of_training_are_counted_aloud(monkeypatch, capfd, dropped, conflicts, said):
    inputs._loaded.cache_clear()
    cleaned, asked = Cleaned(40, dropped, conflicts), []
    monkeypatch.setattr(decoded, "load_split", lambda source, split, size, form: asked.append((split, size)) or SPLIT)
    monkeypatch.setattr(cleaning, "clean", lambda train, source, leaks: asked.append(leaks) or (train, cleaned))
    data = inputs.load_data(
        sources.Source("folder", "images", ("a", "b"), "f"),
        RunConfig(image_size=64, leaks="keep", folds=0, optimizer="adam"),
    )
    assert asked == [("train", 64), ("valid", 64), "keep"]  # never test
    assert (data.fingerprint, data.cleaned) == ("f", dataclasses.asdict(cleaned))
    note = capfd.readouterr().err
    assert said in note
    assert bool(note) == bool(said)


def test_trials_of_the_same_data_read_it_once_and_each_is_told_what_was_left_out(monkeypatch, capfd):
    inputs._loaded.cache_clear()
    read = []
    monkeypatch.setattr(decoded, "load_split", lambda source, split, size, form: read.append((split, size)) or SPLIT)
    monkeypatch.setattr(cleaning, "clean", lambda train, source, leaks: (train, Cleaned(40, 3, 0)))
    source, config = sources.Source("folder", "images", ("a", "b"), "f"), RunConfig(image_size=64, folds=0)
    first = inputs.load_data(source, dataclasses.replace(config, optimizer="adam", lr=0.1))
    assert inputs.load_data(source, dataclasses.replace(config, optimizer="sgd", lr=0.2)) is first
    assert read == [("train", 64), ("valid", 64)]
    assert capfd.readouterr().err.count("3 are left out") == 2
    changed = dataclasses.replace(source, fingerprint="g")
    assert inputs.load_data(changed, dataclasses.replace(config, optimizer="adam")).fingerprint == "g"
    inputs.load_data(source, dataclasses.replace(config, optimizer="adam", image_size=32))
    assert read[2:] == [("train", 64), ("valid", 64), ("train", 32), ("valid", 32)]
    inputs._loaded.cache_clear()


@pytest.mark.parametrize(("augmentation", "views"), [(1.0, 3), (0.0, 1)])
def test_only_augmented_training_has_more_views_than_one(monkeypatch, augmentation, views):
    asked = {}

    def load(programs, split, *, name, views, **options):
        asked[name] = views, options["augmentation"], options["weights"]
        return [np.zeros((2, 5), np.float32)] * views

    monkeypatch.setattr(features, "load", load)
    config = RunConfig(feature_views=3, augmentation=augmentation, batch_size=2, freeze_backbone=True)
    programs = Programs(Parts(None, None, None, decoupled=False, on_features=True))
    feed = inputs.feed_of(programs, config, inputs.Data(SPLIT, SPLIT, "f"), weights="w")
    assert asked == {"training": (views, augmentation, "w"), "validation": (1, augmentation, "w")}
    for batches in (feed.train(0), feed.valid()):
        (batch,) = batches
        assert batch.inputs.shape == (2, 5)
