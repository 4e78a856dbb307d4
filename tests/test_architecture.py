"""The rules of the house: imports go one way, each library has one home, files stay small, nothing happens at import."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ctkeras"
FILES = {path.stem: path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
FILES |= {f"cli.{path.stem}".removesuffix(".__init__"): path for path in PACKAGE.glob("cli/*.py")}
MODULES = sorted(FILES)

# A module imports from floors below its own; on its own floor only along an arrow.
FLOORS = [
    {"config", "runtime"},
    {"images", "schedule", "evaluation", "runfolder", "phantom", "kernels", "stopping", "sweepfile"},
    {"sources", "export", "backbones", "tracking", "sweepcheck"},
    {"dataset", "decoded", "pipeline", "model", "steps", "features", "loop", "scoring", "health", "training", "trial"},
    {"cli", "cli.data", "cli.results", "cli.sweep", "cli.train"},
]
ARROWS = {
    "images": {"config", "runtime"},
    "decoded": {"dataset"},
    "pipeline": {"decoded"},
    "steps": {"model", "pipeline"},
    "features": {"steps", "pipeline", "decoded"},
    "loop": {"features", "steps", "model", "pipeline", "decoded"},
    "scoring": {"decoded", "pipeline"},
    "training": {"loop", "scoring", "decoded"},
    "runtime": {"config"},
    "trial": {"training"},
    "cli": {"cli.data", "cli.results", "cli.sweep", "cli.train"},
}
HOMES = {
    "click": {"cli", "cli.data", "cli.results", "cli.sweep", "cli.train"},
    "wandb": {"tracking"},
    "optuna": {"sampling", "search", "workers"},
    "tensorflow": {"dataset", "phantom", "pipeline", "runtime", "health"},
    "tensorflow_datasets": {"dataset", "phantom"},
    "keras_cv": {"pipeline"},
    "keras_hub": {"backbones"},
    "huggingface_hub": {"backbones"},
    "kagglehub": {"sources"},
    "sklearn": {"evaluation"},
}


def imports(module):
    """(name, whether at the top of the file) of everything a module imports."""
    tree = ast.parse(FILES[module].read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "ctkeras":
            found += [(f"ctkeras.{alias.name}", id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module, id(node) in top))
    return found


def floor(module):
    return next(number for number, names in enumerate(FLOORS) if module in names)


def test_every_module_has_a_floor_and_a_test_file():
    assert set(MODULES) == set().union(*FLOORS)
    tests = {path.stem.removeprefix("test_") for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    covered_elsewhere = {
        "loop": "training",
        "scoring": "training",
        "health": "readme",
        "tracking": "trial",
        "sweepcheck": "sweepfile",
        "cli": "bad_input",
        "cli.train": "bad_input",
        "cli.data": "bad_input",
        "cli.results": "bad_input",
        "cli.sweep": "trial",
    }
    for module in MODULES:
        assert module in tests or covered_elsewhere.get(module) in tests, module


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for name, _ in imports(module):
        target = name.removeprefix("ctkeras.")
        if name.startswith("ctkeras.") and target in MODULES:
            assert floor(target) < floor(module) or target in ARROWS.get(module, ()), f"{module} imports {target}"


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_home(module):
    for name, _ in imports(module):
        home = HOMES.get(name.split(".")[0])
        assert home is None or module in home, f"{module} imports {name}"


def test_what_help_needs_imports_no_heavy_library():
    code = "import sys, ctkeras.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"keras", "jax", "tensorflow", "wandb", "numpy", "sklearn", "yaml"} & set(loaded)


def test_help_is_quick():
    import time

    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ctkeras", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_small(module):
    assert len(FILES[module].read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_say_what_they_do(module):
    tree = ast.parse(FILES[module].read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = any(
                node in ast.walk(other)
                for other in ast.walk(tree)
                if isinstance(other, ast.FunctionDef) and other is not node
            )
            assert inner or ast.get_docstring(node), f"{module}.{node.name}"


def test_no_path_of_a_machine_is_in_the_package():
    for path in FILES.values():
        assert not re.search(r"/(home|root|Users)/\w", path.read_text()), path.name
