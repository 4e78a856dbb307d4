"""A search's cost: told before its first trial, corrected by its trials, and held to a budget of time."""

import math
import re
import time
import types

import pytest
import sweeps
from pretended import PLAIN, PretendedPool, works

from ctkeras.errors import UserError
from ctkeras.search import budget, cost, local, storage, supervisor
from ctkeras.search.supervisor import Supervisor
from ctkeras.training import costs
from ctkeras.training.stopping import Stop

HERE = {"name": "EPYC", "count": 2, "gpu": False}
GPU = {"name": "H100", "count": 1, "gpu": True}
IMAGES = {"train": 320, "valid": 32}
TUNED = {"freeze_backbone": False, "batch_size": 32, "max_epochs": 10, "image_size": 224}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


def states(trials):
    return [trial.state.name for trial in trials.all()]


def tuning(**more):
    return sweeps.sweep(run_cap=4, **PLAIN, **TUNED, **more)


def says_where(worker, message):
    """Everything succeeds, on a machine with a name."""
    if "prepare" in message:
        return [{"ready": True, "machine": HERE, "images": IMAGES}]
    return works(worker, message)


def learned(tmp_path, content, *, machine=None, workers=1):
    made = cost.Cost(sweeps.planned(tmp_path, content), workers=workers)
    made.learn(HERE if machine is None else machine, IMAGES)
    return made


def test_the_cost_names_the_trials_the_time_the_evidence_and_the_doubt(tmp_path):
    each = costs.TUNED_SECONDS + 10 * 10 * 0.82  # 97 s
    assert learned(tmp_path, tuning()).sentence(4) == (
        "cost: 4 trials on CPU (EPYC, 2 cores): about 6.5 min, from the table in benchmarks/RESULTS.md, as nothing like it was "
        "measured here; between 2.2 min and 19 min"
    )
    assert "about 3.2 min" in learned(tmp_path, tuning(), workers=2).sentence(4)
    assert "2 trials on CPU (EPYC, 2 cores): about 3.2 min" in learned(tmp_path, tuning()).sentence(2)
    assert learned(tmp_path, tuning()).of(sweeps.CONSTANT | TUNED) == pytest.approx(each)


def test_on_a_gpu_nothing_is_claimed_before_something_was_measured(tmp_path, monkeypatch):
    found = learned(tmp_path, tuning(), machine=GPU)
    assert found.sentence(4) == (
        "cost: 4 trials on GPU (H100): not known before the first one has ended, because nothing like it was measured here"
    )
    assert found.of(sweeps.CONSTANT | TUNED) is None
    monkeypatch.setattr(costs, "machine", lambda: costs.Machine(**GPU))
    config = found.drawn[0]
    costs.remember(config, [{"epoch_seconds": 1.0}] * 10, steps=10, rest=2.0)
    assert learned(tmp_path, tuning(), machine=GPU).sentence(4) == (
        "cost: 4 trials on GPU (H100): about 48 s, from runs measured on this machine; between 34 s and 67 s"
    )


def test_mixed_evidence_and_what_is_not_known_are_told_apart(tmp_path):
    names = {"values": ["mobilenet_v2", "resnet50"]}
    found = learned(tmp_path, sweeps.sweep(method="grid", run_cap=4, hyperband=True, **TUNED, model_name=names, lr=0.1))
    assert found.sentence(4).endswith("; 2 trials not counted, nothing is known of them; hyperband may shorten it")


def test_a_cheap_trial_says_little_about_an_expensive_one(tmp_path, clock):
    """Frozen ones take seconds, fine-tuned ones minutes: the time left follows the work, not the number of trials."""
    frozen = {"values": [True, False]}
    content = sweeps.sweep(
        method="grid", run_cap=4, hyperband=False, **{**TUNED, "freeze_backbone": frozen}, lr=0.1, optimizer="adamw"
    )
    found = learned(tmp_path, content)
    works_of = [one.seconds for one in found.estimates]
    assert max(works_of) > 10 * min(works_of)
    for number in (0, 1):
        config = found.drawn[number].to_dict()
        clock.seconds += 2 * found.work(config)  # this machine is half as fast as the table's
        found.ended(types.SimpleNamespace(user_attrs={"config": config, "epochs": 10}))
    assert found.left(2) == pytest.approx(2 * sum(works_of[2:]))
    assert found.left(2, later=3) == pytest.approx(2 * (sum(works_of[2:]) + 3 * sum(works_of) / 4))


