"""Images that a device augments itself: the numbers of the input that the CPU trains on."""

import dataclasses

import jax
import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.data import batches, decoded
from ctkeras.training import inputs, resident
from ctkeras.training.programs import Programs

RANDOM = {"class_weighting": "loss", "mixup_alpha": 0.4, "augmentation": 1.0}


def make_split(*, size=40, channels=()):
    """Smooth pictures with noise, so that a resampling off by a fraction of a pixel is seen; three classes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), (9, 4, 6))).astype(np.int32)
    slopes = np.add.outer(np.arange(size), 2 * np.arange(size)).reshape(size, size, *[1] * len(channels))
    pixels = slopes + rng.integers(0, 130, (len(labels), size, size, *channels))
    files = tuple(f"{number}.png" for number in range(len(labels)))
    return decoded.Split(pixels.clip(0, 255).astype(np.uint8), labels, files, ("a", "b", "c"))


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("without", [{}, {"mixup_alpha": 0.0}, {"augmentation": 0.0}, {"class_weighting": "sampling"}])
def test_batches_are_those_of_the_cpu(without, channels):
    split, recipe = make_split(channels=channels), batches.Recipe(6, seed=3, **(RANDOM | without))
    placed = jax.device_put(resident.images(split, recipe))
    for epoch in (0, 4):
        ours, expected = (
            resident.train_batches(placed, split, recipe, epoch),
            batches.train_batches(split, recipe, epoch),
        )
        for batch, other in zip(ours, expected, strict=True):
            assert isinstance(batch.inputs, jax.Array)
            assert batch.inputs.dtype == np.float32
            np.testing.assert_allclose(batch.inputs, other.inputs, atol=0.02)  # gray levels
            np.testing.assert_allclose(batch.labels, other.labels, atol=1e-6)
            np.testing.assert_allclose(batch.weights, other.weights, rtol=1e-5)


def test_all_epochs_run_one_program():
    split, recipe = make_split(), batches.Recipe(6, seed=0, **RANDOM)
    placed = jax.device_put(resident.images(split, recipe))
    list(resident.train_batches(placed, split, recipe, 0))
    before = resident._batch._cache_size()
    for epoch, changed in ((1, {}), (2, {"augmentation": 0.3, "mixup_alpha": 0.1})):
        list(resident.train_batches(placed, split, dataclasses.replace(recipe, **changed), epoch))
    assert resident._batch._cache_size() == before


@pytest.mark.parametrize(
    ("backend", "values", "most", "on_device"),
    [
        ("gpu", {"augmentation": 0.5}, 2**30, True),
        ("gpu", {"augmentation": 0.0, "mixup_alpha": 0.2}, 2**30, True),
        ("gpu", {"augmentation": 0.0, "mixup_alpha": 0.0}, 2**30, False),  # nothing to do: bytes are sent as they are
        ("gpu", {"augmentation": 0.5}, 1000, False),
        ("cpu", {"augmentation": 0.5}, 2**30, False),
    ],
)
def test_an_accelerator_augments_what_fits(monkeypatch, backend, values, most, on_device):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(inputs, "RESIDENT_BYTES", most)
    split = make_split()
    data = inputs.Data(split, split, "")
    config = RunConfig.from_mapping({"freeze_backbone": False, "batch_size": 8, **values})
    batch = next(inputs._pixel_batches(Programs(None), config, data)(0))
    assert isinstance(batch.inputs, jax.Array) == on_device
