"""doctor shows what a run would use: versions, devices, caches, data and W&B."""

import jax
import pytest

from ctkeras import __version__, doctor
from ctkeras.cpu import onednn
from ctkeras.runtime import files, process, verdict, versions, xla
from ctkeras.tracking import run, settings


@pytest.fixture
def lines(monkeypatch, image_folder):
    monkeypatch.setenv("CTKERAS_DATA", str(image_folder))
    return dict(doctor.report())


def test_every_part_has_a_line(lines, image_folder):
    assert lines["ctkeras"] == __version__
    assert lines["jax"] == jax.__version__
    assert lines["keras backend"] == "jax"
    assert "(cpu)" in lines["jax devices"] or "(gpu)" in lines["jax devices"]
    assert lines["cache jax"].endswith(f"MB in {files.cache_dir('jax')}")
    assert lines["data"] == f"{image_folder}: 32 images, folder, left, right"
    assert lines["tensorflow sees GPU"].startswith("no")
    assert lines["W&B"].startswith("WANDB_MODE=disabled; https://api.wandb.ai")


def test_the_size_of_a_cache_is_in_megabytes(monkeypatch, tmp_path):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    (tmp_path / "features").mkdir()
    (tmp_path / "features/a").write_bytes(bytes(3 * 2**20))
    lines = dict(doctor.report())
    assert lines["cache features"] == f"3 MB in {tmp_path / 'features'}"
    assert lines["cache looks"].startswith("0 MB")


@pytest.mark.parametrize(
    ("patches", "expected"),
    [
        ({"backend": "gpu"}, "XLA's own on this device"),
        ({}, "oneDNN (2023.2.0), tested with this jaxlib"),
        ({"kernels": "xla"}, "because CTKERAS_CPU_KERNELS is xla"),
        ({"wheel": ""}, "because onednn-cpu-gomp is not installed"),
        ({"devices": 2}, "because JAX has 2 devices"),
        ({"library": False}, "libgomp.so.1 is missing"),
        ({"jaxlib": "99.0"}, "as a check here decided; delete"),
        (
            {"jaxlib": "99.0", "verdict": "xla"},
            "because the check with jaxlib 99.0 failed: it differs; a fine-tuning step",
        ),
    ],
)
def test_what_computes_convolutions_is_named(monkeypatch, patches, expected):
    """The answers of the parts below are given; which of them decides, and in which words, is what is tested."""
    given = {"backend": "cpu", "kernels": "on", "wheel": "2023.2.0", "devices": 1, "library": True, "jaxlib": "0.10.2"}
    given |= {"verdict": "on"} | patches
    packages = {"jaxlib": given["jaxlib"], "onednn-cpu-gomp": given["wheel"]}
    for module in (verdict, versions):
        monkeypatch.setattr(module, "version", lambda package: packages.get(package, "1.0"))
    monkeypatch.setattr(verdict, "_remembered", lambda path: verdict.Verdict(True, given["verdict"], "it differs"))
    monkeypatch.delenv(verdict.TRYING, raising=False)
    monkeypatch.setenv("CTKERAS_CPU_KERNELS", given["kernels"])
    monkeypatch.setattr(jax, "default_backend", lambda: given["backend"])
    monkeypatch.setattr(jax, "local_device_count", lambda: given["devices"])
    monkeypatch.setattr(onednn.binding, "dnnl", lambda: object() if given["library"] and given["wheel"] else None)
    monkeypatch.setattr(onednn, "available", onednn.available.__wrapped__)  # not what was found before
    assert expected in doctor._convolutions()


def test_data_that_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("CTKERAS_DATA", raising=False)
    assert doctor._data() == "CTKERAS_DATA is not set"
    monkeypatch.setenv("CTKERAS_DATA", "nowhere")
    assert doctor._tried(doctor._data).startswith("wrong: CTKERAS_DATA: nowhere")


def test_how_a_run_would_be_tracked(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(settings, "prepare", lambda: None)
    monkeypatch.setenv("WANDB_BASE_URL", "https://w.example")
    for credentials, start in ((True, "logged in; https://w.example"), (False, "no credentials: runs are recorded")):
        monkeypatch.setattr(run, "has_credentials", lambda known=credentials: known)
        assert doctor._wandb().startswith(start)


def test_whatever_is_wrong_is_a_line_and_the_others_follow(monkeypatch, tmp_path):
    """Each part is broken at once; the last line is still there, and each says what to do."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_MODE", "weird")
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("CTKERAS_DATA", "nowhere")
    monkeypatch.setattr(xla, "require_devices", lambda: 1 / 0)
    monkeypatch.setattr(process, "require_devices", lambda: 1 / 0)
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 60)
    wrong = {name: state for name, state in doctor.report() if state.startswith(doctor.WRONG)}
    assert {"jax devices", "cache data", "disk of here", "data", "W&B"} <= set(wrong)
    assert "WANDB_MODE must be online, offline or disabled" in wrong["W&B"]
    assert "set CTKERAS_CACHE_DIR" in wrong["cache data"]
