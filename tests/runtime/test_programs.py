"""The cache of compiled programs under many processes: each is compiled once, whoever dies and whatever lock is missing."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import time

import pytest

from ctkeras.runtime import lease, locks, mounts, programs

FORK = multiprocessing.get_context("fork")
PROCESSES = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)


def compile_as_jax(folder, number, start, *, once=True, dies=False):
    """Asks the cache, compiles what it lacks, and puts it there, as JAX does; slowly, as on a busy server."""
    sys.stderr = open(folder / f"{number}.err", "w", buffering=1)  # noqa: SIM115 - until the process ends
    cache = programs.Cache(folder / "cache/jax")
    start.wait(60)  # for all others
    if once:
        with programs.built_once("the training step"):
            content = _compiled(cache, folder, dies=dies)
    else:
        content = _compiled(cache, folder, dies=dies)
    (folder / f"{number}.loaded").write_bytes(content)


def _compiled(cache, folder, *, dies):
    content = cache.get("key")
    if content is None:
        (folder / f"{os.getpid()}.builds").touch()
        first = len(list(folder.glob("*.builds"))) == 1
        time.sleep(60 if dies and first else 0.5)
        content = b"program" * 1000
        cache.put("key", content)
    return content


def without_flock(number):
    """A stand-in for flock on a file system that has none."""

    def fails(*_):
        raise OSError(number, os.strerror(number))

    return fails


@pytest.mark.parametrize(
    ("place", "killed"),
    [
        pytest.param("local", 0, marks=pytest.mark.slow),
        ("local", 1),
        pytest.param("nfs4", 1, marks=pytest.mark.slow),
        pytest.param("error 38", 1, marks=pytest.mark.slow),
        pytest.param("no locks", 0, marks=pytest.mark.slow),
    ],
)
def test_sixteen_processes_compile_a_program_once(tmp_path, monkeypatch, place, killed):
    if place == "nfs4":
        (tmp_path / "mounts").write_text(f"server:/x {tmp_path} nfs4 rw 0 0\n")
        monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    elif place != "local":
        monkeypatch.setattr(fcntl, "flock", without_flock(38 if place == "error 38" else errno.ENOLCK))
    start = FORK.Barrier(PROCESSES)
    running = [
        FORK.Process(target=compile_as_jax, args=(tmp_path, number, start), kwargs={"dies": bool(killed)})
        for number in range(PROCESSES)
    ]
    for one in running:
        one.start()
    if killed:
        while not (builders := list(tmp_path.glob("*.builds"))):
            time.sleep(0.01)
        os.kill(int(builders[0].stem), signal.SIGKILL)
    for one in running:
        one.join(60)
    assert sorted(one.exitcode for one in running) == [-signal.SIGKILL] * killed + [0] * (PROCESSES - killed)
    assert len(list(tmp_path.glob("*.builds"))) == 1 + killed
    assert {path.read_bytes() for path in tmp_path.glob("*.loaded")} == {b"program" * 1000}
    said = [path.read_text() for path in tmp_path.glob("*.err")]
    waited = [text for text in said if "Waiting for another process that compiles the training step (process " in text]
    assert len(waited) >= PROCESSES // 2  # on a busy machine some begin late and find it compiled


def test_without_a_turn_each_compiles(tmp_path):
    """What the test above would count if nothing made processes wait."""
    start = FORK.Barrier(4)
    running = [FORK.Process(target=compile_as_jax, args=(tmp_path, n, start), kwargs={"once": False}) for n in range(4)]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
    assert len(list(tmp_path.glob("*.builds"))) == 4


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_a_stopped_builder_does_not_hold_up_the_others(tmp_path, monkeypatch, kind):
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(programs, "PATIENCE", 0.5)
    (tmp_path / "cache/jax").mkdir(parents=True)
    ready = FORK.Event()

    def stand_still():
        with locks.hold(tmp_path / "cache/jax/key.lock"):
            ready.set()
            time.sleep(100)

    builder = FORK.Process(target=stand_still)
    builder.start()
    assert ready.wait(20)
    begun = time.monotonic()
    with programs.built_once("the training step"):
        assert programs.Cache(tmp_path / "cache/jax").get("key") is None
    assert 0.5 < time.monotonic() - begun < 5
    builder.kill()
    builder.join(10)


def test_a_failed_compilation_lets_the_next_process_compile(tmp_path):
    cache = programs.Cache(tmp_path)
    with contextlib.suppress(MemoryError), programs.built_once("the training step"):
        assert cache.get("key") is None
        raise MemoryError
    with locks.hold(tmp_path / "key.lock", patience=0):
        pass
    with locks.hold(tmp_path / "key.lock"), pytest.raises(lease.Busy), locks.hold(tmp_path / "key.lock", patience=0):
        pass


def test_the_folder_stays_small_and_what_is_used_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAX_BYTES", 3000)
    monkeypatch.setattr(programs, "CHECK_BYTES", 0)
    cache = programs.Cache(tmp_path)
    for number in range(5):
        cache.put(f"key{number}", bytes(900))
        os.utime(next(tmp_path.glob(f"key{number}-*")), (number, number))
        if number > 1:
            assert cache.get("key1") is not None  # and is the most recently used
    kept = {path.name.partition("-")[0] for path in tmp_path.glob("*-cache")}
    assert "key1" in kept and "key4" in kept and "key0" not in kept


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").touch()
    cache = programs.Cache(tmp_path / "file/jax")
    with programs.built_once("the training step"):
        assert cache.get("key") is None
        cache.put("key", b"program")
