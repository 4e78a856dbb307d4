"""README and docs/: every command parses, the README's path runs on generated data, tables and links are right.

`python tests/test_readme.py` writes the table of hyperparameters into docs/hyperparameters.md.
"""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner

from ctkeras.cli import options
from ctkeras.config import EPOCH_METRICS
from ctkeras.data import phantom

ROOT = next(folder for folder in pathlib.Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
HYPERPARAMETERS = ROOT / "docs" / "hyperparameters.md"
TABLE = re.compile(r"(?<=<!-- reference -->\n).*?(?=\n<!-- end of reference -->)", re.S)
ONLINE = ("ENTITY/", "sweep create")  # needs a W&B server; run against a local one by test_trial.py
QUICK = "data: phantom:24\nmodel_name: mobilenet_v2\npretrained: false\nimage_size: 32\nmax_epochs: 1\nbatch_size: 4\n"
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # import name: package, where they differ


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name):
    """A page's commands that start with python -m ctkeras, nox or wandb, from indented lines and from `inline code`."""
    text = re.sub(r"^```.*?^```$", "", read(name), flags=re.S | re.M)
    indented = [line.strip().partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    lines = [part for line in indented for part in line.split(" && ")] + re.findall(r"`([^`\n]+)`", text)
    return [line for line in lines if re.match(r"(python -m ctkeras|nox|wandb agent) \S", line)]


def mentions(name):
    """The verbs that a page mentions without arguments, as in `ctkeras doctor`."""
    return re.findall(r"`ctkeras ([a-z][^`\n]*)`", read(name))


def python_blocks(name):
    return re.findall(r"^```python\n(.*?)^```$", read(name), re.S | re.M)


def verb_of(words):
    """The command that the first words name, and the remaining words.

    Raises:
        click.UsageError: no such verb.
    """
    from ctkeras.cli.main import cli

    command, words = cli, list(words)
    while isinstance(command, click.Group):
        name = words.pop(0) if words else ""
        command = command.commands.get(name)
        if command is None:
            raise click.UsageError(f"no such verb: {name!r}")
    return command, words


def parse(words):
    """Parses arguments as `python -m ctkeras` does, without running the verb.

    Raises:
        click.ClickException: no such verb or option, or an option's value has the wrong type.
    """
    command, words = verb_of(words)
    parsed = command.make_context(command.name, words)
    extra = [word for word in parsed.params.get("extra", ()) if word.startswith("--")]
    if extra:  # `train` takes what W&B's agent adds, and refuses the rest when it runs
        raise click.NoSuchOption(extra[0])


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name):
    for line in commands(name):
        program, *words = shlex.split(line)
        if program == "python":
            parse(words[2:])
        elif program == "nox":
            assert set(words) - {"-s", "-l"} <= sessions(), line
    for line in mentions(name):
        verb_of(line.split())


@pytest.mark.parametrize("path", sorted((ROOT / "sweep_yaml").glob("*.yaml")), ids=lambda path: path.name)
def test_commands_of_sweep_headers_parse(path):
    lines = re.findall(r"^# +python -m ctkeras (.*?)(?:  .*)?$", path.read_text(encoding="utf-8"), re.M)
    for line in lines:
        parse(shlex.split(line))
    assert lines


def test_parse_refuses_what_does_not_exist():
    for line in ("trian --lr 1", "train --learning_rate 1", "evaluate", "sweep next A/B/C --phase x", "data"):
        with pytest.raises(click.ClickException):
            parse(line.split())


def sessions():
    tree = ast.parse(read("noxfile.py"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}


def test_every_verb_is_on_a_page():
    from ctkeras.cli.main import cli

    shown = {line.removeprefix("python -m ctkeras ") for name in NAMES for line in commands(name)}
    for verb in verbs(cli):
        assert any(f"{line} ".startswith(f"{verb} ") for line in shown), f"no page shows `ctkeras {verb}`"


def verbs(group, prefix=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}"


@pytest.fixture
def workplace(tmp_path):
    """A folder with what the pages name: images, and a short configuration."""
    from PIL import Image

    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "folder").mkdir()
    for name in ("image1.png", "folder/image2.png"):
        Image.fromarray(phantom.phantom_slice(1, 1)).save(tmp_path / name)
    import page_inputs

    page_inputs.write(tmp_path)
    return tmp_path


