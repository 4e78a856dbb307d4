"""The rules of the house: imports go downwards only, each library has one home, files stay small, nothing runs at import."""

import ast
import pathlib
import re
import subprocess
import sys
import time

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ctkeras"
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}

# What each folder or top-level file may import besides its own files; from the bottom of the house to its top.
MAY_IMPORT = {
    "errors": set(),
    "values": set(),
    "runtime": {"errors"},
    "config": {"errors", "values"},
    "cpu": {"errors", "runtime"},
    "data": {"errors", "runtime"},
    "runs": {"errors", "runtime", "config"},
    "audit": {"errors", "runtime", "data"},
    "sweep": {"errors", "runtime", "config", "runs"},
    "tracking": {"errors", "runtime", "config", "runs"},
    "models": {"errors", "runtime", "data", "cpu", "runs"},
    "evaluation": {"errors", "runtime", "data", "runs", "audit", "models"},
    "training": {"errors", "runtime", "config", "data", "cpu", "runs", "audit", "tracking", "models", "evaluation"},
    "report": {"errors", "runtime", "config", "data", "runs", "audit", "tracking", "models", "evaluation"},
    "search": {"errors", "runtime", "config", "data", "runs", "sweep", "tracking", "models", "training"},
    "study": {"errors", "runtime", "config", "runs", "sweep", "tracking", "evaluation", "training", "search"},
}
ABOVE = {"app", "doctor"}  # may import anything but cli
TOP = {"cli", "__init__", "__main__"}  # may import anything

HOMES = {
    "click": {"cli"},
    "wandb": {"tracking"},
    "optuna": {"search"},
    "sqlalchemy": {"search"},
    "tensorflow": {"data", "runtime", "doctor"},  # runtime silences it, doctor reads its version
    "tensorflow_datasets": {"data"},
    "keras_cv": {"data"},
    "kagglehub": {"data"},
    "pydicom": {"data"},
    "nibabel": {"data"},
    "openpyxl": {"data"},
    "pyarrow": {"data"},
    "keras_hub": {"models"},
    "huggingface_hub": {"models"},
    "gradio": {"app"},
    "sklearn": {"audit", "evaluation", "report"},
}
LONGEST = 320  # lines


def folder_of(file):
    """The folder, or the top-level file without its ending, that a path below the package belongs to."""
    return file.split("/")[0].removesuffix(".py")


def imports(file):
    """Dotted names of everything that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def package_imports(file):
    """Folders and top-level files of the package that a file imports."""
    targets = (name.split(".") for name in imports(file) if name.split(".")[0] == "ctkeras")
    known = {folder_of(other) for other in FILES}
    return {parts[1] for parts in targets if len(parts) > 1 and parts[1] in known}


def depth(name):
    """How many floors lie below a folder."""
    return 1 + max((depth(below) for below in MAY_IMPORT[name]), default=0)


def test_the_table_goes_downwards_on_at_most_ten_floors():
    order = list(MAY_IMPORT)
    for name, below in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(name) for other in below), name
    assert max(map(depth, MAY_IMPORT)) <= 10


def test_every_file_has_a_place_in_the_table():
    assert {folder_of(file) for file in FILES} == set(MAY_IMPORT) | ABOVE | TOP


@pytest.mark.parametrize("file", FILES)
def test_imports_go_downwards(file):
    own = folder_of(file)
    if own in TOP:
        return
    allowed = MAY_IMPORT.get(own, set(MAY_IMPORT) if own in ABOVE else set()) | {own}
    assert package_imports(file) <= allowed


def test_no_two_files_import_each_other():
    """No circle among files, imports inside functions included."""
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    graph = {}
    for module, file in modules.items():
        names = [name.removeprefix("ctkeras.") for name in imports(file) if name.startswith("ctkeras.")]
        candidates = {part for name in names for part in (name, name.rpartition(".")[0])}
        graph[module] = {name for name in candidates if name in modules and name != module}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in modules:
        visit(module)


@pytest.mark.parametrize("file", FILES)
def test_each_library_has_one_home(file):
    for name in imports(file):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or folder_of(file) in homes, f"{file} imports {name}"


@pytest.mark.parametrize("file", [file for file in FILES if "/" in file and file.endswith("__init__.py")])
def test_a_folder_says_in_one_line_what_it_is_for(file):
    tree = ast.parse(FILES[file].read_text())
    text = ast.get_docstring(tree)
    assert len(tree.body) == 1
    assert text and "\n" not in text
    own = folder_of(file)
    if own in MAY_IMPORT and file.count("/") == 1:
        named = set(re.findall(r"\w+", text.partition("May import:")[2])) & set(MAY_IMPORT)
        assert named | {"errors", "runtime"} - {own} == MAY_IMPORT[own] | ({"errors", "runtime"} - {own})


@pytest.mark.parametrize("file", FILES)
def test_files_stay_small(file):
    assert len(FILES[file].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("file", FILES)
def test_public_functions_have_docstrings(file):
    tree = ast.parse(FILES[file].read_text())
    assert ast.get_docstring(tree)
    inner = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
        if child is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node not in inner:
            assert ast.get_docstring(node), f"{file}: {node.name}"


def test_help_imports_no_heavy_library():
    code = "import sys, ctkeras.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"keras", "jax", "tensorflow", "wandb", "numpy", "sklearn", "scipy", "optuna", "yaml"} & set(loaded)


def test_help_is_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ctkeras", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_no_path_of_a_machine_is_in_the_package():
    for file, path in FILES.items():
        assert not re.search(r"/(home|root|Users)/\w", path.read_text()), file
