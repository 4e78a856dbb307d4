"""The real wandb client against the test server: if these hold, the other tests may trust it."""

import base64
import json
import subprocess
import sys
import time
import urllib.request

import pytest
from wandb_server import WandbServer, sampler
from wandb_server.handler import API_KEY

pytestmark = pytest.mark.integration

TIMEOUT = 90  # seconds for one child; the slowest takes about 25 on two cores

LOG_ROWS = """
import time, wandb
with wandb.init(project="p", config={"lr": 0.1, "net": {"width": 8}}, group="g", job_type="train") as run:
    print("hello")
    for epoch in range(6):
        run.log({"val_acc": epoch / 10, "epoch": epoch})
        time.sleep(0.5)  # several posts of the file stream, not one
    run.summary["best_val_acc"] = 0.5
"""

# A trainer that turns SIGTERM into a clean end, as ctkeras does.
TRAIN = """
import signal, sys, time, wandb
stop = []
signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
run = wandb.init()
for epoch in range(run.config["epochs"]):
    run.log({"val_acc": run.config["quality"], "epoch": epoch})
    if stop:
        break
    time.sleep(0.2)
run.summary["stopped_by"] = stop[0] if stop else 0
run.finish()
"""


@pytest.fixture
def server():
    with WandbServer(seed=3) as running:
        yield running
        assert running.unknown == []


@pytest.fixture
def child(server, tmp_path):
    return Child(server.env(tmp_path), tmp_path)


