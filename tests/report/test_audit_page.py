"""data check: what it prints, its one JSON object, its exit code, and the page with the pairs side by side."""

import base64
import html.parser
import io
import json
import pathlib
import re

import browser
import numpy as np
import pytest
from image_sets import as_jpeg, clean_set, write_images, write_set
from PIL import Image

from ctkeras.audit import audit, summary
from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.data import crop, decoded, images, layout, sources
from ctkeras.report import audit_page
from ctkeras.runtime.files import folder_bytes
from ctkeras.training.inputs import load_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


FAULTY = {
    "test/a/same.png": (0, "RGB"),
    "test/a/near.jpg": as_jpeg(1),
    "valid/a/<b>&.png": 2,
    "train/b/torn.png": 2,
    "train/a/bad.png": b"no image",
    "test/b/bad.jpg": as_jpeg(3)[:500],
    "train/b/really.png": as_jpeg(30),
}


@pytest.fixture
def faulty(tmp_path):
    return write_set(tmp_path / "set", clean_set() | FAULTY)


def run(capfd, *arguments):
    """Exit code, standard output and standard error of a command."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main.main([str(argument) for argument in arguments])
    return end.value.code, *capfd.readouterr()


class Parsed(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def test_everything_is_found_and_told_as_one_object(faulty, tmp_path, capfd):
    code, out, err = run(capfd, "data", "check", "--data", faulty.path, "--json", "--html", tmp_path / "page.html")
    assert code == 1
    assert out.count("\n") == 1
    assert "Error" not in err
    found = json.loads(out)
    assert (found["images"], found["distinct_images"], found["near_groups"]) == (15, 12, 11)
    assert found["leaks"] == [
        {"from": "test", "to": "train", "files": 1, "distinct": 1, "exact": True},
        {"from": "test", "to": "train", "files": 1, "distinct": 1, "exact": False},
        {"from": "valid", "to": "train", "files": 1, "distinct": 1, "exact": True},
    ]
    pairs = {frozenset(pair) for pair in found["conflicts"]}
    assert pairs == {frozenset((other, "train/b/torn.png")) for other in ("train/a/2.png", "valid/a/<b>&.png")}
    assert set(found["unreadable"]) == {"train/a/bad.png", "test/b/bad.jpg"}
    assert found["contradicting_formats"] == {"train/b/really.png": "JPEG"}
    assert found["balance"] == {"train": {"a": 3, "b": 5}, "valid": {"a": 2, "b": 1}, "test": {"a": 3, "b": 1}}
    assert found["duplicates"] == [
        ["test/a/same.png", "train/a/0.png"],
        ["train/a/2.png", "train/b/torn.png", "valid/a/<b>&.png"],
    ]
    assert found["near_duplicates"] == [["test/a/near.jpg", "train/a/1.png"]]
    assert found["train_left_out"] == {"leaks": 4, "conflicts": 0}  # 0, 1, 2 and torn, which stands in valid
    assert found["page"] == str(tmp_path / "page.html")


def test_the_same_in_words(faulty, capfd, own_cache):
    code, out, _ = run(capfd, "data", "check", "--data", faulty.path)
    assert code == 1
    for line in (
        "a           3       2       3",
        "15 images, 12 of them distinct; 11 if near-duplicates count as one",
        "LEAK: 1 test image (1 distinct) also appears in train",
        "LEAK: 1 test image (1 distinct) has a near-duplicate in train",
        "LEAK: 1 valid image (1 distinct) also appears in train",
        "training leaves out 4 of its 8 images: 4 that appear in valid or test, exactly or nearly, and 0 with two labels "
        "(--leaks keep uses them all)",
        "unreadable images: 2",
        "  train/b/really.png is JPEG",
    ):
        assert line in out.splitlines()
    path = out.splitlines()[-1].removeprefix("Pairs side by side: ")
    assert path.startswith(str(own_cache))
    assert path.endswith(".html")
    assert "bad.png" in out
    assert "bad.jpg" in out


def test_a_set_without_leaks_exits_0_and_prepare_always(tmp_path, capfd):
    clean = write_set(tmp_path / "clean", clean_set(train__b__copy=0))  # a conflict is no leak
    assert run(capfd, "data", "check", "--data", clean.path)[0] == 0
    leaking = write_set(tmp_path / "leaking", clean_set(test__a__same=0))
    code, checked, _ = run(capfd, "data", "check", "--data", leaking.path)
    assert code == 1
    code, prepared, err = run(capfd, "data", "prepare", "--data", leaking.path)
    assert code == 0
    assert prepared.splitlines()[:-4] == checked.splitlines()[2:-1]  # which begins with the account of its files
    assert "Preparing the audit" not in err  # check has stored it


@pytest.fixture
def decodings(monkeypatch):
    """The names of the images decoded so far, and "audit" for each audit."""
    names = []
    decode, examine = images.in_windows, audit.examine

    def counted(content, wanted, *, name, **options):
        names.append(name)
        return decode(content, wanted, name=name, **options)

    for module in (images, decoded):  # all decoding ends there
        monkeypatch.setattr(module, "in_windows", counted)
    monkeypatch.setattr(audit, "examine", lambda source: names.append("audit") or examine(source))
    return names


def test_prepare_caches_all_that_training_reads_and_decodes_each_image_once(tmp_path, capfd, decodings):
    source = write_set(tmp_path / "set", clean_set(test__a__same=0))
    code, out, _ = run(capfd, "data", "prepare", "--data", source.path)
    assert code == 0
    assert sorted(decodings) == sorted(["audit", *(entry.file for entry in source.entries)])
    decodings.clear()
    data = load_data(source, RunConfig(data=source.path))
    assert data.train.images.shape[1:] == (224, 224)
    assert len(data.train.files) == 5  # and one left out
    decoded.load_split(source, "test", 224, crop.Preparation())
    audit.load(source)
    assert decodings == []
    assert run(capfd, "data", "prepare", "--data", source.path)[0] == 0
    assert decodings == []
    heading, *entries = out.splitlines()[-4:]
    assert re.fullmatch(rf"Cached in \d+\.\d s, fingerprint {source.fingerprint[:16]}:", heading)
    assert [entry.partition(" MB ")[0].split()[:-1] for entry in entries] == [
        ["11", "images", "at", "224", "px"],
        ["thumbnails", "and", "pixel", "hashes"],
        ["the", "audit"],
    ]
    for entry in entries:
        megabytes, folder = re.search(r"([\d.]+) MB +(/.*)$", entry).groups()
        assert float(megabytes) == pytest.approx(folder_bytes(pathlib.Path(folder)) / 1e6, abs=0.05)
    assert float(entries[0].partition(" MB")[0].split()[-1]) == pytest.approx(11 * (224**2 + 32**2) / 1e6, abs=0.06)


def test_prepare_takes_several_sizes(tmp_path, capfd, decodings):
    sizes = ("--image_size", "64", "--image_size", "32")
    code, out, _ = run(capfd, "data", "prepare", "--data", "phantom:12", *sizes)
    assert code == 0
    assert re.findall(r"12 images at (\d+) px", out) == ["32", "64"]
    decodings.clear()
    for size in (32, 64):
        decoded.load_split(sources.open_source("phantom:12"), "train", size, crop.Preparation())
    assert decodings == []
    assert run(capfd, "data", "prepare", "--data", "phantom:12", "--image_size", "31")[0] == 2


def test_check_reuses_the_stored_audit_and_page(tmp_path, capfd, decodings):
    source = write_set(tmp_path / "set", clean_set(test__a__same=0))
    first = run(capfd, "data", "check", "--data", source.path)[1]
    decodings.clear()
    assert run(capfd, "data", "check", "--data", source.path)[1] == first
    assert decodings == []


def test_check_examines_a_set_with_unreadable_images_every_time(faulty, capfd, decodings):
    for _ in range(2):
        decodings.clear()
        assert "unreadable images: 2" in run(capfd, "data", "check", "--data", faulty.path)[1]
        assert decodings.count("audit") == 1


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["--data", "no/such"], "no/such is not a file or folder"),
        ([], "no data given"),
        (["--data", "phantom:12", "--html", "/dev/null/x.html"], "cannot write /dev/null/x.html"),
    ],
)
def test_a_mistake_is_one_line_and_2(capfd, arguments, mention):
    code, out, err = run(capfd, "data", "check", *arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (code, out) == (2, "")
    assert mention in line


def test_pairs_stand_side_by_side_with_words_for_those_who_do_not_see_them(faulty, tmp_path, capfd):
    run(capfd, "data", "check", "--data", faulty.path, "--html", tmp_path / "page.html")
    page = Parsed(tmp_path / "page.html")
    shown = [
        picture["alt"] for picture in page.pictures() if not picture["alt"].endswith((", train", ", valid", ", test"))
    ]
    assert len(shown) == 2 * (3 + 2)  # leaks, conflicts
    assert shown[:4] == ["test/a/same.png, a", "train/a/0.png, a", "test/a/near.jpg, a", "train/a/1.png, a"]
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures())
    assert "valid/a/<b>&.png" in page.text
    assert "<b>&" not in (tmp_path / "page.html").read_text()
    assert not [attributes for _, attributes in page.tags if str(attributes.get("src", "data:")).startswith("http")]


@pytest.mark.slow
def test_the_page_stays_under_10_mb_whatever_the_pictures(tmp_path, own_cache):
    rng = np.random.default_rng(0)
    folder = write_images(tmp_path / "set", classes=("a", "b"), counts={"train": 130, "valid": 1, "test": 1}, size=8)
    for i in range(120):
        noise = Image.fromarray(rng.integers(0, 256, (200, 200), dtype=np.uint8))
        for place in ("train/a", "valid/a", "test/b"):
            noise.save(folder / place / f"{i}.png")
    source = sources.open_source(str(folder))
    audited = audit.examine(source)
    audit_page.write(source, audited, summary.summary(audited), tmp_path / "page.html")
    assert len(Parsed(tmp_path / "page.html").pictures()) > 200
    assert (tmp_path / "page.html").stat().st_size < 10e6


def test_a_generated_set_has_a_page_too(tmp_path, capfd):
    code, out, _ = run(capfd, "data", "check", "--data", "phantom:12", "--html", tmp_path / "page.html")
    assert code == 0
    assert "no image appears in two splits" in out
    assert len(Parsed(tmp_path / "page.html").pictures()) == 12  # two of each split, before and after the crop


@pytest.mark.integration
@pytest.mark.skipif(browser.program() is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_draws_every_picture(faulty, tmp_path, capfd):
    run(capfd, "data", "check", "--data", faulty.path, "--html", tmp_path / "page.html")
    with browser.chromium() as shown:
        for dark in (False, True):
            for width in (1280, 360):
                shown.open(tmp_path / "page.html", width=width, dark=dark)
                assert shown.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
                assert shown.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert shown.complaints == []


def summary_of(**changes):
    """A summary without faults, but for the changes."""
    return {
        "images": 12,
        "distinct_images": 12,
        "near_groups": 12,
        "leaks": [],
        "conflicts": [],
        "unreadable": {},
        "contradicting_formats": {},
        "balance": {split: {"a": 2, "bcdefg": 2} for split in layout.SPLITS},
        "train_left_out": {"leaks": 0, "conflicts": 0},
        "told_by_file": {"images": 1, "reason": "there is only one"},
        "groups": {"by": "patient", "number": 3, "largest": 4, "purity": 1.0},
        "shared_patients": [],
        "lookup": {split: {"speaks": False} for split in ("valid", "test")},
        "shift": {split: {when: {"speaks": False} for when in ("before", "after")} for split in ("valid", "test")},
        **changes,
    }


def test_a_summary_without_faults_in_words():
    assert list(summary.lines(summary_of())) == [
        "class    train   valid    test",
        "a            2       2       2",
        "bcdefg       2       2       2",
        "all          4       4       4",
        "",
        "12 images, 12 of them distinct",
        "no image appears in two splits",
        "3 patients; the largest has 4 images, and 100% have one class",
        "equal images under two labels: none",
        "unreadable images: none",
        "images in another format than their name says: none",
        "class predicted from the file without its pixels: not measured, because there is only one",
    ]


@pytest.mark.parametrize(("count", "more"), [(5, []), (6, ["  … and 1 more"]), (9, ["  … and 4 more"])])
def test_a_list_shows_its_first_five(count, more):
    lines = list(summary.lines(summary_of(unreadable={str(i): f"file {i}" for i in range(count)})))
    at = lines.index(f"unreadable images: {count}")
    assert lines[at + 1 : -2] == [*(f"  file {i}" for i in range(5)), *more]


@pytest.mark.parametrize(("leaks", "conflicts"), [(1, 0), (0, 2), (1, 2)])
def test_what_training_leaves_out_is_shown_for_leaks_and_for_conflicts(leaks, conflicts):
    (line,) = [
        line
        for line in summary.lines(summary_of(train_left_out={"leaks": leaks, "conflicts": conflicts}))
        if line.startswith("training")
    ]
    assert line.startswith(f"training leaves out {leaks + conflicts} of its 4 images: {leaks} that ")
    assert f"and {conflicts} with two labels" in line


@pytest.mark.parametrize(
    ("files", "exact", "words"),
    [
        (1, True, "1 test image (1 distinct) also appears in train"),
        (2, True, "2 test images (1 distinct) also appear in train"),
        (1, False, "1 test image (1 distinct) has a near-duplicate in train"),
        (2, False, "2 test images (1 distinct) have a near-duplicate in train"),
    ],
)
def test_a_leak_is_a_sentence(files, exact, words):
    leak = {"from": "test", "to": "train", "files": files, "distinct": 1, "exact": exact}
    assert summary.sentence(leak) == words


@pytest.mark.parametrize(("count", "rest"), [(40, ""), (41, "1 more"), (50, "10 more")])
def test_a_page_shows_forty_pairs_and_counts_the_rest(count, rest):
    pair = tuple(audit.Image(f"{i}.png", "train", "a", i, 0, "PNG", "L", 8, 8) for i in range(2))
    drawn = audit_page._side_by_side([pair] * count, {}, {frozenset((0, 1)): 0.876})
    assert drawn.count("<figure") == 40
    assert drawn.count("agreement 0.88") == 40
    assert (rest in drawn) and ("more" in drawn) == bool(rest)


def test_pictures_take_the_best_quality_that_fits(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "set", classes=("a", "b"), counts=dict.fromkeys(layout.SPLITS, 2), size=300)
    source = sources.open_source(str(folder))
    files = [entry.file for entry in source.entries]
    best = audit_page._pictures(source, files)
    assert set(best) == set(files)
    size = sum(map(len, best.values()))
    monkeypatch.setattr(audit_page, "BYTES", size)
    assert audit_page._pictures(source, files) == best
    assert audit_page._pictures(source, files * 2) != best  # a file that is shown twice counts twice
    monkeypatch.setattr(audit_page, "BYTES", size - 1)
    smaller = audit_page._pictures(source, files)
    assert sum(map(len, smaller.values())) < 0.8 * size
    content = base64.b64decode(best[files[0]].partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (200, 200)


def test_what_the_page_says_of_near_duplicates_is_what_counts():
    from ctkeras.audit import near

    assert (near.THRESHOLD, near._PERCENTILE) == (0.85, 100 - 85)
    assert "85% of the small blocks that show anything correlate at 0.85 or more" in audit_page._method().content
