"""Checks and the demo, each in its own environment: `nox -s tests`, `nox -s demo`, `nox -l` for all."""

import os
import pathlib
import shutil

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = ".ci/constraints.txt"
# The demo's study. Augmentation and mixup are off because they would import TensorFlow, which takes longer than a run.
DEMO = ["--data=phantom:1600", "--models=small_cnn", "--trials=3,2,4", "--image_size=64", "--batch_size=16"]
DEMO += ["--max_epochs=6", "--lr=0.003", "--augmentation=0", "--mixup_alpha=0"]

# The quick tests compile hundreds of small programs, each of which runs for milliseconds; the slow ones run them as users do.
QUICK = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()}


def groups(*names: str) -> list[str]:
    """The requirements of dependency groups."""
    return nox.project.dependency_groups(PROJECT, *names)


def install(session: nox.Session, *requirements: str) -> None:
    """Installs the package and further requirements, at the versions pinned for continuous integration."""
    session.install("-c", CONSTRAINTS, "-e", ".", *requirements)


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests: at most 4 minutes on two quiet cores. Prints the ten slowest."""
    install(session, *groups("test"))
    session.run("pytest", "-n", "auto", "--dist", "worksteal", "--durations=10", *session.posargs, env=QUICK)


@nox.session
def coverage(session: nox.Session) -> None:
    """The quick tests with coverage, including the processes that they start; fails under the floor in pyproject.toml."""
    install(session, *groups("test", "coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=QUICK)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def integration(session: nox.Session) -> None:
    """The slow tests, and those that need PyTorch, other Keras backends or servers. Prints the ten slowest."""
    install(session, *groups("test", "integration"))
    session.run("pytest", "--durations=10", "-m", "slow or integration", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install("-c", CONSTRAINTS, *groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    install(session, *groups("types"))
    session.run("mypy")


@nox.session
def demo(session: nox.Session) -> None:
    """A small study on generated images: three phases, a final model, a report. No account, no download; under 3 minutes.

    It trains small_cnn from scratch, to a test accuracy of about 0.95. The last line is the path of the report.
    """
    install(session)
    work = pathlib.Path("runs", "demo")
    shutil.rmtree(work, ignore_errors=True)
    session.env.setdefault("WANDB_MODE", "offline")
    session.run("python", "-m", "ctkeras", "study", *DEMO, f"--output_dir={work}")


@nox.session
def examples(session: nox.Session) -> None:
    """Makes the example reports in docs/examples again, from generated slices; about 5 minutes."""
    install(session)
    session.run("python", "benchmarks/example_reports.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compares speed with PyTorch and timm, which get their own environment; prints the tables of benchmarks/RESULTS.md.

    `nox -s bench -- quick` compares inference only, in about five minutes; without words it takes half an hour. `gpu` needs an
    NVIDIA GPU.
    """
    session.install("-c", CONSTRAINTS, "-e", ".[cuda12]" if "gpu" in session.posargs else ".")
    other = pathlib.Path(session.cache_dir, "bench-pytorch")
    python = str(other / "bin" / "python")
    if not other.exists():
        session.run("python", "-m", "venv", str(other))
        session.run(python, "-m", "pip", "install", "-q", "torch", "timm", "albumentations", external=True)
    session.run("python", "benchmarks/run.py", "--torch-python", python, *session.posargs)
