"""The benchmark of inference: what it compares, and the table that it prints."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run():
    """benchmarks/run.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_compares_inference_only_and_prints_medians(run, monkeypatch, capsys):
    """Two sides with known seconds: medians of five, images per second, and the ratio of times."""
    asked = []

    class Side:
        def __init__(self, seconds):
            self.seconds, self.images = seconds, 32

    def compared(python, *words):
        asked.append(words)
        return Side([2.0, 1.0, 1.0, 1.0, 9.0]), Side([2.0, 2.0, 2.0, 1.0, 4.0])

    monkeypatch.setattr(run, "compared", compared)
    for part in ("steps", "feeding", "trial", "phase1"):
        monkeypatch.setattr(run, part, lambda *_: pytest.fail("not asked for"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--torch-python", sys.executable, "quick"])
    run.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mobilenet_v2 | 1 |")]
    assert rows == ["| mobilenet_v2 | 1 | 32.00 (3.56 to 32.00) | 16.00 (8.00 to 32.00) | 0.50 |"]
    assert len(asked) == 8 and ("infer", "resnet34", "32", "224") in asked


@pytest.mark.slow
def test_our_side_answers_with_seconds():
    command = [sys.executable, str(FOLDER / "ours.py"), "infer", "mobilenet_v2", "1", "32"]
    done = subprocess.run(command, input="1\n", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ready\n") and '"images": 32' in done.stdout
