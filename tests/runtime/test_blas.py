"""Small matrix products run on one thread, large ones on as many as before."""

import numpy as np
import threadpoolctl

from ctkeras.runtime import blas
from ctkeras.training import newton


def counts():
    """Threads of each BLAS in this process."""
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_one_thread_where_matrices_are_small_and_as_before_afterwards():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = counts()
        with blas.threads_for(blas.SMALL):
            assert set(counts()) == {1}
        assert counts() == before
        with blas.threads_for(blas.SMALL + 1):
            assert counts() == before


def test_a_head_is_solved_on_one_thread(monkeypatch):
    seen = []
    real = newton._newton
    monkeypatch.setattr(newton, "_newton", lambda *a, **k: seen.append(counts()) or real(*a, **k))
    rows = np.random.default_rng(0).normal(size=(20, 3))
    problem = {"weights": np.ones((1, 20)), "strengths": np.ones(1), "tolerance": 1e-6}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        newton.minimise(rows, np.ones(3), np.eye(2)[np.arange(20) % 2], **problem)
    assert seen and all(set(each) == {1} for each in seen)
