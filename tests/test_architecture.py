"""The rules of the house: imports go one way, each library has one home, files stay small, nothing happens at import."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ctkeras"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or not path.stem.startswith("__")
}
MODULES = sorted(FILES)
PACKAGES = ("ctkeras", "ctkeras.report", "ctkeras.cli", "ctkeras.runs", "ctkeras.training")

# A module imports from floors below its own; on its own floor only along an arrow.
FLOORS = [
    {"config", "runtime", "heap"},
    {"runs", "runs.folder", "runs.history", "runs.predictions", "runs.checkpoint", "runs.result"},
    {
        "images",
        "training.schedule",
        "phantom",
        "kernels",
        "onednn",
        "training.stopping",
        "sweepfile",
        "owner",
        "ranking",
    }
    | {"storage", "training"},
    {"sources", "export", "backbones", "tracking", "sweepcheck", "resampling", "calibration", "evaluation", "contest"}
    | {"distributions", "space", "near", "status", "workers", "overlay", "explain"},
    {"dataset", "decoded", "pipeline", "model", "training.steps", "audit", "shortcuts", "auditsummary"}
    | {"scoring", "comparison", "sampling", "health", "training.programs", "training.features", "training.inputs"}
    | {"training.loop", "training.start"},
    {"training.ending", "training.train", "trial", "trials", "supervisor", "warm"},
    {"search", "phases", "study"},
    {"auditpage", "report.charts", "report.curves", "report.parallel", "report.page"}
    | {"report.results", "report.savings", "report.importance", "report.verdict", "report.findings"},
    {name for name in MODULES if name.startswith("report.section_")} | {"report"},
    {"app"} | {name for name in MODULES if name.partition(".")[0] == "cli"},
]
ARROWS = {
    "images": {"config", "runtime"},
    "runtime": {"config"},
    "pipeline": {"decoded"},
    "kernels": {"onednn"},
    **{f"runs.{name}": {"runs.folder"} for name in ("history", "predictions")},
    "training.steps": {"pipeline"},
    "training.programs": {"training.steps", "model", "pipeline"},
    "training.features": {"training.programs", "pipeline", "decoded"},
    "training.inputs": {"training.features", "training.programs", "pipeline", "decoded", "audit"},
    "training.loop": {"training.inputs", "training.programs", "training.steps", "model", "pipeline", "training.ending"},
    "training.start": {"training.loop", "training.inputs", "training.programs", "training.steps", "model"},
    "training.train": {"training.ending"},
    "audit": {"decoded"},
    "shortcuts": {"audit"},
    "auditsummary": {"audit", "shortcuts"},
    "auditpage": {"report.page"},
    "scoring": {"decoded", "pipeline", "audit"},
    "comparison": {"scoring", "audit"},
    "calibration": {"resampling"},
    "explain": {"overlay"},
    "space": {"distributions"},
    "sweepcheck": {"distributions"},
    "evaluation": {"resampling", "calibration"},
    "trial": {"training.train"},
    "supervisor": {"trials"},
    "warm": {"trial", "training.train"},
    "phases": {"search"},
    "study": {"phases", "search"},
    **{key: {"report.charts"} for key in ("report.curves", "report.parallel", "report.page")},
    **{key: {"report.results"} for key in ("report.savings", "report.importance", "report.verdict")},
    "report.findings": {"report.verdict", "report.results"},
    **{key: {"report.section_results"} for key in ("report.section_epochs", "report.section_record")},
    "report": {name for name in MODULES if name.startswith("report.section_")},
    "cli": {name for name in MODULES if name.startswith("cli.")},
    "cli.study": {"cli.sweep", "cli.train"},
    "cli.sweep": {"cli.train"},
    "cli.report": {"app"},
}
HOMES = {
    "click": {name for name in MODULES if name.partition(".")[0] == "cli"},
    "wandb": {"tracking"},
    "optuna": {"space", "sampling", "storage", "trials", "search", "status"},
    "sqlalchemy": {"storage", "trials"},
    "tensorflow": {"dataset", "phantom", "pipeline", "runtime", "health"},
    "tensorflow_datasets": {"dataset", "phantom"},
    "keras_cv": {"pipeline"},
    "keras_hub": {"backbones"},
    "huggingface_hub": {"backbones"},
    "kagglehub": {"sources"},
    "gradio": {"app"},
    "sklearn": {"evaluation", "shortcuts", "report.importance"},
}


def imports(module):
    """(name, whether at the top of the file) of everything a module imports."""
    tree = ast.parse(FILES[module].read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module, id(node) in top))
    return found


def floor(module):
    return next(number for number, names in enumerate(FLOORS) if module in names)


def test_every_module_has_a_floor_and_a_test_file():
    assert set(MODULES) == set().union(*FLOORS)
    tests = {path.stem.removeprefix("test_") for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    covered_elsewhere = {
        "training": "training",
        **{f"training.{name}": name for name in ("steps", "features", "schedule", "stopping", "loop")},
        "training.train": "training",
        "training.inputs": "inputs",
        **{f"training.{name}": "loop" for name in ("start", "ending")},
        "training.programs": "steps",
        **{f"runs{name}": "runfolder" for name in ("", ".folder", ".history", ".predictions", ".checkpoint")},
        "runs.result": "sweepfile",
        "health": "readme",
        "tracking": "trial",
        "sweepcheck": "sweepfile",
        "auditsummary": "audit",
        "distributions": "sampling",
        "space": "sampling",
        "calibration": "evaluation",
        "resampling": "evaluation",
        "contest": "study",
        "phases": "study",
        "ranking": "study",
        "owner": "workers",
        "storage": "search",
        "status": "search",
        "trials": "search",
        "supervisor": "workers",
        "warm": "workers",
        "report.charts": "charts",
        "report.curves": "charts",
        "report.parallel": "charts",
        "cli": "bad_input",
        "cli.train": "bad_input",
        "cli.data": "audit",
        "cli.results": "scoring",
        "cli.report": "report",
        "cli.sweep": "search",
        "cli.study": "study",
    } | {name: "report" for name in MODULES if name.startswith("report.")}
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
