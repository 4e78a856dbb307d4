"""What tests of studies share: the verb with a pretended study."""

import sys
import types

import pytest
from click.testing import CliRunner

from ctkeras.cli.study import study as study_study
from ctkeras.study import study, verdict


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Runs the study verb with a pretended study; returns click's result and what the study was given."""
    from ctkeras.report import report
    from ctkeras.search import pool

    calls = types.SimpleNamespace(ended=[], pools=[])

    def run(planned, engine):
        calls.study, calls.engine = planned, engine
        return calls.outcome

    class Pool:
        def __init__(self, count, *, patience, export_all=False):
            calls.pools.append((count, patience))

        def end(self):
            calls.ended.append(True)

    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(verdict, "verdict", lambda outcome: ["the verdict"])
    monkeypatch.setattr(pool, "Pool", Pool)
    monkeypatch.setattr(report, "write_report", lambda folder, *, data: folder / f"report of {data}")

    def call(*words, outcome=True):
        calls.outcome = types.SimpleNamespace(folder=tmp_path) if outcome else None
        monkeypatch.setattr(sys, "argv", ["ctkeras", "study", *words])
        return CliRunner().invoke(study_study, [*words, f"--output_dir={tmp_path}"], standalone_mode=False)

    call.calls, call.folder = calls, tmp_path
    return call
