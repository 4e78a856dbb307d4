"""Array scripts, and a real Slurm on this machine: an array of six, two requeues by a signal, the death of a node."""

import collections
import contextlib
import csv
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import click
import optuna
import pytest
import yaml
from click.core import ParameterSource
from click.testing import CliRunner
from sweeps import UNEQUAL, Command, opened, planned, pretend, sweep

from ctkeras import config
from ctkeras.cli.main import cli
from ctkeras.cli.slurm import study_slurm, sweep_slurm
from ctkeras.cli.study import study
from ctkeras.cli.sweep import agent, run
from ctkeras.runs import places
from ctkeras.runs.checkpoint import CHECKPOINT
from ctkeras.runtime import place
from ctkeras.search import journal, slurm

ROOT = pathlib.Path(__file__).parents[2]
CONF = """
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=cred_expire=15
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={work}/ctld.pid
SlurmdPidFile={work}/d.%n.pid
SlurmdSpoolDir={work}/spool.%n
StateSaveLocation={work}/state
SlurmUser=root
SlurmdUser=root
SlurmdTimeout=10
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldLogFile={work}/ctld.log
SlurmdLogFile={work}/d.%n.log
MinJobAge=300
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=3 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=3 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
JobRequeue=1
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")
# A task that takes trials as `sweep run` does, and trains nothing: SIGTERM leaves the trial to others.
TASK = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
import yaml
from sweeps import opened, planned, pretend
def stop(*_):
    if job is not None:
        trials.give_back(job)
    sys.exit(143)
job = None
signal.signal(signal.SIGTERM, stop)
trials = opened(folder, planned(folder, yaml.safe_load((folder / "sweep.yaml").read_text())), url=sys.argv[2])
(folder / f"started.{sys.argv[3]}").touch()
while not (len(trials.all()) == trials.search.total and all(t.state.is_finished() for t in trials.all())):
    job = trials.claim([])
    if job is None:
        time.sleep(0.2)
    elif job.metrics is not None:
        trials.finish(job, job.metrics)
    else:
        pretend(trials, job, before=lambda: time.sleep(0.3))
    job = None
"""


def printed(*words):
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None, result.exception
    return result.stdout


def sweep_file(folder, **options):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep(**options)))
    return str(path)


def test_the_script_of_a_sweep_is_sound_bash_and_explains_each_line(tmp_path):
    path, runs = sweep_file(tmp_path), str(tmp_path / "my runs")
    text = printed(
        "sweep", "slurm", path, "--tasks", "8", "--partition", "gpu", "--module", "cuda/12", "--output_dir", runs
    )
    lines = text.splitlines()
    for wanted in ("--array=0-7", "--signal=TERM@90", "--requeue", "--open-mode=append", "--partition=gpu"):
        number = lines.index(f"#SBATCH {wanted}")
        assert lines[number - 1].startswith("# ")
    assert "module load cuda/12" in lines
    assert f"sweep run {path} --output_dir '{runs}' --storage 'journal:{runs}/study.log'" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_script_of_a_study_passes_its_options_on(tmp_path):
    text = printed("study", "slurm", "--gpus", "0", "--budget", "0.1", "--output_dir", str(tmp_path))
    assert f"-m ctkeras study --budget 0.1 --output_dir {tmp_path} --storage journal:{tmp_path}/study.log" in text
    assert "--gpus-per-task" not in text


def test_the_script_of_wandb_agents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = printed("sweep", "slurm", "me/ctkeras/abc", "--engine", "wandb", "--count", "3")
    assert "-m ctkeras sweep agent me/ctkeras/abc --count 3" in text


def passed_on(text):
    """The words that a script's tasks give to ctkeras."""
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return shlex.split(line)[4:]  # after: srun python -m ctkeras


def example(option, folder):
    """An option with a value that is not its default."""
    name = option.opts[0]
    if option.is_flag:
        return [name]
    if isinstance(option.type, click.Choice):
        return [name, next(value for value in option.type.choices if value != option.default)]
    special = {"file": folder / "phase1.yaml", "config_file": folder / "config.yaml", "storage": "journal:here.log"}
    special |= {"trials": "3,2,1", "output_dir": folder / "runs", "data": "phantom:24"}
    numbers = {"count": 7, "workers": 2, "search_seed": 5, "patience": 31}
    allowed = config.FIELDS.get(option.name)
    value = special.get(option.name, numbers.get(option.name, allowed.default if allowed else "0.5"))
    return [name, str(value).lower() if isinstance(value, bool) else str(value)]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("verb", "command"), [("sweep", run), ("study", study)])
