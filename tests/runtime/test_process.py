"""Flags only where they are known, files whole or not at all, locks that exclude, caches that stay bounded."""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ctkeras.errors import UserError
from ctkeras.runtime import console, files, locks, process, programs, verdict, versions, xla

OURS = verdict.CPU_FLAGS[0]


@pytest.fixture
def plugins(monkeypatch):
    """Decides which modules seem to be installed beside the real ones; none of JAX's GPU plugins at first."""
    present = set()
    real = importlib.util.find_spec

    def find_spec(name, package=None):
        if name.startswith("jax_cuda"):
            return object() if name in present else None
        return real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return present


@pytest.fixture
def verified(monkeypatch, plugins):
    monkeypatch.setattr(verdict, "installed", lambda: verdict.TESTED[0])
    return plugins


@pytest.mark.parametrize("flags", ["", "--xla_dump_to=/tmp/x", "--xla_a=1 --xla_b=2"])
def test_the_users_flags_stay_before_ours(verified, flags):
    made = xla.with_cpu_flags(flags)
    assert made.split() == [*flags.split(), *verdict.CPU_FLAGS]


def test_our_flags_are_added_once_and_the_users_value_wins(verified):
    once = xla.with_cpu_flags("--xla_a=1")
    assert xla.with_cpu_flags(once) == once
    own = OURS.partition("=")[0] + "=FUSION_TYPE_DOT"
    assert xla.with_cpu_flags(own) == own


@pytest.mark.parametrize("flags", ["", "--xla_a=1"])
def test_a_jaxlib_that_refuses_our_flag_does_not_get_it(plugins, monkeypatch, flags):
    monkeypatch.setattr(verdict, "verdict", lambda: verdict.Verdict(False, "on", "unknown flag"))
    assert xla.with_cpu_flags(flags) == flags


@pytest.mark.parametrize("plugin", ["jax_cuda12_plugin", "jax_cuda13_plugin"])
def test_a_gpu_plugin_gets_no_flag_of_ours(verified, plugin):
    verified.add(plugin)
    assert xla.with_cpu_flags("--xla_a=1") == "--xla_a=1"


def test_flags_can_be_switched_off():
    code = "import os; from ctkeras.runtime import process; process.configure(); print(os.environ.get('XLA_FLAGS'))"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for switch, expected in (("off", "None"), ("on", xla.with_cpu_flags(""))):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"CTKERAS_XLA_FLAGS": switch},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_jax_keeps_every_program_within_bounds():
    import jax

    values = jax.config.values
    assert values["jax_compilation_cache_dir"] == str(files.cache_dir("jax"))
    assert values["jax_compilation_cache_max_size"] == programs.MAX_BYTES
    assert values["jax_persistent_cache_min_compile_time_secs"] == 0
    assert values["jax_persistent_cache_min_entry_size_bytes"] == -1


def test_versions():
    assert versions.version("pytest") == pytest.__version__
    assert versions.version("no-such-package") == ""


def test_memory_is_this_process_peak_in_bytes():
    assert 50 * 2**20 < process.memory_bytes() < 2**40
    before = process.memory_bytes()
    block = bytearray(os.urandom(1)) * (before + 64 * 2**20 if before < 2**29 else 0)
    assert process.memory_bytes() >= max(before, len(block))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "here"))
    assert files.cache_dir() == tmp_path / "here"
    assert files.cache_dir("data") == tmp_path / "here/data"
    assert not (tmp_path / "here").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTKERAS_CACHE_DIR", "relative")
    assert files.cache_dir("data") == tmp_path / "relative/data"  # stays there when the process changes its folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CTKERAS_CACHE_DIR", "~/cache")
    assert files.cache_dir() == tmp_path / "home/cache"


def test_the_cache_is_else_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CTKERAS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir("data") == tmp_path / "xdg/ctkeras/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_dir().parent in (tmp_path / ".cache", tmp_path / "Library/Caches")


def test_atomic_shows_the_new_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    with files.atomic(path) as partial:
        partial.write_text("first")
        assert partial.suffix == path.suffix  # Keras saves by the ending
        assert not path.exists()
    with open(path) as reader:
        with files.atomic(path) as partial:
            partial.write_text("second")
            assert path.read_text() == "first"
        assert reader.read() == "first"  # who has begun to read goes on in the old file
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path, failure, old):
    path = tmp_path / "file.txt"
    if old:
        path.write_text("old")

    def write():
        with files.atomic(path) as partial:
            partial.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"] * old


