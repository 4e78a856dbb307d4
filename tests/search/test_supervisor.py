"""The supervisor with workers that are pretended: what it hands out, records, retries, stops, and says."""

import pathlib
import signal

import pytest
import sweeps
from pretended import PLAIN, PretendedPool, trained, works

from ctkeras.errors import UserError
from ctkeras.runs import folder
from ctkeras.runs.checkpoint import TRAINED
from ctkeras.search import heartbeat, supervisor
from ctkeras.search.supervisor import Supervisor
from ctkeras.training.stopping import Stop


def keeps(worker, message):
    """Each trial keeps its trained weights, and a model is exported on request."""
    if "export" in message:
        pathlib.Path(message["export"], "model.keras").touch()
        return [{"exported": ""}]
    if "trial" in message:
        folder = pathlib.Path(message["trial"]["config"]["output_dir"], message["trial"]["run_id"])
        folder.mkdir(exist_ok=True)
        (folder / TRAINED).touch()
    return works(worker, message)


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    """A supervisor over a new storage, with what is given."""
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "KILLED_TOGETHER_SECONDS", 0.0)

    def make(behave=works, *, count=1, content=None, stop=None):
        content = content or sweeps.sweep(run_cap=3, **PLAIN)
        trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, content))
        pool = PretendedPool(behave, count=count)
        return Supervisor(trials, pool, stop=stop or Stop(), shared={"data": "shared"}), trials, pool

    return make


def states(trials):
    return [trial.state.name for trial in trials.all()]


def test_of_a_search_the_best_trials_model_is_exported(supervise, tmp_path):
    made, trials, _ = supervise(keeps)
    made.run()
    best = max(trials.all(), key=lambda trial: trial.value)
    assert [path.parent.name for path in tmp_path.glob("*/model.keras")] == [best.user_attrs["run"]]
    (tmp_path / best.user_attrs["run"] / "model.keras").unlink()  # as if it had been killed before
    supervise(keeps)[0].run()
    assert (tmp_path / best.user_attrs["run"] / "model.keras").exists()


def test_a_failed_export_does_not_fail_the_search(supervise, capsys):
    def full(worker, message):
        return [{"exported": "OSError: disk full"}] if "export" in message else keeps(worker, message)

    made, trials, _ = supervise(full)
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    assert "disk full" in (told := capsys.readouterr().err)
    assert "python -m ctkeras export " in told


def test_every_trial_is_handed_out_once_and_recorded(supervise, capsys):
    made, trials, pool = supervise(count=2)
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    for trial in trials.all():
        assert len(trial.intermediate_values) == 6
        assert (trial.user_attrs["epochs"], trial.user_attrs["seconds"]) == (6, 1.0)
    assert pool.all[0].sent[0] == {"prepare": {"data": "shared"}}
    sent = sorted(m["trial"]["run_id"] for worker in pool.all for m in worker.sent if "trial" in m)
    name = trials.search.name
    assert sent == [f"{name}-{number:03d}" for number in range(3)]
    assert len(pool.all) == 2
    said = capsys.readouterr().err
    assert said.count("tiny 3/3: trial ") == 1
    assert f"{name}: 3 trials; trials in sqlite:///" in said
    again, *_ = supervise()
    again.run()  # all have ended: nobody is started and nothing is said
    assert again.pool.all == []
    assert capsys.readouterr().err == ""


def test_a_search_that_was_begun_says_how_far_it_is(supervise, capsys):
    first, trials, _ = supervise(content=sweeps.sweep(run_cap=1, **PLAIN))
    first.run()
    capsys.readouterr()
    second, trials, _ = supervise()
    second.run()
    assert states(trials) == ["COMPLETE"] * 3
    assert "3 trials (1 done);" in capsys.readouterr().err.splitlines()[0]


