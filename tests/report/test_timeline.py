"""The report's timeline: which nodes trained what, what was lost, and hours spent."""

import json

import run_folders
from pages import Parsed, written

from ctkeras.report.sections import timeline
from ctkeras.runs import places


def entry(host="n1", *, begun=0.0, hours=1.0, ended="max_epochs", **more):
    facts = {"processors": 4, "accelerators": 0, "begun": begun * 3600, "seen": (begun + hours) * 3600}
    return {"host": host, **facts, "ended": ended, **more}


def record(folder, *entries):
    (folder / places.FILE).write_text(json.dumps({"format": 1, "places": entries}))


def test_nodes_crashes_requeues_and_hours_are_shown(tmp_path):
    one, two, three = run_folders.write(tmp_path, runs=3)
    record(one, entry(), entry("n2", begun=5, ended="", slurm_job="7", slurm_task="3"))
    record(two, entry("n2", begun=1, accelerators=2, slurm_job="7", slurm_task="1", slurm_restarts="1"))
    record(three, entry(begun=0.5, hours=1, ended="sigterm"))
    section = Parsed(written(tmp_path)).sections["timeline"]
    assert "3 runs on 2 nodes (n1, n2) within 6.0 h" in section
    assert "2 GPU hours and 12 CPU core hours" in section
    assert (
        "1 run continued by another process; 1 process ended without a word; 1 start after a requeue by Slurm."
        in section
    )
    assert "7_3" in section
    assert "stopped or failed" in section


def test_a_requeued_task_that_trains_several_runs_was_requeued_once(tmp_path):
    task = {"slurm_job": "7", "slurm_task": "1", "slurm_restarts": "1"}
    for number, folder in enumerate(run_folders.write(tmp_path, runs=2)):
        record(folder, entry(begun=number, **task))
    assert "1 start after a requeue by Slurm." in Parsed(written(tmp_path)).sections["timeline"]


def test_what_overlaps_on_a_node_lies_in_lanes_of_its_own():
    stretches = [
        timeline.Stretch(f"r{number}", host, begun, begun + 2, "finished", 1, False, 0, "")
        for number, (host, begun) in enumerate([("a", 0), ("a", 1), ("b", 1), ("a", 2)])
    ]
    assert [one.lane for one in timeline._in_lanes(stretches)] == [0, 1, 0, 0]


def test_runs_that_do_not_say_where_they_trained_have_no_timeline(tmp_path):
    folders = run_folders.write(tmp_path, runs=2)
    (folders[0] / places.FILE).write_text("{")
    record(folders[1], {"host": "n1"}, "nonsense")
    assert "timeline" not in Parsed(written(tmp_path)).sections


def test_one_run_has_no_timeline(tmp_path):
    (folder,) = run_folders.write(tmp_path, runs=1)
    record(folder, entry())
    assert "timeline" not in Parsed(written(tmp_path)).sections