def test_atomic_without_a_write_fails_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), files.atomic(path):
        pass
    assert path.read_text() == "old"


def test_two_threads_write_one_file_without_mixing(tmp_path):
    path, meet = tmp_path / "file.txt", threading.Barrier(2)

    def write(letter):
        with files.atomic(path) as partial:
            partial.write_text(letter * 1000)
            meet.wait(10)
            assert partial.read_text() == letter * 1000

    in_threads(lambda: write("a"), lambda: write("b"))
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def in_threads(*functions):
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert failures == []


def test_a_lock_excludes_threads(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with locks.hold(tmp_path / "deep/a.lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    in_threads(work, work, work)
    assert most == [1] * 15


def test_two_locks_do_not_wait_for_each_other(tmp_path):
    with locks.hold(tmp_path / "a.lock"):
        in_threads(lambda: locks.hold(tmp_path / "b.lock").__enter__())


def test_a_lock_excludes_processes_and_goes_with_them(tmp_path):
    path = tmp_path / "a.lock"
    code = (
        "import sys; from pathlib import Path; from ctkeras.runtime import locks\n"
        "with locks.hold(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    got = threading.Event()

    def wait():
        with locks.hold(path):
            got.set()

    try:
        assert holder.stdout.readline() == "held\n"
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        assert not got.wait(0.3)
        holder.kill()  # no chance to tidy up
        assert got.wait(10)
        waiter.join(10)
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_is_given_up_on_an_error(tmp_path):
    with contextlib.suppress(ValueError), locks.hold(tmp_path / "a.lock"):
        raise ValueError
    in_threads(lambda: locks.hold(tmp_path / "a.lock").__enter__())


def cache_of(folder, *, sizes, folders=()):
    """Entries named in the order of their last use, the first used longest ago."""
    for age, (name, size) in enumerate(sizes.items()):
        entry = folder / name
        if name in folders:
            (entry / "deep").mkdir(parents=True)
            (entry / "deep/file").write_bytes(bytes(size))
        else:
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.write_bytes(bytes(size))
        os.utime(entry, (1_000_000 + age, 1_000_000 + age))


@pytest.mark.parametrize(
    ("limit", "kept"), [(400, "abcd"), (399, "bcd"), (300, "bcd"), (299, "cd"), (100, "d"), (0, "d")]
)
def test_bound_deletes_what_was_used_longest_ago_and_no_more(tmp_path, limit, kept):
    cache_of(tmp_path, sizes=dict.fromkeys("abcd", 100), folders="bd")
    files.bound(tmp_path, limit, keep=tmp_path / "d")
    assert {entry.name for entry in tmp_path.iterdir()} == set(kept)


@pytest.mark.parametrize("limit", [250, 0])
def test_bound_never_deletes_what_it_is_to_keep(tmp_path, limit):
    cache_of(tmp_path, sizes={"a": 200, "b": 100, "c": 100})
    files.bound(tmp_path, limit, keep=tmp_path / "a")
    assert (tmp_path / "a").stat().st_size == 200
    assert {entry.name for entry in tmp_path.iterdir()} == {"a"}


def test_bound_leaves_a_held_lock_in_force(tmp_path):
    # decoded.py keeps its locks in the folder it bounds. Who opens a deleted lock anew holds another one.
    cache_of(tmp_path, sizes={"a": 100, "b": 100})
    got = threading.Event()

    def wait():
        with locks.hold(tmp_path / "a.lock"):
            got.set()

    with locks.hold(tmp_path / "a.lock"):
        os.utime(tmp_path / "a.lock", (1, 1))
        files.bound(tmp_path, 100, keep=tmp_path / "b")
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        waited = not got.wait(0.3)
    waiter.join(10)
    assert waited


def test_bytes_of_a_file_and_of_a_tree(tmp_path):
    cache_of(tmp_path, sizes={"a": 10, "b": 20, "c": 0}, folders="b")
    assert files.folder_bytes(tmp_path / "a") == 10
    assert files.folder_bytes(tmp_path) == 30


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    bar = console.Bar("epoch 1/2", 4)
    for done in range(1, 5):
        bar.update(done)
    before_close = stream.getvalue()
    bar.close()
    return before_close, stream.getvalue()[len(before_close) :]


def test_a_bar_is_drawn_on_a_terminal_and_cleared(monkeypatch):
    steps, end = drawn(monkeypatch, Terminal())
    frames = steps.split("\r")[1:]
    assert [frame.count("█") for frame in frames] == [6, 12, 18, 24]
    assert [f"{i}/4" in frame for i, frame in enumerate(frames, start=1)] == [True] * 4
    assert all(frame.startswith("epoch 1/2 ") and len(frame) <= 80 for frame in frames)
    assert "\n" not in steps + end
    assert end.startswith("\r\x1b[2K")


def test_a_bar_is_not_drawn_into_a_file(monkeypatch):
    assert drawn(monkeypatch, io.StringIO()) == ("", "")


@pytest.mark.parametrize(("seconds", "ends"), [(0.9, False), (12.34, True)])
def test_a_long_wait_says_how_long_it_took(monkeypatch, capsys, seconds, ends):
    clock = iter([100.0, *[100.0 + seconds] * 2])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    with console.waiting("Decoding"):
        assert capsys.readouterr().err == "Decoding …\n"  # said before the wait, not after
    said = capsys.readouterr()
    assert said.err == ("  done in 12.3 s\n" if ends else "")
    assert said.out == ""


def test_native_chatter_is_dropped_and_python_heard_again(capfd):
    with process._quiet_native_code():
        os.write(2, b"native chatter")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_descriptors_do_not_leak():
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with contextlib.suppress(ValueError), process._quiet_native_code():
            raise ValueError
    assert len(os.listdir("/proc/self/fd")) == before


def test_hits_and_misses_of_the_compile_cache_are_counted(monkeypatch):
    monkeypatch.setattr(process, "compile_counts", process.collections.Counter())
    for name in ("cache_hits", "cache_misses", "cache_hits", "compile_requests_use_cache"):
        process._count_compilation(f"/jax/compilation_cache/{name}")
    assert process.compile_counts == {"cache_hits": 2, "cache_misses": 1}


def test_configuring_twice_counts_once():
    import jax

    process.configure()
    before = process.compile_counts["cache_hits"]
    jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
    assert process.compile_counts["cache_hits"] == before + 1


def test_without_hides_what_is_not_imported_yet_and_only_meanwhile():
    sys.modules.pop("wave", None)
    with process.without("wave", "io"):
        assert importlib.import_module("io") is io
        with pytest.raises(ImportError):
            importlib.import_module("wave")
    assert importlib.import_module("wave").__name__ == "wave"
    assert sys.modules["io"] is io


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "on"), ("", "on"), ("on", "on"), ("xla", "xla"), ("off", "off")]
)
def test_cpu_layers_are_used_unless_switched_off(monkeypatch, value, expected):
    import jax

    monkeypatch.delenv("CTKERAS_CPU_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("CTKERAS_CPU_KERNELS", value)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert xla.kernels_wanted() == expected
    assert xla.cpu_kernels() == (expected != "off")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not xla.cpu_kernels()


def test_another_value_of_the_switch_is_refused(monkeypatch):
    monkeypatch.setenv("CTKERAS_CPU_KERNELS", "no")
    with pytest.raises(UserError, match="must be on, xla or off; got 'no'"):
        xla.kernels_wanted()


def test_barriers_are_kept_unless_switched_off_or_wrong(monkeypatch, verified):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("CTKERAS_CPU_KERNELS", raising=False)
    monkeypatch.delenv("CTKERAS_XLA_FLAGS", raising=False)
    assert xla.compiler_options() == {"xla_disable_hlo_passes": "cse_barrier_expander"}
    for name in ("CTKERAS_CPU_KERNELS", "CTKERAS_XLA_FLAGS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "off")
            assert xla.compiler_options() == {}
    monkeypatch.setattr(verdict, "verdict", lambda: verdict.NOTHING)
    assert xla.compiler_options() == {} and not xla.cpu_kernels()


def test_the_bar_shows_the_time_left(monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = console.Bar("epoch 1/2", 6)
    bar.update(2)  # 10 s for 2 steps: 20 s for the other 4
    assert ", 20 s left" in sys.stderr.getvalue()


def test_keras_is_imported_without_what_takes_long():
    code = "import sys; from ctkeras.runtime import process; process.configure(); "
    code += "print(*{'pandas', 'sklearn', 'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["keras"]