def test_every_option_of_the_command_reaches_the_tasks(tmp_path, verb, command, first):
    (tmp_path / "config.yaml").write_text("lr: 0.001\n")
    path = sweep_file(tmp_path)
    shutil.copy(path, tmp_path / "phase1.yaml")
    options = [one for one in command.params if isinstance(one, click.Option) and one.name != "engine"]
    words = [word for one in options for word in example(one, tmp_path)]
    assert {"--export", "--workers", "--lr"} < set(words)
    if verb == "study":
        assert {"--refit", "--fine_tune", "--budget", "--wide"} < set(words)
    file = [path] if verb == "sweep" else []
    given = [*words, *file] if first else [*file, *words]
    text = printed(verb, "slurm", "--tasks", "2", *given, "--time", "1:00")
    *prefix, rest = (["sweep", "run"], given) if verb == "sweep" else (["study"], given)
    assert passed_on(text) == [*prefix[0], *rest]
    asked = command.make_context("x", given)
    assert {one for one in asked.params if asked.get_parameter_source(one) is ParameterSource.DEFAULT} <= {"engine"}


@pytest.mark.parametrize(("own", "command"), [(sweep_slurm, run), (sweep_slurm, agent), (study_slurm, study)])
def test_no_option_of_slurm_hides_one_of_the_command(own, command):
    names = {name for one in own.params if isinstance(one, click.Option) for name in one.opts}
    assert not names & {name for one in command.params for name in one.opts}


def test_folder_and_storage_may_come_from_elsewhere_than_options(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path}/there\n")
    text = printed("study", "slurm", "--config", str(tmp_path / "config.yaml"))
    assert passed_on(text)[-1] == f"journal:{tmp_path}/there/study.log"
    assert f'#SBATCH --output="{tmp_path}/there/slurm-%A_%a.log"' in text.splitlines()
    text = printed("sweep", "slurm", sweep_file(tmp_path, output_dir=f"{tmp_path}/mine"))
    assert passed_on(text)[-1] == f"journal:{tmp_path}/mine/study.log"
    monkeypatch.setenv("CTKERAS_STORAGE", "journal:/shared/me.log")  # sbatch may be called from another shell
    assert passed_on(printed("study", "slurm", "--output_dir", str(tmp_path)))[-1] == "journal:/shared/me.log"
    monkeypatch.setenv("CTKERAS_STORAGE", "postgresql://me:secret@host/db")
    assert "secret" not in printed("study", "slurm", "--output_dir", str(tmp_path))


def test_a_study_through_wandb_is_not_an_array():
    result = CliRunner().invoke(cli, ["study", "slurm", "--engine", "wandb"], standalone_mode=False)
    assert "sweep slurm ENTITY/PROJECT/ID --engine wandb" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--batch", "8"], "No such option"),
        (["--storage", "x.db"], "cannot share SQLite"),
        (["--storage", "journal:a\nb"], "line break"),
        (["--lr", "fast"], "lr"),
    ],
)
def test_what_the_tasks_would_refuse_is_refused_before(tmp_path, words, reason):
    result = CliRunner().invoke(cli, ["sweep", "slurm", sweep_file(tmp_path), *words], standalone_mode=False)
    assert reason in str(getattr(result.exception, "message", result.exception))


def page():
    """The commands of docs/cluster.md, as words after `python -m ctkeras`."""
    text = (ROOT / "docs/cluster.md").read_text()
    lines = [
        line.strip().partition(" > ")[0] for line in text.splitlines() if line.startswith("    python -m ctkeras ")
    ]
    return [shlex.split(line)[3:] for line in lines]


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sbatch(tmp_path, monkeypatch, "cat > given.sh; echo 7")
    (tmp_path / "runs").mkdir()
    trials = opened(tmp_path / "runs", planned(tmp_path / "runs"), url="journal:runs/study.log")
    pretend(trials, trials.claim([]))
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))  # Ctrl-C after the first refresh
    done = []
    for words in page():
        if words[:1] == ["study"] and "slurm" not in words:
            continue  # trains: test_the_study_of_the_page_runs_on_two_nodes
        words = [word.replace("sweep_yaml", str(ROOT / "sweep_yaml")) for word in words]
        text = printed(*words)
        done.append(words[1])
        if "--submit" in words:
            assert text == "7\n"
            text = (tmp_path / "given.sh").read_text()
        if "slurm" in words:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif "status" in words:
            assert "1 of 6 trials ended" in text
        else:
            assert (tmp_path / text.strip()).exists()
    assert sorted(done) == ["export", "slurm", "slurm", "slurm", "status"]


