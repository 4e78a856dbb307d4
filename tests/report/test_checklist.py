"""Checklists: every item in order, answers from files that exist, and nothing from a file becomes markup."""

import json
import re

import pytest
import run_folders
from run_folders import edit

from ctkeras.cli import main
from ctkeras.report import checklist, facts, findings, results

NUMBERS = {
    "claim": [str(i) for i in range(1, 45)],
    "tripod-ai": [
        "1",
        "2",
        "3a",
        "3b",
        "3c",
        "4",
        "5a",
        "5b",
        "6a",
        "6b",
        "6c",
        "7",
        "8a",
        "8b",
        "8c",
        "9a",
        "9b",
        "9c",
        "10",
        "11",
        "12a",
        "12b",
        "12c",
        "12d",
        "12e",
        "12f",
        "12g",
        "13",
        "14",
        "15",
        "16",
        "17",
        "18a",
        "18b",
        "18c",
        "18d",
        "18e",
        "18f",
        "19",
        "20a",
        "20b",
        "20c",
        "21",
        "22",
        "23a",
        "23b",
        "24",
        "25",
        "26",
        "27a",
        "27b",
        "27c",
    ],
    "metrics": [str(i) for i in range(1, 15)],
}


@pytest.fixture
def found(tmp_path):
    paths = run_folders.write(tmp_path, runs=4)
    run_folders.measured(paths[0])
    edit(paths[0] / "metrics.json", val_acc=0.99)
    return findings.find(results.read(tmp_path))


@pytest.mark.parametrize("name", checklist.SOURCES)
def test_numbers_are_those_of_the_publication(found, name):
    assert [item.number for item in checklist.items(found, name)] == NUMBERS[name]


@pytest.mark.parametrize("name", checklist.SOURCES)
def test_an_answer_names_files_and_an_open_item_none(found, name):
    for item in checklist.items(found, name):
        assert bool(item.files) == (item.answer != checklist.OPEN), item
        for file in item.files:
            wild = file.startswith("*/") or "cache" in file
            assert wild or (found.results.place / file).exists() or file.endswith("model.keras"), file


def test_every_fact_is_asked_for_somewhere(found):
    asked = set()
    for name in checklist.SOURCES:
        text = (checklist.resources.files("ctkeras.report.checklists") / f"{name}.csv").read_text()
        asked |= {fact for row in text.splitlines()[1:] for fact in row.rsplit(",", 1)[1].split(";") if fact}
    assert asked == set(facts.FACTS)


def test_answers_hold_the_files_numbers(found):
    by_number = {item.number: item for item in checklist.items(found, "claim")}
    tried = sorted({json.loads((run.folder / "config.json").read_text())["lr"] for run in found.runs})
    assert all(f"{lr:.2g}"[:3] in by_number["25"].answer for lr in tried)
    assert "4 runs" in by_number["25"].answer
    assert "Worst case: blur" in by_number["30"].answer
    assert "0.822" in by_number["37"].answer
    assert by_number["44"].answer == checklist.OPEN


def test_text_of_files_stays_text(tmp_path):
    (path,) = run_folders.write(tmp_path, runs=1)
    edit(path / "metrics.json", versions="<script>alert(1)</script> | [x](y) `z`")
    text = checklist.markdown(findings.find(results.read(tmp_path)), "claim")
    assert "<script>" not in text
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in text.splitlines() if line.startswith("| "))


def test_the_verb_writes_it_beside_the_page(tmp_path):
    run_folders.write(tmp_path / "runs", runs=1)
    with pytest.raises(SystemExit) as end:
        main.main(["report", str(tmp_path / "runs"), "--checklist", "tripod-ai"])
    assert end.value.code == 0
    assert "TRIPOD+AI" in (tmp_path / "runs" / "checklist-tripod-ai.md").read_text()
    assert 'id="checklist"' in (tmp_path / "runs" / "report.html").read_text()
    with pytest.raises(SystemExit) as end:
        main.main(["report", str(tmp_path / "runs"), "--checklist", "other"])
    assert end.value.code == 2