def test_what_a_search_leaves_in_the_cache_does_not_count_twice(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(costs, "machine", lambda: costs.Machine(**HERE))
    found = learned(tmp_path, tuning())
    config = found.drawn[0]
    before = found.work(config.to_dict())
    costs.remember(config, [{"epoch_seconds": 100.0}] * 10, steps=10)  # ten times what the table says
    clock.seconds += 1000
    found.ended(types.SimpleNamespace(user_attrs={"config": config.to_dict(), "epochs": 10}))
    assert found.work(config.to_dict()) == before
    assert found.left(3) == pytest.approx(3000)
    assert learned(tmp_path, tuning()).of(config.to_dict()) == pytest.approx(1000)


def test_what_hyperband_saved_is_expected_to_be_saved_but_not_counted_on(tmp_path, clock):
    found = learned(tmp_path, tuning())
    config = found.drawn[0].to_dict()
    full = found.work(config)
    for _ in range(2):
        clock.seconds += full / 2
        found.ended(types.SimpleNamespace(user_attrs={"config": config, "epochs": 5, "stopped_by": "hyperband"}))
    assert found.left(2) == pytest.approx(full)  # two halves
    assert found.of(config) == pytest.approx(full)  # for a budget, a trial may need all its epochs
    assert found.of(config, done=5) == pytest.approx(full / 2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("90min", 5400), ("1h30m", 5400), ("1 h 30 m", 5400), ("3:00:00", 10800), ("45S", 45)]
    + [("0:01:30", 90), ("1.5h", 5400), ("1d", 86400)],
)
def test_durations_are_read(text, seconds):
    assert budget.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "2h!", "-2h", "0s", "3:00", "3:00:99", "two hours"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UserError, match=re.escape(f"got {text!r}")):
        budget.seconds_of(text)


def test_a_budget_has_time_for_what_ends_within_it(clock):
    given = budget.Budget.of(100)
    assert given.fits(90, first=False)
    clock.seconds += 20
    assert not given.fits(90, first=False)
    assert not given.fits(1, first=False)  # in order: a shorter trial does not go before the one that waits
    part = budget.Budget.of(100).part(0.5)
    assert part.fits(90, first=True)  # so that each phase has a result
    assert not part.fits(90, first=False)
    assert budget.Budget.of(math.inf).fits(1e9, first=False)
    assert not budget.Budget.of(100).part(0.0).fits(0.1, first=True)


def supervise(tmp_path, content, *, seconds, clock, each):
    """A supervisor with a budget, whose trials take `each` seconds."""

    def behave(worker, message):
        if "trial" in message:
            clock.seconds += each
        return says_where(worker, message)

    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, content))
    given = budget.Budget.of(seconds)
    return Supervisor(trials, PretendedPool(behave), stop=Stop(), shared={}, budget=given), trials, given


def test_no_trial_starts_that_would_not_end_within_the_budget_and_the_same_command_goes_on(
    tmp_path, clock, monkeypatch, capsys
):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.0)
    begun = clock.seconds
    made, trials, given = supervise(tmp_path, tuning(), seconds=250, clock=clock, each=97)
    made.run()
    assert states(trials) == ["COMPLETE"] * 2
    assert clock.seconds - begun == 2 * 97
    assert given.sentence(2, 4) == (
        "2 of 4 trials are left out: the next one, which takes about 1.6 min, would not end within the budget of "
        "4.2 min; the same command continues with them"
    )
    made, trials, given = supervise(tmp_path, tuning(), seconds=1000, clock=clock, each=97)
    made.run()
    assert states(trials) == ["COMPLETE"] * 4
    assert not given.spent
    assert capsys.readouterr().err.count("cost: ") == 2


def test_measured_trials_correct_the_estimate_that_a_budget_goes_by(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.0)
    made, trials, _ = supervise(tmp_path, tuning(), seconds=250, clock=clock, each=200)
    made.run()
    assert states(trials) == ["COMPLETE"]  # by the table alone, a second one would have started


def test_a_trial_that_does_not_fit_is_neither_created_nor_taken_over(tmp_path):
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, tuning()))
    asked = []
    assert trials.claim([], fits=lambda config, done: asked.append((config["lr"], done))) is None
    assert trials.all() == []
    first = sweeps.opened(tmp_path, trials.search, me=sweeps.somebody()).claim([])
    assert asked == [(first.config["lr"], 0)]
    assert trials.claim([], fits=lambda config, done: False) is None
    assert trials.claim([]).number == first.number


def test_what_a_budget_leaves_out_is_in_the_outcome(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.0)
    planned = sweeps.planned(tmp_path, tuning())
    pool = PretendedPool(says_where)
    url = storage.address("", str(tmp_path))
    outcome = local.run(planned, url=url, pool=pool, budget=budget.Budget.of(50))
    assert (outcome.trials, outcome.stopped_by) == ([], "")
    assert outcome.left_out.startswith("4 of 4 trials are left out: the next one, which takes about 1.6 min, would not")
    assert local.run(planned, url=url, pool=pool, budget=budget.Budget.of(1e6)).left_out == ""
