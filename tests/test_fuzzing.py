"""Made-up files of every kind that is read: each is read or refused in a line, within seconds, in little memory."""

import io
import json
import os
import resource
import subprocess
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ctkeras.cli.options import load_yaml
from ctkeras.data import images, sources
from ctkeras.errors import UserError
from ctkeras.runs import folder, history, predictions
from ctkeras.sweep import check, file

GIGABYTE = 2**20  # in the unit of ru_maxrss
NOISY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
TEXT = (
    "method metric parameters command name goal min max values value distribution run_cap early_terminate type min_iter q mu "
    "sigma grid random bayes val_acc maximize lr batch_size model_name resnet18 uniform log_uniform_values ${envvar:X} s eta "
    "hyperband max_iter python -m ctkeras train --lr=1 data nested 1e-5 =x"
)
WORDS = st.sampled_from(TEXT.split())
LEAVES = WORDS | st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=20
)


def examples(function):
    """Runs a test on 20 examples, or as many as CTKERAS_FUZZ says; an example may take 10 s."""
    number = int(os.environ.get("CTKERAS_FUZZ", "20"))
    return settings(max_examples=number, deadline=10_000, suppress_health_check=NOISY, derandomize=True)(function)


def answers(read):
    """Reads something made up; None for what is refused as a mistake of the user's. Any other error is one of ours."""
    try:
        return read()
    except UserError:
        return None


@examples
@given(content=TREES)
def test_sweep_files(tmp_path, content):
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    loaded = answers(lambda: file.load(path))
    if loaded is not None:
        answers(lambda: check.check(loaded))


@examples
@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_yaml_of_any_text(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    answers(lambda: load_yaml(path))
    answers(lambda: file.load(path))


@examples
@given(content=TREES)
def test_configurations(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    answers(lambda: folder.read_config(tmp_path))
    (tmp_path / "config.yaml").write_text(json.dumps(content))
    answers(lambda: load_yaml(tmp_path / "config.yaml"))


CELLS = st.text(max_size=8) | st.sampled_from(["valid", "0.5", "nan", "=1+1", "1e999", "a"])
HEADS = ["file", "split", "label", "predicted", "p_a", "p_b", "epoch", "val_acc", "x"]


@examples
@given(
    header=st.lists(st.sampled_from(HEADS), max_size=8),
    rows=st.lists(st.lists(CELLS, max_size=8), max_size=5),
    tail=st.binary(max_size=20),
)
def test_tables_of_a_run_folder(tmp_path, header, rows, tail):
    text = "\n".join(",".join(row) for row in [header, *rows])
    for name in ("predictions.csv", "history.csv"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass") + tail)
    answers(lambda: predictions.read_predictions(tmp_path, "valid"))
    answers(lambda: history.read_history(tmp_path))


def encoded(kind):
    """A small sound image in a format."""
    content = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(content, kind)
    return content.getvalue()


SOUND = {kind: encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")}
CHANGES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=6)


@examples
@given(kind=st.sampled_from(sorted(SOUND)), changes=CHANGES, length=st.integers(10, 3000))
def test_headers_of_images(kind, changes, length):
    content = bytearray(SOUND[kind][:length])
    for place, value in changes:
        content[place % min(120, len(content))] = value
    answers(lambda: images.decode_gray(bytes(content), name="x.png"))


@examples
@given(changes=CHANGES, end=st.integers(0, 60))
def test_zips(tmp_path, changes, end):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("train", "valid", "test"):
            for name in ("a", "b"):
                archive.writestr(f"{split}/{name}/0.png", SOUND["PNG"])
    content = bytearray(written.getvalue())[: len(written.getvalue()) - end]
    for place, value in changes:
        content[-1 - place] = value  # in the directory, which is last
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    source = answers(lambda: sources.open_source(str(path)))
    if source is not None:
        answers(lambda: list(sources.read(source, "train")))


KINDS = [name for name, made in list(globals().items()) if name.startswith("test_") and hasattr(made, "hypothesis")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_in_less_than_a_gigabyte(tmp_path, kind):
    """Each kind in a process of its own, whose memory is its own and whose examples are in one process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{kind}"]
    env = os.environ | {"CTKERAS_FUZZ": os.environ.get("CTKERAS_FUZZ", "2000")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'in'}"], env=env, capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_maxrss < GIGABYTE, f"{after.ru_maxrss} KiB after {after.ru_utime - before.ru_utime:.0f} s of {kind}"