def test_what_cannot_be_readied_ends_the_search_before_its_first_trial(supervise):
    made, trials, _ = supervise(lambda worker, message: [{"refused": "no weights"}])
    with pytest.raises(UserError, match="no weights"):
        made.run()
    assert trials.all() == []


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_a_worker_that_dies_or_hangs_while_it_prepares_is_replaced_twice(supervise, capsys, how):
    def fails(worker, message, times):
        if "prepare" in message and len(pool.all) <= times:
            setattr(worker, how, "the worker was lost")
            return []
        return works(worker, message)

    made, trials, pool = supervise(lambda worker, message: fails(worker, message, 2))
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    assert len(pool.all) == 3
    assert "preparing data and weights: the worker was lost; trying once more" in capsys.readouterr().err
    made, trials, pool = supervise(
        lambda worker, message: fails(worker, message, 3), content=sweeps.sweep(run_cap=5, **PLAIN)
    )
    with pytest.raises(UserError, match="3 workers failed at it: the worker was lost"):
        made.run()


def test_failed_trials_end_the_search_only_when_there_are_five_and_no_other(supervise, capsys):
    def fails(worker, message, good):
        if "trial" in message and int(message["trial"]["run_id"][-3:]) != good:
            return [{"failed": "the loss is not finite"}]
        return works(worker, message)

    content = sweeps.sweep(run_cap=9, **PLAIN)
    made, trials, pool = supervise(lambda *both: fails(*both, good=4), content=content)
    made.run()
    assert states(trials) == ["FAIL"] * 4 + ["COMPLETE"] + ["FAIL"] * 4
    assert trials.all()[0].user_attrs["failure"] == "the loss is not finite"
    assert len(pool.all) == 1
    other = sweeps.sweep(run_cap=9, weight_decay=0.5, **PLAIN)
    made, trials, _ = supervise(lambda *both: fails(*both, good=5), content=other)
    with pytest.raises(UserError, match=r"5 trials failed .*the loss is not finite"):
        made.run()
    assert states(trials) == ["FAIL"] * 5


def test_a_worker_that_a_trial_has_spoilt_is_replaced(supervise):
    def spoils(worker, message):
        if "trial" in message and message["trial"]["run_id"].endswith("000"):
            return [{"failed": "MemoryError", "spoilt": True}]
        return works(worker, message)

    made, trials, pool = supervise(spoils)
    made.run()
    assert states(trials) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert len(pool.all) == 2


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_a_trial_whose_worker_is_lost_is_run_once_more_and_then_fails(supervise, capsys, how):
    def loses(worker, message, times):
        run_id = message.get("trial", {}).get("run_id", "")
        if run_id.endswith("001") and sum(run_id == id for id in handed) < times:
            handed.append(run_id)
            setattr(worker, how, "the worker was lost")
            return []
        return works(worker, message)

    for times, expected in ((1, ["COMPLETE"] * 3), (2, ["COMPLETE", "FAIL", "COMPLETE"])):
        handed = []
        content = sweeps.sweep(run_cap=3, max_epochs=6, seed=times, **PLAIN)
        made, trials, pool = supervise(lambda *both, times=times: loses(*both, times), content=content)
        made.run()
        assert states(trials) == expected
        assert trials.all()[1].user_attrs["tries"] == 1
        assert len(pool.all) == 1 + times
        said = capsys.readouterr().err
        assert said.count("trial 1: the worker was lost; running it once more, from its last checkpoint") == 1
    assert trials.all()[1].user_attrs["failure"] == "its worker died 2 times; the last time: the worker was lost"


def test_what_a_worker_said_before_its_death_counts(supervise):
    def finishes_and_dies(worker, message):
        if "trial" in message:
            worker.dead, worker.process.returncode = "the worker was killed", -signal.SIGKILL
        return works(worker, message)

    made, trials, _ = supervise(finishes_and_dies)
    made.pool.wait = lambda seconds: None
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    assert not any("tries" in trial.user_attrs for trial in trials.all())