class Child:
    """Runs commands in a folder with the server's environment."""

    def __init__(self, env, folder):
        self.env = env
        self.folder = folder

    def command(self, *words, **env):
        done = subprocess.run(
            words,
            env={**self.env, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *words, **env):
        return subprocess.Popen(words, env={**self.env, **env}, cwd=self.folder)

    def python(self, code, **env):
        return self.command(sys.executable, "-c", code, **env)

    def read(self, code):
        """Runs code against the public API and returns what it leaves in `found`."""
        code = f"import json, wandb\napi = wandb.Api()\n{code}\nprint('FOUND' + json.dumps(found))"
        line = next(line for line in self.python(code).splitlines() if line.startswith("FOUND"))
        return json.loads(line.removeprefix("FOUND"))

    def wandb(self, *words):
        return self.command(sys.executable, "-m", "wandb", *words)

    def sweep(self, server, config, train=TRAIN):
        """Makes a sweep from a file with the real command and returns it."""
        (self.folder / "train.py").write_text(train)
        config = {"program": "train.py", "command": ["${env}", "python", "${program}"], **config}
        (self.folder / "sweep.yaml").write_text(json.dumps(config))  # JSON is YAML
        printed = self.wandb("sweep", "--project", "p", "sweep.yaml")
        sweep = list(server.sweeps.values())[-1]
        assert f"wandb agent tester/p/{sweep.name}" in printed
        return sweep


def _rows(run):
    return [(row["_step"], row["epoch"], row["val_acc"]) for row in run.history]


def _wait(condition):
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


EXPECTED_ROWS = [(epoch, epoch, epoch / 10) for epoch in range(6)]


def test_run_arrives_whole(server, child):
    child.python(LOG_ROWS)
    (run,) = server.runs.values()
    assert _rows(run) == EXPECTED_ROWS
    assert run.config == {"lr": 0.1, "net": {"width": 8}}
    assert run.summary["best_val_acc"] == 0.5
    assert (run.state, run.exitcode, run.group, run.job_type) == ("finished", 0, "g", "train")
    assert run.output == "hello\n"
    assert b"lr:" in run.files["config.yaml"]


def test_failing_run_reads_failed(server, child):
    child.python("import wandb\nwandb.init(project='p').finish(exit_code=3)")
    (run,) = server.runs.values()
    assert (run.state, run.exitcode) == ("failed", 3)


@pytest.mark.parametrize(
    "order_faults",
    [
        lambda server: server.fail_next(2, path_contains="file_stream"),
        lambda server: server.drop_next(2, path_contains="file_stream", handled=True),
        lambda server: server.drop_next(2, path_contains="file_stream"),
    ],
    ids=["500", "lost answer", "lost request"],
)
def test_faults_lose_no_row_and_double_none(server, child, order_faults):
    with child.start(sys.executable, "-c", LOG_ROWS, WANDB__FILE_STREAM_RETRY_WAIT_MIN_SECONDS="1") as process:
        _wait(lambda: any(run.history for run in server.runs.values()))
        (run,) = server.runs.values()
        assert len(run.history) < len(EXPECTED_ROWS), "the faults would come too late"
        order_faults(server)
        assert process.wait(TIMEOUT) == 0
    assert _rows(run) == EXPECTED_ROWS
    assert run.state == "finished"
    assert server.faults_left == 0


def test_agent_runs_a_grid_to_its_end(server, child):
    values = {"quality": {"values": [0.5, 0.7]}, "epochs": {"value": 2}}
    metric = {"name": "val_acc", "goal": "maximize"}
    sweep = child.sweep(server, {"method": "grid", "metric": metric, "parameters": values})
    child.wandb("agent", f"tester/p/{sweep.name}")
    runs = list(server.runs.values())
    assert [run.config for run in runs] == [{"quality": q, "epochs": 2} for q in (0.5, 0.7)]
    assert [run.state for run in runs] == ["finished", "finished"]
    assert [[row["val_acc"] for row in run.history] for run in runs] == [[0.5] * 2, [0.7] * 2]
    assert {run.sweep for run in runs} == {sweep.name}
    assert sweep.state == "FINISHED"

    found = child.read(
        f"sweep = api.sweep('tester/p/{sweep.name}')\n"
        "found = [sweep.state, sweep.expected_run_count, sweep.best_run().config, sweep.best_run().id,"
        " [run.id for run in sweep.runs], [run.summary['val_acc'] for run in sweep.runs]]"
    )
    names = [run.name for run in runs]
    assert found == ["FINISHED", 2, runs[1].config, names[1], names, [0.5, 0.7]]


def test_hyperband_terminates_the_worse_run(server, child):
    config = {
        "method": "grid",
        "metric": {"name": "val_acc", "goal": "maximize"},
        # The first run has nobody to be compared with, and three epochs; the second would take a minute.
        "parameters": {"run": {"values": [{"quality": 0.9, "epochs": 3}, {"quality": 0.1, "epochs": 300}]}},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
    }
    train = TRAIN.replace("run.config[", "run.config['run'][")
    sweep = child.sweep(server, config, train)
    child.wandb("agent", "--count", "2", f"tester/p/{sweep.name}")
    better, worse = server.runs.values()
    assert (len(better.history), better.summary["stopped_by"]) == (3, 0)
    assert 2 <= len(worse.history) < 300
    assert (worse.summary["stopped_by"], worse.state) == (15, "finished")


def test_stop_reaches_an_agents_run(server, child):
    parameters = {"quality": {"value": 0.5}, "epochs": {"value": 300}}
    sweep = child.sweep(server, {"method": "random", "run_cap": 1, "parameters": parameters})
    with child.start(sys.executable, "-m", "wandb", "agent", f"tester/p/{sweep.name}") as agent:
        _wait(lambda: any(len(run.history) > 2 for run in server.runs.values()))
        (run,) = server.runs.values()
        server.stop_run(run.name)
        assert agent.wait(TIMEOUT) == 0
    assert (run.summary["stopped_by"], run.state) == (15, "finished")
    assert len(run.history) < 300


def test_run_that_dies_silently_reads_crashed(server, child):
    train = "import os, wandb\nwandb.init().log({'a': 1})\nos._exit(1)"
    sweep = child.sweep(server, {"method": "grid", "parameters": {"a": {"value": 1}}}, train)
    child.wandb("agent", f"tester/p/{sweep.name}")
    (run,) = server.runs.values()
    assert (run.state, run.exitcode) == ("crashed", None)


def test_stop_reaches_a_run_without_agent(server, child):
    code = LOG_ROWS.replace("range(6)", "range(600)")
    with child.start(sys.executable, "-c", code) as process:
        _wait(lambda: any(run.history for run in server.runs.values()))
        (run,) = server.runs.values()
        server.stop_run(run.name)
        assert process.wait(TIMEOUT) != 0
    assert len(run.history) < 600
    assert run.exitcode != 0


def test_artifact_comes_back_equal(server, child):
    (child.folder / "model.bin").write_bytes(bytes(range(256)) * 400)
    child.python("""
import wandb
for text in ("one", "two"):
    with wandb.init(project="p", id="run-" + text) as run:
        artifact = wandb.Artifact("model", "model", metadata={"text": text})
        artifact.add_file("model.bin", name="deep/model.bin")
        with artifact.new_file("note.txt") as file:
            file.write(text)
        run.log_artifact(artifact, aliases=["best"]).wait()
with wandb.init(project="p", id="run-use") as run:
    run.use_artifact("model:latest")
""")
    assert list(server.artifacts) == ["model:v0", "model:v1"]
    assert server.artifacts["model:v1"].files["note.txt"] == b"two"
    found = child.read("""
import pathlib
artifact = api.artifact("tester/p/model:latest")
folder = pathlib.Path(artifact.download("down"))
first = api.artifact("tester/p/model:v0")
found = {
    "files": {str(p.relative_to(folder)): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file()},
    "version": [artifact.version, sorted(artifact.aliases), artifact.metadata, first.aliases],
    "logged": [a.name for a in api.run("tester/p/run-one").logged_artifacts()],
    "used": [a.name for a in api.run("tester/p/run-use").used_artifacts()],
    "by": [artifact.logged_by().id, [run.id for run in artifact.used_by()]],
    "all": [a.name for a in api.artifacts("model", "tester/p/model")],
}""")
    model = (child.folder / "model.bin").read_bytes()
    assert found == {
        "files": {"note.txt": b"two".hex(), "deep/model.bin": model.hex()},
        "version": ["v1", ["best", "latest"], {"text": "two"}, []],
        "logged": ["model:v0"],
        "used": ["model:v1"],
        "by": ["run-two", ["run-use"]],
        "all": ["model:v1", "model:v0"],
    }


def test_offline_run_lands_with_sync(server, child):
    child.python(LOG_ROWS, WANDB_MODE="offline")
    assert server.runs == {}
    (folder,) = child.folder.glob("runs/wandb/offline-run-*")
    child.wandb("sync", str(folder))
    (run,) = server.runs.values()
    assert _rows(run) == EXPECTED_ROWS
    assert (run.state, run.exitcode, run.config["lr"]) == ("finished", 0, 0.1)


def test_resumed_run_goes_on_where_it_was(server, child):
    code = "import wandb\nwith wandb.init(project='p', id='a', resume='allow') as run:\n"
    child.python(code + "    run.log({'x': 1}); run.log({'x': 2})")
    child.python(code + "    assert run.resumed and run.starting_step == 2\n    run.log({'x': 3})")
    assert [(row["_step"], row["x"]) for row in server.runs["a"].history] == [(0, 1), (1, 2), (2, 3)]
    assert server.runs["a"].state == "finished"


def test_public_api_reads_runs_back(server, child):
    child.python("""
import wandb
for name, best in (("a", 0.2), ("b", 0.9), ("c", 0.5)):
    with wandb.init(project="p", id=name, name="run " + name, config={"k": name}, group="g") as run:
        for step in range(3):
            run.log({"val_acc": best * step / 2, "epoch": step, "loss": float("nan")})
""")
    found = child.read("""
runs = lambda **filters: api.runs("tester/p", order="-summary_metrics.val_acc", filters=filters)
run = api.run("tester/p/b")
found = {
    "sorted": [run.id for run in runs()],
    "filtered": [run.id for run in runs(**{"summary_metrics.val_acc": {"$gt": 0.4}})],
    "by config": [run.id for run in runs(**{"config.k": "a"})],
    "run": [run.name, run.state, dict(run.config), run.group, run.summary["val_acc"], run.lastHistoryStep],
    "history": run.history(pandas=False, keys=["val_acc", "epoch"]),
    "whole history": [row["epoch"] for row in run.history(pandas=False)],
    "scan": [[row["_step"], row["val_acc"]] for row in run.scan_history()],
    "scan keys": list(run.scan_history(keys=["val_acc"])),
    "not a number": run.history(pandas=False, keys=["loss"])[:1] + list(run.scan_history(keys=["loss"]))[:1],
    "files": sorted(file.name for file in run.files()),
    "file": run.file("config.yaml").download(replace=True).read(),
    "metadata": run.metadata["program"],
    "count": len(runs()),
    "page": [run.id for run in api.runs("tester/p", per_page=1)],
}
run.summary["later"] = 1
run.summary.update()
run.config["k"] = "new"
run.update()
""")
    values = [0.0, 0.45, 0.9]
    assert found["sorted"] == ["b", "c", "a"]
    assert (found["filtered"], found["by config"]) == (["b", "c"], ["a"])
    assert found["run"] == ["run b", "finished", {"k": "b"}, "g", 0.9, 2]
    assert found["history"] == [{"_step": i, "val_acc": v, "epoch": i} for i, v in enumerate(values)]
    assert found["whole history"] == [0, 1, 2]
    assert found["scan"] == [[i, v] for i, v in enumerate(values)]
    assert found["scan keys"] == [{"_step": i, "val_acc": v} for i, v in enumerate(values)]
    assert found["not a number"] == [{"_step": 0, "loss": "NaN"}] * 2
    assert found["files"] == sorted(server.runs["b"].files)
    assert found["file"].encode() == server.runs["b"].files["config.yaml"]
    assert (found["count"], found["page"]) == (3, ["a", "b", "c"])
    assert server.runs["b"].summary["later"] == 1
    assert (server.runs["b"].config, server.runs["b"].state) == ({"k": "new"}, "finished")


def test_cancelled_sweep_sends_the_agent_home(server, child):
    sweep = child.sweep(server, {"method": "random", "parameters": {"quality": {"min": 0.0, "max": 1.0}}})
    assert sweep.state == "PENDING"
    for flag, state in (("--resume", "RUNNING"), ("--cancel", "CANCELED")):
        child.wandb("sweep", flag, f"tester/p/{sweep.name}")
        assert sweep.state == state
    child.wandb("agent", f"tester/p/{sweep.name}")
    assert server.runs == {}


def test_unknown_operations_are_refused_and_remembered(server):
    reply = _post(server, "query Strange { viewer { id shoeSize } }")
    assert "shoeSize" in reply["errors"][0]["message"]
    assert "Strange" in server.unknown.pop()
    reply = _post(server, "{ viewer { ...U } __typename } fragment U on User { name: username }")
    assert reply == {"data": {"viewer": {"name": "tester"}, "__typename": "Query"}}


def _post(server, query):
    key = base64.b64encode(f"api:{API_KEY}".encode()).decode()
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{server.url}/graphql", body, {"Authorization": f"Basic {key}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def test_grid_is_in_order_and_ends():
    config = {
        "method": "grid",
        "parameters": {
            "a": {"values": [1, {"deep": 2}]},
            "b": {"parameters": {"c": {"min": 0, "max": 1}}},
        },
    }
    found = [sampler.suggest(config, index, seed=0) for index in range(5)]
    expected = [{"a": a, "b": {"c": c}} for a in (1, {"deep": 2}) for c in (0, 1)]
    assert found == [*expected, None]
    assert sampler.count({**config, "run_cap": 3}) == 3


def test_random_draws_stay_inside_and_repeat():
    parameters = {
        "int": {"min": 2, "max": 4},
        "float": {"min": 0.5, "max": 1.0},
        "log": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "q": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
        "choice": {"values": ["x", {"y": 1}], "probabilities": [0.0, 1.0]},
        "fixed": {"value": 7},
        "nested": {"parameters": {"int": {"distribution": "int_uniform", "min": 1, "max": 1}}},
    }
    config = {"method": "bayes", "parameters": parameters, "run_cap": 200}
    draws = [sampler.suggest(config, index, seed=1) for index in range(200)]
    assert draws == [sampler.suggest(config, index, seed=1) for index in range(200)]
    assert draws != [sampler.suggest(config, index, seed=2) for index in range(200)]
    assert {draw["int"] for draw in draws} == {2, 3, 4}
    assert all(0.5 <= draw["float"] <= 1.0 and 1e-5 <= draw["log"] <= 1e-1 for draw in draws)
    assert sum(draw["log"] < 1e-3 for draw in draws) > 60  # half of them, on a logarithmic scale
    assert all(abs(draw["q"] * 10 - round(draw["q"] * 10)) < 1e-9 for draw in draws)
    assert all(draw["choice"] == {"y": 1} and draw["fixed"] == 7 for draw in draws)
    assert draws[0]["nested"] == {"int": 1}
    assert sampler.suggest(config, 200, seed=1) is None


def test_hyperband_keeps_the_best_share():
    assert sampler.bands({"type": "hyperband", "min_iter": 3, "eta": 2})[:3] == [3, 6, 12]
    assert sampler.bands({"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}) == [3, 9]
    assert sampler.bands(None) == []
    assert not sampler.falls_behind(0.1, [], eta=3, maximize=True)
    assert sampler.falls_behind(0.1, [0.2], eta=3, maximize=True)
    assert not sampler.falls_behind(0.1, [0.2], eta=3, maximize=False)
    kept = [v for v in range(6) if not sampler.falls_behind(v, [o for o in range(6) if o != v], 3, True)]
    assert kept == [4, 5]