def test_every_kind_of_data_on_its_page_is_understood(workplace, monkeypatch):
    from ctkeras.cli.main import cli

    monkeypatch.chdir(workplace)
    inputs = [path.name for path in workplace.iterdir()]  # the page's other data sets are written by its own commands
    lines = [line for line in commands("docs/data.md") if re.search(rf" describe --data ({'|'.join(inputs)})\b", line)]
    lines = [line for line in lines if "--slices" not in line]  # of volumes, which have more
    assert len(lines) >= 6
    for line in lines:
        result = CliRunner().invoke(cli, shlex.split(line)[3:], standalone_mode=False)
        assert result.exit_code == 0, f"{line}: {result.exception}"
        assert "24 images, 2 classes" in result.output, line
        assert "no file left out" in result.output or "slices.csv" in line


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a page is up to twelve processes
@pytest.mark.parametrize("name", ["README.md", "docs/sweeps.md", "docs/data.md", "docs/training.md", "docs/results.md"])
def test_commands_run_in_order(name, workplace):
    """As written, on generated slices and tiny images; a page that uses a run starts with one."""
    lines = [line for line in commands(name) if line.startswith("python") and not any(word in line for word in ONLINE)]
    lines = [line for line in lines if not line.startswith("python -m ctkeras app")]  # runs until Ctrl-C
    trained = ""
    if any("<id>" in line for line in lines) and not any(" train --data" in line for line in lines):
        lines.insert(0, "python -m ctkeras train --data phantom:24")
    for line in lines:
        words = shlex.split(miniature(line).replace("<id>", pathlib.Path(trained).name))
        output = run(words, workplace)
        if "train" in words:  # its last line is the model's path
            trained = pathlib.Path(output.splitlines()[-1]).parent
            assert (workplace / trained / "model.keras").exists()


def miniature(line):
    """A command on generated slices and tiny images; options given later win."""
    line = line.replace("chest-ctscan-images.zip", "phantom:24").replace("phantom:240", "phantom:24")
    if "sweep run" in line:  # four tiny trials instead of 45
        line = line.replace("phase1.yaml", "smoke.yaml")
    if "train --data" in line:
        line += " --config quick.yaml --model_name mobilenet_v2"
    if "study --data" in line:
        line += " --config quick.yaml --models mobilenet_v2 --trials 2,1,4"
    return line.replace("sweep_yaml/", f"{ROOT}/sweep_yaml/")


def run(words, folder):
    environment = os.environ | {"WANDB_MODE": "disabled"}
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.slow
def test_python_page_runs(workplace):
    (workplace / "page.py").write_text("\n".join(python_blocks("docs/python.md")))
    assert "95% interval" in run(["python", "page.py"], workplace)


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_are_python(name):
    for block in python_blocks(name):
        ast.parse(block)


def test_exported_model_opens_as_its_page_says(workplace):
    """The indented Python of docs/model.md is Python."""
    lines = [line[4:] for line in read("docs/model.md").splitlines() if line.startswith("    ")]
    ast.parse("\n".join(line for line in lines if not line.startswith("python -m")))


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_exist(name):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", read(name)):
        if not link.startswith("http"):
            assert ((ROOT / name).parent / link).exists(), link


def test_every_page_is_linked_from_the_readme():
    for name in NAMES:
        assert name == "README.md" or f"]({name})" in read("README.md")


def test_first_screen_is_short():
    first = read("README.md").partition("\n## ")[0].splitlines()
    assert len(first) <= 24
    assert any(line.startswith("![") for line in first)
    assert len(read("README.md").splitlines()) <= 140


def test_reference_is_generated_from_the_code():
    shown = TABLE.search(HYPERPARAMETERS.read_text(encoding="utf-8")).group()
    assert shown == options.reference_table(), "to write the table: python tests/test_readme.py"


def test_epoch_metrics_are_listed():
    assert ", ".join(f"`{name}`" for name in EPOCH_METRICS) in read("docs/hyperparameters.md")
    assert ", ".join(EPOCH_METRICS) in read("docs/training.md")


def test_every_environment_variable_is_listed():
    used = {
        name for path in (ROOT / "ctkeras").rglob("*.py") for name in re.findall(r"CTKERAS_[A-Z_]+", path.read_text())
    }
    listed = set(re.findall(r"^\| `(CTKERAS_[A-Z_]+)` \|", read("docs/hyperparameters.md"), re.M))
    assert listed == used


def test_every_import_is_declared_and_every_dependency_has_its_line():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = [entry for entries in project["optional-dependencies"].values() for entry in entries]
    declared = {normal(re.match(r"[\w.-]+", entry).group()) for entry in project["dependencies"] + extras}
    undeclared = {f"{package} ({path})" for package, path in imports() if package not in declared}
    assert not undeclared
    rows = re.findall(r"^\| (.+) \|$", read("docs/dependencies.md"), re.M)
    shown = {normal(name) for row in rows for cell in row.split(" | ")[:2] for name in re.findall(r"[\w-]+", cell)}
    assert declared <= shown


def imports():
    """The packages that ctkeras imports, with the file of each."""
    for path in sorted((ROOT / "ctkeras").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for name in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"ctkeras"}:
                yield normal(DISTRIBUTIONS.get(name, name)), path.relative_to(ROOT)


def normal(name):
    return name.lower().replace("_", "-")


def test_pre_commit_runs_the_pinned_ruff():
    pinned = re.search(r"^ruff==.*$", read(".ci/constraints.txt"), re.M).group()
    assert set(re.findall(r"ruff==[\d.]+", read(".pre-commit-config.yaml"))) == {pinned}


if __name__ == "__main__":
    page = HYPERPARAMETERS.read_text(encoding="utf-8")
    HYPERPARAMETERS.write_text(TABLE.sub(lambda _: options.reference_table(), page), encoding="utf-8")
