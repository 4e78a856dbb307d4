"""The README's commands run as written, on generated data; its tables are those of the code."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from ctkeras import config, phantom

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = ("python -m pip", "nox ")  # what installs; run by continuous integration itself
ONLINE = ("ENTITY/", "sweep create")  # what needs a W&B server; run against a local one by test_trial.py
QUICK = "data: phantom:24\nmodel_name: mobilenet_v2\npretrained: false\nimage_size: 32\nmax_epochs: 1\nbatch_size: 4\n"


def commands():
    """Indented lines that start a program, without their comments."""
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    programs = [line.partition("  #")[0].strip() for line in lines if line.startswith(("python -m", "nox"))]
    inline = re.findall(r"`(python -m ctkeras [^`]+)`", README)
    return [
        line for line in programs + inline if not line.startswith(SETUP) and not any(word in line for word in ONLINE)
    ]


def test_every_verb_is_in_the_readme():
    shown = " ".join(commands())
    verbs = "data prepare,data check,train --data,train --resume,evaluate,compare,predict,explain,report,study,doctor"
    for verb in (*verbs.split(","), "sweep check", "sweep run", "sweep status"):
        assert f"ctkeras {verb}" in shown


def test_commands_run_as_written(tmp_path):
    from PIL import Image

    env = os.environ | {"WANDB_MODE": "disabled"}
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "folder").mkdir()
    for name in ("image1.png", "folder/image2.png"):
        Image.fromarray(phantom.phantom_slice(1, 1)).save(tmp_path / name)
    trained = ""
    for command in commands():
        line = (
            command.replace("sweep_yaml/", f"{ROOT}/sweep_yaml/")
            .replace("chest-ctscan-images.zip", "phantom:24")
            .replace("<id>", pathlib.Path(trained).name)
        )
        if "sweep run" in line:  # in miniature: four tiny trials instead of 45
            line = line.replace("phase1.yaml", "smoke.yaml")
        words = [sys.executable, *shlex.split(line)[1:]]
        if "train --data" in line:  # the flags that make it long are overridden by later ones
            words += shlex.split("--config quick.yaml --model_name mobilenet_v2")
        if "study --data" in line:
            words += shlex.split("--config quick.yaml --models mobilenet_v2 --trials 2,1,4")
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr[-1500:]}"
        if "train" in words:
            trained = pathlib.Path(done.stdout.splitlines()[-1]).parent
            assert (tmp_path / trained / "model.keras").exists()


def test_reference_is_generated_from_the_code():
    shown = re.search(r"<!-- reference -->\n(.*?)\n<!-- end of reference -->", README, re.S)
    assert shown.group(1) == config.reference_table()


def test_epoch_metrics_are_listed():
    assert ", ".join(f"`{name}`" for name in config.EPOCH_METRICS) in README


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", entry).group() for entry in project["dependencies"]]
    explained = README.partition("## Dependencies")[2].partition("##")[0]
    for name in names:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", explained), name


@pytest.mark.parametrize("picture", re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README))
def test_pictures_are_there(picture):
    assert (ROOT / picture).stat().st_size > 1000
