"""The head on several stages: which features it reads, and that no cut changes its logits."""

import numpy as np
import pytest

from ctkeras.config import MODEL_NAMES
from ctkeras.models import classifier, head

WIDTHS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "efficientnet_b0": (112, 192, 320, 1280),
    "densenet121": (256, 512, 1024, 1024),
    "mobilenet_v2": (96, 160, 320, 1280),
    "mobilenet_v3_large": (80, 112, 160, 960),
}


def test_every_backbone_with_imagenet_weights_has_four_stages():
    assert head.STAGES.keys() == WIDTHS.keys() == set(MODEL_NAMES) - {"small_cnn"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("resnet18", "mobilenet_v2") else pytest.mark.slow) for n in WIDTHS]
)
def test_head_reads_the_last_stages(name):
    for stages in (1, 2, 3, 4):
        built = classifier.build(name, 64, classes=3, head_stages=stages, members=2)
        assert built.model.get_layer("pool").output.shape == (None, sum(WIDTHS[name][4 - stages :]))
        assert built.model.output.shape == (None, 6)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
@pytest.mark.slow
def test_no_cut_changes_the_logits(name):
    """Also where the head reads stages before the cut, whose features are packed with the map."""
    built = classifier.build(name, 64, classes=3, head_stages=4)
    classifier.initialise(built, seed=0, dropout=0.0)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    whole = np.asarray(built.model.predict_on_batch(images))
    assert np.ptp(whole) > 1e-3
    for cut in ("stage1", "stage2", "stage3", "stage4", "head"):
        prefix, suffix = built.split(cut)
        parts = suffix.predict_on_batch(prefix.predict_on_batch(images))
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max(), err_msg=cut)