def test_a_stop_gives_trials_in_hand_back(supervise, capsys):
    stop = Stop()

    def stops(worker, message):
        if "trial" in message:
            return trained(message["trial"])[:1]
        if "stop" in message:
            return [{"done": {"stopped_by": message["stop"], "epochs": 6}}]
        return works(worker, message)

    made, trials, pool = supervise(stops, count=2, stop=stop)
    pool.meanwhile = lambda: stop.ask("sigint") if len(trials.all()) == 2 else None
    made.run()
    assert states(trials) == ["RUNNING"] * 2
    assert [trial.user_attrs["owner"] for trial in trials.all()] == [None, None]
    assert all(worker.sent[-1] == {"stop": "sigint"} for worker in pool.all)
    assert pool.workers == [None, None]
    assert "sigint: stopping trials 0, 1; run the same command to resume" in capsys.readouterr().err


def test_a_worker_that_ignores_a_stop_is_ended_and_its_trial_given_back(supervise, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.0)
    stop = Stop()
    made, trials, pool = supervise(lambda worker, message: [{"ready": True}] if "prepare" in message else [], stop=stop)
    pool.meanwhile = lambda: stop.ask("sigterm") if trials.all() else None
    made.run()
    assert states(trials) == ["RUNNING"]
    assert trials.all()[0].user_attrs["owner"] is None
    assert pool.workers == [None]


def test_a_stop_waits_for_workers_that_live_and_not_for_those_that_have_ended(supervise, monkeypatch):
    """One finishes its trial some rounds after the request; the other's process ends without another word."""
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 1e9)
    stop, rounds = Stop(), []

    def ends(worker, message):
        if "trial" in message:
            worker.trial = message["trial"]
            return []
        if "stop" in message and worker.trial["run_id"].endswith("001"):
            worker.process.returncode = 0
        return works(worker, message) if "prepare" in message else []

    made, trials, pool = supervise(ends, count=2, stop=stop)

    def meanwhile():
        if len(trials.all()) == 2:
            stop.ask("sigint")
            rounds.append(True)
        if len(rounds) == 5:
            pool.all[0].said += trained(pool.all[0].trial)

    pool.meanwhile = meanwhile
    made.run()
    assert states(trials) == ["COMPLETE", "RUNNING"]
    assert trials.all()[1].user_attrs["owner"] is None


@pytest.mark.parametrize(("code", "waits"), [(-signal.SIGKILL, True), (-signal.SIGTERM, True), (1, False)])
def test_a_worker_killed_just_before_its_supervisor_has_not_crashed(supervise, monkeypatch, code, waits):
    """The signal that ended the worker reaches the supervisor a moment later, while it waits for it."""
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.0)
    stop = Stop()
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: stop.ask("sigterm"))

    def dies(worker, message):
        if "trial" in message and len(pool.all) == 1:
            worker.dead, worker.process.returncode = "the worker was killed", code
            return []
        return works(worker, message)

    made, trials, pool = supervise(dies, stop=stop)
    made.run()
    assert ("tries" in trials.all()[0].user_attrs) == (not waits)
    assert states(trials) == (["RUNNING"] if waits else ["COMPLETE"] * 3)


def test_a_run_that_had_finished_is_recorded_and_a_value_out_of_range_fails(supervise, tmp_path):
    found = sweeps.planned(tmp_path, sweeps.sweep(run_cap=3, **PLAIN))
    gone = sweeps.opened(tmp_path, found, me=sweeps.somebody())
    job = gone.claim([])
    folder.write_json(
        job.folder / "metrics.json",
        {"val_acc": 0.5, "val_loss": 1.0, "epochs": 3, "best_epoch": 3, "stopped_by": "max_epochs"},
    )
    made, trials, pool = supervise()
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    assert trials.all()[0].value == 0.5
    assert not any(job.run_id == m["trial"]["run_id"] for w in pool.all for m in w.sent if "trial" in m)
    content = sweeps.sweep(run_cap=2, dropout={"distribution": "normal", "mu": 1.2, "sigma": 0.1}, **PLAIN)
    made, trials, pool = supervise(content=content)
    made.run()
    assert states(trials) == ["FAIL"] * 2
    assert not any("trial" in m for w in pool.all for m in w.sent)


