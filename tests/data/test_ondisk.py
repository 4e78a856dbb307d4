"""Rows of arrays on disk behave as the array they stand for, and are not copied when they are selected or joined."""

import pathlib
import re

import numpy as np
import pytest

from ctkeras.data import ondisk


@pytest.fixture
def parts(tmp_path):
    """Two arrays on disk and both as one in memory: uint8 [5, 4, 4] and [3, 4, 4]."""
    whole = np.random.default_rng(0).integers(0, 256, (8, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "a.npy", whole[:5])
    np.save(tmp_path / "b.npy", whole[5:])
    return *(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"), whole


def test_joined_and_selected_rows_are_those_of_the_array(parts):
    first, second, whole = parts
    rows = ondisk.joined(first, second)
    assert (
        isinstance(rows, ondisk.Rows) and rows.shape == whole.shape and len(rows) == 8 and rows.nbytes == whole.nbytes
    )
    for key in (0, -1, slice(2, 7), np.array([6, 0, 6]), np.arange(8) % 2 == 0, [1, 5]):
        assert (rows[key] == whole[key]).all()
    order = np.array([7, 2, 4, 0])
    chosen = ondisk.select(rows, order)
    assert isinstance(chosen, ondisk.Rows) and (np.asarray(chosen) == whole[order]).all()
    again = ondisk.select(chosen, np.array([True, False, True, False]))
    assert [image.tolist() for image in again] == whole[[7, 4]].tolist()
    assert (np.asarray(ondisk.joined(again, whole)) == np.concatenate([whole[[7, 4]], whole])).all()


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    def held():  # kB of files in this process's memory
        return int(re.search(r"RssFile:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])

    monkeypatch.setattr(ondisk, "_HELD", 2**22)
    np.save(tmp_path / "a.npy", np.arange(64 * 2**20, dtype=np.uint8).reshape(64, 2**20))
    rows = ondisk.joined(np.load(tmp_path / "a.npy", mmap_mode="r"), np.zeros((0, 2**20), np.uint8))
    for sums in ([int(image.sum()) for image in rows], [int(rows[at : at + 2].sum()) for at in range(0, 64, 2)]):
        assert sum(sums) == 64 * 2**20 * 255 // 2  # every byte equally often
    before = held()
    assert sum(int(image[::4096].sum()) for image in rows) == 0
    assert held() - before < 32 * 1024  # of 64 MiB


def test_arrays_in_memory_stay_arrays():
    array = np.arange(6).reshape(3, 2)
    assert isinstance(ondisk.select(array, np.array([0])), np.ndarray)
    assert isinstance(ondisk.joined(array, array), np.ndarray)


def test_scratch_is_filled_in_any_order_and_deleted(tmp_path):
    with ondisk.scratch(tmp_path / "new", ("a",), 3) as (one,):
        for number in (2, 0, 1):
            one.put(number, np.full((2, 2), number, np.uint8))
        assert (one.array()[:, 0, 0] == [0, 1, 2]).all()
    assert not list((tmp_path / "new").iterdir())