def test_the_ssh_loop_of_the_page_starts_the_study_on_each_host(tmp_path):
    loop = re.search(r"^    for host in .*?^    done$", (ROOT / "docs/cluster.md").read_text(), re.S | re.M).group()
    stand_in(tmp_path, "ssh", 'shift; sh -c "$1"')
    stand_in(tmp_path, "python", 'echo "$@"')
    env = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", loop], cwd=tmp_path, env=env, check=True)
    logs = [tmp_path / f"node{number}.log" for number in (1, 2, 3)]
    wait(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), seconds=30)
    (alone,) = [words for words in page() if words[0] == "study" and "slurm" not in words]
    assert {log.read_text() for log in logs} == {shlex.join(["-m", "ctkeras", *alone]) + "\n"}


def kubernetes():
    """The Job of docs/cluster.md."""
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.S).group(1))


def test_the_kubernetes_job_of_the_page_runs_the_study_and_gives_it_time_to_stop():
    job = kubernetes()
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (alone,) = [words for words in page() if words[0] == "study" and "slurm" not in words]
    assert container["command"] + container["args"] == ["python", "-m", "ctkeras", *alone]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy requires
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["workingDir"].startswith(container["volumeMounts"][0]["mountPath"])
    (names,) = [rule["onExitCodes"]["containerName"] for rule in job["spec"]["podFailurePolicy"]["rules"][1:]]
    assert names == container["name"]


@pytest.mark.slow
def test_a_pod_that_is_evicted_leaves_a_checkpoint_and_the_next_one_finishes(tmp_path):
    pod = kubernetes()["spec"]["template"]["spec"]
    words = [word.replace("chest-ctscan-images.zip", "phantom:24") for word in pod["containers"][0]["args"]]
    words += ["--image_size", "32", "--pretrained", "false", "--models", "mobilenet_v2", "--trials", "1,1,1"]
    words += ["--max_epochs", "3000"]
    command = Command(tmp_path, PYTHONPATH=str(ROOT), WANDB_MODE="disabled", CTKERAS_CACHE_DIR=str(tmp_path / "cache"))
    evicted = command.start(*words)
    wait(lambda: list(tmp_path.glob(f"runs/*/{CHECKPOINT}")), seconds=200)
    evicted.terminate()
    assert evicted.wait(pod["terminationGracePeriodSeconds"]) in (130, 143)
    assert list(tmp_path.glob(f"runs/*/{CHECKPOINT}"))
    again = command.start(*words)
    assert again.wait(500) == 0
    starts = [len(places.read(path.parent)) for path in tmp_path.glob(f"runs/*/{places.FILE}")]
    assert max(starts) == 2  # resumed, not begun anew