def test_a_trial_that_somebody_began_is_resumed_and_said_to_be(supervise, tmp_path, capsys):
    found = sweeps.planned(tmp_path, sweeps.sweep(run_cap=3, **PLAIN))
    sweeps.opened(tmp_path, found, me=sweeps.somebody()).claim([])
    made, trials, _ = supervise()
    made.run()
    assert states(trials) == ["COMPLETE"] * 3
    said = capsys.readouterr().err
    assert said.count("resuming trial 0, which was started earlier") == 1
    assert "resuming trial 1" not in said


def test_a_losing_trial_is_told_to_stop_where_it_asks(supervise):
    """Trial 0 sets the mark; each later one asks after its second and fourth epoch."""

    def asks(worker, message):
        if "trial" in message:
            worker.trial, worker.at = message["trial"], 0
            return _until_asked(worker)
        if "go_on" in message and not message["go_on"]:
            metrics = trained(worker.trial, epochs=worker.at)[1]["done"]
            return [{"done": metrics | {"stopped_by": "hyperband"}}]
        return _until_asked(worker) if "go_on" in message else works(worker, message)

    def _until_asked(worker):
        rows, done = trained(worker.trial)
        begun, worker.at = worker.at, next((n for n in worker.trial["asks"] if n > worker.at), 6)
        messages = [{"epochs": rows["epochs"][begun : worker.at]}]
        return messages + ([done] if worker.at == 6 else [])

    lr = {"values": [0.01, 0.02, 0.5, 0.9]}
    made, trials, _ = supervise(asks, content=sweeps.sweep(method="random", run_cap=10, lr=lr, dropout=0.2))
    made.run()
    pruned = [trial for trial in trials.all() if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.params["lr"] >= 0.5 for trial in pruned)
    assert all(len(trial.intermediate_values) == trial.user_attrs["epochs"] in (2, 4) for trial in pruned)


def test_a_trial_that_another_process_has_taken_is_let_go(supervise, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", -1.0)

    def waits(worker, message):
        first = message.get("trial", {}).get("run_id", "").endswith("000") and len(pool.all) == 1
        return [] if first else works(worker, message)

    made, trials, pool = supervise(waits)
    other = sweeps.opened(tmp_path, trials.search, me=sweeps.somebody(alive=True))

    def taken():
        if len(trials.all()) == 1 and trials._mine(made.jobs[0]):
            other._set(made.jobs[0].trial_id, owner=other.me.to_dict())
            other.jobs = made.jobs[0]
        elif states(trials).count("COMPLETE") == 2 and states(trials)[0] == "RUNNING":
            sweeps.pretend(other, other.jobs)

    pool.meanwhile = taken
    made.run()
    said = capsys.readouterr().err
    assert "trial 0 was taken over by another process" in said
    assert "waiting for trials that other processes run, at most 1" in said
    assert states(trials) == ["COMPLETE"] * 3
    assert len(pool.all) == 2
    assert trials.all()[0].user_attrs["owner"]["token"] == other.me.token


def test_beats_show_that_the_holder_lives(supervise, monkeypatch):
    def waits(worker, message):
        return [] if "trial" in message else works(worker, message)

    stop = Stop()
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.0)
    made, trials, pool = supervise(waits, stop=stop)
    beats = []

    def look():
        beats.extend(trial.user_attrs.get("beat") for trial in trials.all())
        if len(beats) == 3:
            stop.ask("sigint")

    pool.meanwhile = look
    made.run()
    assert beats[0] is None
    assert beats[1] is not None
    assert beats[2] == beats[1]  # not in every round


def test_notes_are_shown_once_and_an_epochs_line_is_not(supervise, capsys):
    def talks(worker, message):
        notes = ["Data: 48 images", "epoch   1/6", "  a detail", "", "Compiling …"]
        return [*({"note": text} for text in notes), *works(worker, message)]

    made, *_ = supervise(talks)
    made.run()
    said = capsys.readouterr().err
    assert said.count("Data: 48 images") == 1
    assert said.count("Compiling …") == 1  # there is no live line, and the first trial waits
    assert "epoch   1/6" not in said
    assert "a detail" not in said
