"""places.json: an entry per process, open until the process says why it ended."""

from ctkeras.runs import places


def test_each_process_adds_an_entry_and_ends_its_own(tmp_path):
    places.begin(tmp_path, seconds=5, processors=2, accelerators=0)
    places.seen(tmp_path)
    (first,) = places.read(tmp_path)
    assert first["ended"] == ""
    assert first["seen"] >= first["begun"] + 5
    places.begin(tmp_path, processors=2, accelerators=1)  # the first was killed
    places.seen(tmp_path, "max_epochs")
    assert [entry["ended"] for entry in places.read(tmp_path)] == ["", "max_epochs"]


def test_a_damaged_file_is_no_entries_and_nothing_fails(tmp_path):
    (tmp_path / places.FILE).write_text('{"places": [{"host": 3}, {"host": "n1", "begun": "x"}')
    assert places.read(tmp_path) == []
    places.seen(tmp_path, "sigterm")
    places.begin(tmp_path, processors=1, accelerators=0)
    assert len(places.read(tmp_path)) == 1
