"""The public API: what `import ctkeras` costs and gives, and the examples in its docstrings."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
from image_sets import write_images

import ctkeras


def test_public_names_come_from_their_homes():
    assert [getattr(ctkeras, name).__name__ for name in ctkeras.__all__] == ctkeras.__all__
    assert set(ctkeras.__all__) <= set(dir(ctkeras))
    assert isinstance(ctkeras.RunConfig(lr=0.5), ctkeras.RunConfig)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ctkeras.trian


def test_audit_stays_the_function_when_the_folder_of_that_name_is_imported():
    code = """
import ctkeras
import ctkeras.audit.near
from ctkeras.audit import shortcuts
from ctkeras import audit
print(ctkeras.audit.__name__, audit is ctkeras.audit, shortcuts.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["audit", "True", "ctkeras.audit.shortcuts"]


def test_import_brings_no_library_along():
    code = (
        "import sys, ctkeras; ctkeras.RunConfig; print(*{'numpy', 'keras', 'jax', 'yaml', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_examples_do_what_they_say(tmp_path, monkeypatch):
    """In the order in which a user needs them: each uses the run folder of the one before."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", classes=("a", "b"), counts={"more": 1}, size=20)
    for name in ("RunConfig", "audit", "train", "evaluate"):
        function = getattr(ctkeras, name)
        (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={name: function})
        assert example.examples, name
        assert doctest.DocTestRunner().run(example).failed == 0, name
    table = ctkeras.load("runs/example")("images")
    assert len(table) == 2
    np.testing.assert_allclose(table.probabilities.sum(-1), 1, atol=1e-5)