@pytest.mark.slow
def test_the_study_of_the_page_runs_on_two_nodes(tmp_path):
    (words,) = [words for words in page() if words[0] == "study" and "slurm" not in words]
    tiny = ["--image_size", "32", "--pretrained", "false", "--models", "mobilenet_v2", "--trials", "2,1,4"]
    words = [word.replace("chest-ctscan-images.zip", "phantom:24") for word in words] + tiny
    command = Command(tmp_path, PYTHONPATH=str(ROOT), WANDB_MODE="disabled")
    both = [command.start(*words, log=f"{node}.log") for node in ("n1", "n2")]
    pages = [process.communicate(timeout=500)[0].strip().splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert pages[0] == pages[1]
    trials = optuna.storages.JournalStorage(journal.Journal(tmp_path / "runs/study.log"))
    owners = [
        len(one.user_attrs["places"]) for s in trials.get_all_studies() for one in trials.get_all_trials(s._study_id)
    ]
    assert set(owners) == {1}  # no trial was begun twice


def stand_in(folder, name, lines):
    """A program of a few lines in a folder's bin."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def sbatch(folder, monkeypatch, lines):
    """A stand-in for Slurm's sbatch on the path."""
    stand_in(folder, "sbatch", lines)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


def test_a_script_is_submitted_as_it_would_be_printed(tmp_path, monkeypatch):
    words = ("sweep", "slurm", sweep_file(tmp_path), "--output_dir", str(tmp_path / "runs"))
    text = printed(*words)
    sbatch(tmp_path, monkeypatch, f"cat > {tmp_path}/given.sh; [ -d {tmp_path}/runs ] && echo '123;cluster'")
    assert printed(*words, "--submit") == "123\n"
    assert (tmp_path / "given.sh").read_text() == text


def test_what_sbatch_refuses_is_one_line(tmp_path, monkeypatch):
    words = ["study", "slurm", "--partition", "none", "--output_dir", str(tmp_path / "runs"), "--submit"]
    sbatch(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition\nspecified: none' >&2; exit 1")
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert str(result.exception) == "sbatch refused the script: sbatch: error: invalid partition specified: none"
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert str(result.exception).startswith("cannot run sbatch (No such file or directory); print the script without")


def test_a_run_records_its_node_and_array_task():
    env = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "2", "SLURMD_NODENAME": "n1"}
    assert place.place(env) == {"host": "n1", "slurm_job": "10", "slurm_task": "2"}
    assert place.place({}) == {"host": socket.gethostname()}


@contextlib.contextmanager
def munge():
    """Munge's daemon, unless one runs already."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        yield
        return
    key = pathlib.Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge", "munge")
    key.chmod(0o400)
    pathlib.Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    daemon = subprocess.Popen(["munged", "--foreground"], user="munge", group="munge")
    try:
        time.sleep(1)
        yield
    finally:
        daemon.terminate()
        daemon.wait(10)


class Cluster:
    """A controller and two nodes on this machine."""

    def __init__(self, work):
        self.work = work
        for name in ("state", "spool.n1", "spool.n2"):
            (work / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        (work / "slurm.conf").write_text(CONF.format(host=host, work=work))
        self.env = os.environ | {"SLURM_CONF": str(work / "slurm.conf")}
        self.daemons = {}

    def start(self, name, *words):
        self.daemons[name] = subprocess.Popen(
            [*words, "-D"], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __call__(self, *words, check=True):
        return subprocess.run(words, env=self.env, capture_output=True, text=True, check=check).stdout.strip()

    def kill_node(self, name):
        """Kills a node's daemon and all that runs on it."""
        self.daemons[name].kill()
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                here = f"SLURM_CONF={self.work}/slurm.conf".encode()
                if here in content and f"SLURMD_NODENAME={name}\0".encode() in content:
                    os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path):
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.getuid():
        pytest.skip(f"needs root and Debian's packages slurm-wlm and munge; not found: {', '.join(missing) or 'root'}")
    work = tmp_path / "slurm"
    work.mkdir()
    with munge():
        one = Cluster(work)
        one.start("ctld", "slurmctld")
        one.start("n1", "slurmd", "-N", "n1")
        one.start("n2", "slurmd", "-N", "n2")
        try:
            wait(lambda: one("sinfo", "-h", "-o", "%D %T", check=False) == "2 idle", seconds=60)
            yield one
        finally:
            for daemon in one.daemons.values():
                daemon.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(10)
                daemon.kill()


