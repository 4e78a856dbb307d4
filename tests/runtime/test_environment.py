"""A hostile environment: streams, folders, and the variables and files of JAX and Keras."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ctkeras.errors import UserError
from ctkeras.runtime import cells, files, home, process, streams, xla
from ctkeras.training import stopping

TALK = "from ctkeras.runtime import streams; streams.install(); import sys\n"


def talk(code, **options):
    """Runs a few lines with our standard streams in a shell, so that descriptors can be closed."""
    command = [sys.executable, "-c", TALK + code]
    return subprocess.run(command, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", "| head -1 >/dev/null"]
)
def test_streams_that_cannot_be_written_fail_nothing(tmp_path, redirection):
    code = TALK + (
        "for _ in range(5000): print('a' * 50); print('b', file=sys.stderr)\n"
        "open('done', 'w').write('x'); sys.stdout.flush(); sys.exit(0)"
    )
    (tmp_path / "code.py").write_text(code)
    line = f"set -o pipefail; {sys.executable} code.py {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-300:]
    assert (tmp_path / "done").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain ü …", "plain ü …"),
        ("a\x1b[31mred\x1b[0m", "a\x1b[31mred\x1b[0m"),  # colours are harmless
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[8mhidden\x1b[2A", "\x1b[8mhidden" + r"\x1b[2A"),
        ("a\rError: b", r"a\rError: b"),
        ("\r\x1b[2Kbar", "\r\x1b[2Kbar"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\tb\n", "a\tb\n"),
    ],
)
def test_escapes_in_names_are_shown_as_text(text, seen):
    assert streams.shown(text) == seen


@pytest.mark.parametrize(
    "value", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "'=x", "\uff1dx", "-a", "''=x"]
)
def test_formulas_are_quoted_and_read_back(value):
    assert cells.quoted(value) == f"'{value}"
    assert cells.unquoted(cells.quoted(value)) == value


@pytest.mark.parametrize("value", ["normal", "-0.5", "+3", "1e-05", "-1.5e-7", "-inf", "'quoted'", "", 3, -2.5, None])
def test_other_cells_stay(value):
    assert cells.quoted(value) == value
    assert cells.unquoted(value) == value


def test_a_cache_folder_that_cannot_be_written_is_replaced_by_one_of_this_users(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))
    assert files.cache_dir("jax") == tmp_path / f"ctkeras-{os.getuid()}" / "jax"
    assert "caching in" in capsys.readouterr().err
    monkeypatch.setenv("CTKERAS_CACHE_DIR", "")
    (tmp_path / f"ctkeras-{os.getuid()}").chmod(0o777)
    with pytest.raises(UserError, match="set CTKERAS_CACHE_DIR"):
        files.cache_dir("jax")


@pytest.mark.parametrize(
    ("flags", "words"), [("--xla_nonsense=1", "does not know --xla_nonsense"), ("nonsense", "cannot read it")]
)
def test_a_flag_that_would_abort_the_process_is_named(monkeypatch, flags, words):
    monkeypatch.delenv("_CTK_CHECKED_FLAGS", raising=False)
    with pytest.raises(UserError, match=words):
        xla.require_known_flags(flags)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_PLATFORMS", "cuda"),
        pytest.param("JAX_PLATFORM_NAME", "gpu", marks=pytest.mark.slow),
        pytest.param("JAX_PLATFORMS", "nonsense", marks=pytest.mark.slow),
    ],
)
def test_a_platform_that_jax_lacks_is_one_line(name, value):
    code = "from ctkeras.runtime import process\nprocess.configure()"
    env = os.environ | {name: value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert f"UserError: {name} is {value}, and JAX finds no such device" in done.stderr.splitlines()[-1]


CONFIGURATIONS = [
    '{"floatx": "float16", "backend": "jax"}',
    '{"image_data_format": "channels_first", "backend": "tensorflow"}',
    "[1, 2]",
    "{not json",
    '{"floatx": "nonsense", "epsilon": "x"}',
]


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        (CONFIGURATIONS[1], ""),
        *(pytest.param(text, "jax", marks=pytest.mark.slow) for text in CONFIGURATIONS),
    ],
)
def test_keras_is_the_same_whatever_its_file_says(tmp_path, text, backend):
    code = (
        "import json, ctkeras; from ctkeras.runtime import process; process.configure(); import keras\n"
        "c = keras.config; print(json.dumps([c.backend(), c.floatx(), c.image_data_format(), c.epsilon(), "
        "c.dtype_policy().name]))"
    )
    (tmp_path / "keras.json").write_text(text)
    env = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": backend, "KERAS_MAX_EPOCHS": "x"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["jax", "float32", "channels_last", 1e-7, "float32"]
    assert (tmp_path / "keras.json").read_text() == text


def test_keras_on_another_backend_is_refused(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match="imported on torch before ctkeras"):
        process._import_keras()
    with pytest.raises(UserError, match="trains on jax"):
        process.require_jax()


def test_a_closed_terminal_stops_as_sigterm_does_except_under_nohup():
    stop = stopping.Stop()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with stopping.on_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wait()
        assert stop.reason == "sighup"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in stopping.heeded()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv: apt-get install util-linux")
def test_a_user_without_a_name_and_a_home_trains_and_caches():
    """As `docker run --user 45321` does: no entry in /etc/passwd, and HOME is nowhere."""
    root = Path(__file__).parents[2]
    folder = Path(tempfile.mkdtemp())  # pytest's own may be entered by its user only
    cache = Path(tempfile.gettempdir(), "ctkeras-45321")
    shutil.rmtree(cache, ignore_errors=True)
    try:
        folder.chmod(0o777)
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "WANDB_MODE": "offline", "HOME": "/nonexistent"}

        def run(*words):
            # Unlike os.setuid, it leaves the right to enter a folder of root's, in which Python may lie.
            command = ["setpriv", "--reuid=45321", "--regid=45321", "--clear-groups", sys.executable, "-m", "ctkeras"]
            return subprocess.run([*command, *words], cwd=folder, env=kept, capture_output=True, text=True, timeout=300)

        doctor = run("doctor")
        assert (doctor.returncode, "/nonexistent cannot be written" in doctor.stdout) == (0, True), doctor.stderr[-800:]
        options = {
            "data": "phantom:48",
            "model_name": "small_cnn",
            "pretrained": "false",
            "image_size": 32,
            "max_epochs": 1,
        }
        done = run(
            "train", *(f"--{name}={value}" for name, value in (options | {"augmentation": 0, "mixup_alpha": 0}).items())
        )
        assert done.returncode == 0, done.stderr[-800:]
        assert "Warning" not in done.stderr
        assert done.stderr.count("caching in") == 1
        assert (folder / done.stdout.split()[-1]).exists() and list((cache / "jax").iterdir())
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(cache, ignore_errors=True)
