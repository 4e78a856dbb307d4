"""The learning rate: what each schedule promises, step by step."""

import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.training import schedule
from ctkeras.training.schedule import Plateau, learning_rate

LR, EPOCHS, STEPS = 0.01, 9, 7  # steps an epoch


def rates(**values):
    """The rate of every step of a run, the plateau's memory at its start."""
    config = RunConfig(lr=LR, max_epochs=EPOCHS, **values)
    total = config.max_epochs * STEPS
    return np.array([learning_rate(config, s, steps_per_epoch=STEPS, plateau=Plateau()) for s in range(total)])


def test_cosine_falls_from_lr_to_0_without_ever_rising():
    seen = rates(scheduler="cosine")
    assert seen[0] == LR
    assert (np.diff(seen) < 0).all()
    assert 0 < seen[-1] < 0.01 * LR
    config = RunConfig(lr=LR, max_epochs=EPOCHS, scheduler="cosine")
    half, end = (learning_rate(config, s, steps_per_epoch=2, plateau=Plateau()) for s in (EPOCHS, 2 * EPOCHS))
    assert half == pytest.approx(LR / 2)
    assert end == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scheduler", ["cosine", "step", "plateau"])
@pytest.mark.parametrize("warmup", [0.5, 1, 2.3])
def test_warm_up_rises_to_lr_and_then_the_schedule_takes_over(scheduler, warmup):
    seen = rates(scheduler=scheduler, warmup_epochs=warmup)
    steps = int(np.ceil(warmup * STEPS))
    assert 0 < seen[0] < LR
    assert (np.diff(seen[: steps + 1]) > 0).all()
    assert seen[:steps].max() < LR
    assert seen[steps] == pytest.approx(LR, rel=0.01)
    assert (np.diff(seen[steps:]) <= 0).all()
    assert seen.max() <= LR


def test_cosine_after_warm_up_still_ends_at_0():
    config = RunConfig(lr=LR, max_epochs=4, warmup_epochs=1, scheduler="cosine")
    assert learning_rate(config, 4 * STEPS, steps_per_epoch=STEPS, plateau=Plateau()) == pytest.approx(0, abs=1e-12)


def test_no_warm_up_starts_at_lr():
    for scheduler in ("cosine", "step", "plateau"):
        assert rates(scheduler=scheduler)[0] == LR


def test_step_drops_to_a_tenth_at_each_third():
    seen = rates(scheduler="step").reshape(3, -1)
    for third, expected in zip(seen, (LR, LR / 10, LR / 100), strict=True):
        np.testing.assert_allclose(third, expected)


def test_plateau_drops_after_five_epochs_without_a_better_loss():
    config = RunConfig(lr=LR, max_epochs=20, scheduler="plateau")
    losses = [1.0, 0.9] + [0.9] * 5 + [0.95] * 5 + [0.5] + [0.6] * 4 + [0.4] + [0.5] * 4
    plateau, seen = Plateau(), []
    for epoch, loss in enumerate(losses):
        seen.append(learning_rate(config, epoch * STEPS, steps_per_epoch=STEPS, plateau=plateau))
        plateau = plateau.after(loss)
    np.testing.assert_allclose(seen, [LR] * 7 + [LR / 10] * 5 + [LR / 100] * (len(losses) - 12))
    assert schedule.PLATEAU_PATIENCE == 5


def test_a_better_loss_starts_the_wait_anew():
    plateau = Plateau()
    for loss in (1.0, 2.0, 2.0, 2.0, 2.0, 0.9, 2.0, 2.0, 2.0, 2.0):
        plateau = plateau.after(loss)
    assert plateau.factor == 1
    assert plateau.after(2.0).factor == pytest.approx(0.1)


def test_the_plateaus_memory_is_of_no_account_to_other_schedules():
    for scheduler in ("cosine", "step"):
        config = RunConfig(lr=LR, max_epochs=EPOCHS, scheduler=scheduler)
        one, other = (learning_rate(config, 5, steps_per_epoch=STEPS, plateau=p) for p in (Plateau(), Plateau(0.01)))
        assert one == other