def wait(condition, *, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.integration
def test_an_array_of_six_survives_two_requeues_and_a_dead_node(tmp_path, cluster):
    runs = tmp_path / "runs"
    runs.mkdir()
    sweep_file(runs, method="random", run_cap=40)
    (runs / "task.py").write_text(TASK)
    url = f"journal:{runs}/study.log"
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    text = slurm.script(["ctkeras"], slurm.Request(tasks=6, gpus=0, cpus=1), name="t", folder=runs, env=env)
    command = f"srun {sys.executable} {runs}/task.py {runs} {url} $SLURM_ARRAY_TASK_ID"
    text = "\n".join(command if line.startswith("srun ") else line for line in text.splitlines())
    text = text.replace("sleep 60", "sleep 5")
    (runs / "job.sh").write_text(text + "\n")
    job = cluster("sbatch", "--parsable", str(runs / "job.sh"))
    wait(lambda: len(list(runs.glob("started.*"))) >= 6, seconds=120)
    cluster("scancel", "--signal=TERM", f"{job}_0")
    cluster("scancel", "--signal=TERM", f"{job}_3")
    time.sleep(3)
    cluster.kill_node("n2")
    cluster("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    storage = optuna.storages.JournalStorage(journal.Journal(runs / "study.log"))

    def ended():
        trials = storage.get_all_trials(0)
        return len(trials) == 40 and all(trial.state.is_finished() for trial in trials)

    wait(ended, seconds=240)
    trials = storage.get_all_trials(0)
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    at = [one for trial in trials for one in trial.user_attrs["places"]]
    assert {one["host"] for one in at} == {"n1", "n2"}
    assert {one["slurm_job"] for one in at} == {job}
    for task in (0, 3):
        assert "DUE TO JOB REQUEUE" in (runs / f"slurm-{job}_{task}.log").read_text()


EPOCHS = 90  # half a minute of small_cnn with its first compilation


def rows_of(folder):
    """The epochs of a run, without times."""
    with contextlib.suppress(FileNotFoundError), open(folder / "history.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in csv.DictReader(file)]
    return []


def trained_by(runs, task):
    """The run folders that a task of the array has just trained some epochs of."""
    folders = [path.parent for path in runs.glob(f"*/{places.FILE}")]
    last = {folder: (places.read(folder) or [{}])[-1] for folder in folders}
    own = [folder for folder, entry in last.items() if entry.get("slurm_task") == task and not entry["ended"]]
    return [folder for folder in own if 5 < len(rows_of(folder)) < EPOCHS - 10]


@pytest.mark.slow
def test_a_training_that_slurm_stops_is_requeued_and_resumed_without_a_difference(tmp_path, cluster):
    content = sweep(method="random", run_cap=3, model_name="small_cnn", freeze_backbone=False, max_epochs=EPOCHS)
    content["early_terminate"]["min_iter"] = EPOCHS // 2
    command = Command(tmp_path, SLURM_CONF=cluster.env["SLURM_CONF"], PYTHONPATH=str(ROOT), WANDB_MODE="disabled")
    command.write(content)
    options = ("--tasks", "2", "--cpus", "2", "--gpus", "0", "--time", "9", "--submit")  # nodes have 3: one task each
    job = command("sweep", "slurm", "sweep.yaml", *options).stdout.strip()
    runs = tmp_path / "runs"
    wait(lambda: trained_by(runs, "0") and trained_by(runs, "1"), seconds=240)
    cluster("scancel", "--signal=STOP", f"{job}_1")  # or it would resume the trial of the other before that is requeued
    (folder,) = trained_by(runs, "0")
    signalled = time.time()
    cluster("scancel", "--signal=TERM", f"{job}_0")
    wait(lambda: places.read(folder)[-1]["ended"] == "sigterm", seconds=20)
    assert signalled < (folder / CHECKPOINT).stat().st_mtime < signalled + 20
    stopped_after = len(rows_of(folder))
    wait(lambda: len(places.read(folder)) == 2, seconds=180)
    cluster("scancel", "--signal=CONT", f"{job}_1")
    wait(lambda: not cluster("squeue", "-h", "-j", job), seconds=240)

    trials = optuna.storages.JournalStorage(journal.Journal(runs / "study.log")).get_all_trials(0)
    assert len(trials) == 3
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    lines = [json.loads(line) for line in (runs / "study.log").read_bytes().splitlines()]
    assert collections.Counter(line["trial_id"] for line in lines if line["op_code"] == 6) == {0: 1, 1: 1, 2: 1}
    for trial in trials:
        rows = rows_of(pathlib.Path(tmp_path, trial.user_attrs["folder"]))
        assert [int(row["epoch"]) for row in rows] == list(range(1, trial.user_attrs["epochs"] + 1))
    begun = [(one["slurm_task"], one.get("slurm_restarts", "0")) for one in places.read(folder)]
    assert begun == [("0", "0"), ("0", "1")]
    assert len(list(runs.glob(f"*/{places.FILE}"))) == 3
    (one,) = [trial for trial in trials if pathlib.Path(trial.user_attrs["folder"]).name == folder.name]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(one.user_attrs["config"] | {"output_dir": "alone"}))
    command("train", "--config", "alone.yaml")
    (alone,) = (tmp_path / "alone").glob("*/history.csv")
    assert len(rows_of(folder)) > stopped_after > 0
    assert rows_of(folder) == rows_of(alone.parent)[: len(rows_of(folder))]
    page = pathlib.Path(tmp_path, command("report", "runs").stdout.strip().splitlines()[-1]).read_text()
    assert "1 start after a requeue by Slurm" in page
    assert "3 runs on 2 nodes (n1, n2)" in page
