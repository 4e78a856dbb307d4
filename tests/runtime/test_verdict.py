"""A jaxlib that was not tested is checked once, out of harm's way, and gets what passed."""

import sys

import pytest

from ctkeras.cpu import check, state
from ctkeras.errors import CannotWrite
from ctkeras.runtime import stored, verdict


@pytest.fixture
def another(monkeypatch, tmp_path):
    """Pretends a version of jaxlib that nobody has tested, with an empty cache."""
    real = verdict.version
    monkeypatch.setattr(verdict, "version", lambda package: "99.0" if package == "jaxlib" else real(package))
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(verdict.TRYING, raising=False)
    verdict._remembered.cache_clear()
    yield
    verdict._remembered.cache_clear()


@pytest.fixture
def failures(monkeypatch):
    """Decides which choices fail and why; lists what was tried."""
    failing, tried = {}, []

    def failure(choice):
        tried.append(choice)
        return failing.get((choice.flags, choice.kernels))

    monkeypatch.setattr(verdict, "_failure", failure)
    return failing, tried


def test_what_passes_the_check_is_used_and_remembered(another, failures, capsys):
    _, tried = failures
    assert verdict.verdict() == verdict.Verdict(True, "on", "")
    assert "Checking the fast CPU layers with jaxlib 99.0" in capsys.readouterr().err
    verdict._remembered.cache_clear()  # as another process
    assert verdict.verdict() == verdict.Verdict(True, "on", "") and len(tried) == 1
    assert stored.read_json(verdict.place()) == [True, "on", ""]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ([(True, "on")], (False, "on", "reason 0")),
        ([(True, "on"), (False, "on")], (True, "xla", "reason 0")),
        ([(True, "on"), (False, "on"), (True, "xla")], (False, "xla", "reason 0")),
        ([(True, "on"), (False, "on"), (True, "xla"), (False, "xla")], (False, "off", "reason 0")),
    ],
)
def test_the_fastest_choice_that_passes_is_taken(another, failures, failing, expected):
    failures[0].update({choice: f"reason {number}" for number, choice in enumerate(failing)})
    assert verdict.verdict() == expected


def test_another_version_is_another_question(another, failures, monkeypatch):
    first = verdict.place()
    monkeypatch.setattr(verdict, "version", lambda package: "99.1")
    second = verdict.place()
    assert second != first
    monkeypatch.setattr(verdict, "_instructions", lambda: "avx9")
    assert verdict.place() != second


def test_a_damaged_memory_is_made_again(another, failures):
    verdict.place().parent.mkdir(parents=True)
    verdict.place().write_text("[true")
    assert verdict.verdict().kernels == "on" and len(failures[1]) == 1
    assert stored.read_json(verdict.place()) == [True, "on", ""]


def test_a_cache_that_cannot_be_written_costs_one_check(another, failures, monkeypatch):
    def refuse(path, content):
        raise CannotWrite("no space")

    monkeypatch.setattr(stored, "write_json", refuse)
    assert verdict.verdict().kernels == "on" and verdict.verdict().kernels == "on"
    assert len(failures[1]) == 1


def test_a_flag_that_aborts_the_process_is_found_without_harm(another, monkeypatch):
    """The real check in a real process: XLA aborts at an unknown flag, and its words are the reason."""
    code = "from ctkeras.runtime import verdict; verdict.CPU_FLAGS = ('--xla_no_such_flag=1',); from ctkeras.cpu import check; "
    monkeypatch.setattr(verdict, "_command", lambda: [sys.executable, "-c", code + "raise SystemExit(check.main())"])
    assert "--xla_no_such_flag" in verdict._failure(verdict.Verdict(True, "on", ""))


@pytest.mark.slow  # a process of its own, 13 s
def test_the_check_passes_here():
    """With the installed versions: each kind of layer, forward and gradients, in a process of its own."""
    assert verdict._failure(verdict.Verdict(True, "on", "")) is None


def test_wrong_numbers_are_noticed(monkeypatch):
    from ctkeras.cpu import layers

    stock = check.samples()["1x1 convolution"]
    assert check.difference(stock) < check.TOLERANCE
    real = layers.PointwiseDot.call
    monkeypatch.setattr(layers.PointwiseDot, "call", lambda self, inputs: real(self, inputs) * 1.01)
    assert check.difference(check.samples()["1x1 convolution"]) > check.TOLERANCE


def test_training_says_once_that_it_is_slower_and_what_that_costs(monkeypatch, capsys):
    state.note.cache_clear()
    monkeypatch.setattr(state, "why_slow", lambda: "the check with jaxlib 99.0 failed: it differs")
    state.note()
    state.note()
    (line,) = capsys.readouterr().err.splitlines()
    assert "convolutions run in XLA" in line and "jaxlib 99.0" in line and "1.2 to 1.3 times" in line
    state.note.cache_clear()


@pytest.mark.parametrize("reason", ["", "CTKERAS_CPU_KERNELS is off"])
def test_who_has_it_or_switched_it_off_reads_nothing(monkeypatch, capsys, reason):
    state.note.cache_clear()
    monkeypatch.setattr(state, "why_slow", lambda: reason)
    state.note()
    assert capsys.readouterr().err == ""
    state.note.cache_clear()


def test_a_process_that_checks_does_not_check_again(monkeypatch):
    monkeypatch.setenv(verdict.TRYING, "none xla")
    monkeypatch.setattr(verdict, "check", lambda: pytest.fail("a check inside a check"))
    assert verdict.verdict() == verdict.Verdict(False, "xla", "")
