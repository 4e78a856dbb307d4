"""A report says what the run folders hold, whatever state they are in, and shows it to everybody."""

import csv
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time

import browser
import numpy as np
import pytest
import run_folders
from pages import Parsed, written
from run_folders import edit

from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison
from ctkeras.report import findings, importance, report, results, savings
from ctkeras.report.sections.record import train_command
from ctkeras.runtime.console import seconds_text

SECTIONS = (
    "numbers",
    "won",
    "architectures",
    "test",
    "hyperparameters",
    "coordinates",
    "importance",
    "curves",
    "hyperband",
)
SECTIONS += ("time", "confusion", "reliability", "errors", "data", "reproduce", "card")
EVIL = '<script>alert("1")</script>'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search of 30 runs over three architectures; never written to."""
    folder = tmp_path_factory.mktemp("search") / "runs"
    run_folders.write(folder, runs=30, models=("resnet18", "efficientnet_b0", "mobilenet_v2"))
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return written(runs, out=tmp_path_factory.mktemp("page") / "report.html")


def test_all_sections_are_there_and_linked(page):
    parsed = Parsed(page)
    assert set(SECTIONS) <= set(parsed.sections)
    targets = {link["href"] for link in parsed.named("a")}
    assert {f"#{name}" for name in SECTIONS} <= targets
    assert {target[1:] for target in targets} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert page.lower().count("not for diagnosis") >= 2


def test_the_page_needs_no_other_file(page):
    parsed = Parsed(page)
    for tag, attributes in parsed.elements:
        assert tag not in ("iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "action", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\(|@import", page)
    policy = next(m["content"] for m in parsed.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_numbers_are_those_of_the_files(runs, page):
    metrics = {path.name: json.loads((path / "metrics.json").read_text()) for path in runs.iterdir()}
    best = min(metrics, key=lambda name: (-metrics[name]["val_acc"], metrics[name]["val_loss"], name))
    sections = Parsed(page).sections
    assert best in sections["won"]
    assert f"{metrics[best]['val_acc']:.3f}" in sections["won"]
    configs = {name: json.loads((runs / name / "config.json").read_text()) for name in metrics}
    for model in ("resnet18", "efficientnet_b0", "mobilenet_v2"):
        top = max(m["val_acc"] for name, m in metrics.items() if configs[name]["model_name"] == model)
        assert f"{top:.3f}" in sections["architectures"]
    for name, found in metrics.items():
        assert name in sections["coordinates"], "the table below the chart lists every run"
        assert f"{found['val_acc']:.3f}" in sections["coordinates"]
    stopped = [m for m in metrics.values() if m["stopped_by"] == "hyperband"]
    saved = sum(30 - m["epochs"] for m in stopped)
    assert f"stopped {len(stopped)} of 30 runs: {saved:,} of 900 epochs" in sections["hyperband"]
    assert f"({saved / 900:.0%}) were not trained, about {seconds_text(2.0 * saved)}" in sections["hyperband"]
    spent = sum(m["seconds_total"] for m in metrics.values())
    assert f"The runs took {seconds_text(spent)}" in sections["time"]
    assert "minutes, sum over all runs" in sections["time"]
    rows = list(csv.DictReader((runs / best / "predictions.csv").open()))
    wrong = sum(row["label"] != row["predicted"] for row in rows)
    assert f"{wrong} of {len(rows)} images were misclassified" in sections["errors"]


def test_each_section_with_numbers_names_its_files(page):
    sections = Parsed(page).sections
    for name in set(SECTIONS) - {"test", "data"}:
        assert re.search(r"Numbers from .*(\.json|\.csv)", sections[name]), name


def test_every_chart_has_its_numbers_as_a_table(page):
    for figure in re.findall(r"<figure>.*?</figure>", page, flags=re.S):
        assert "<svg" in figure
    charts = re.findall(r"<svg[^>]*role=\"img\"", page)
    assert len(charts) > 10
    for name in (
        "architectures",
        "coordinates",
        "importance",
        "curves",
        "hyperband",
        "time",
        "confusion",
        "reliability",
    ):
        section = re.search(rf'<section id="{name}".*?</section>', page, flags=re.S).group()
        assert "<svg" in section and "<table" in section, name


def test_a_single_run_can_be_reported(runs, tmp_path):
    folder = next(runs.iterdir())
    sections = Parsed(written(folder, out=tmp_path / "one.html")).sections
    assert f"{json.loads((folder / 'metrics.json').read_text())['val_acc']:.3f}" in sections["won"]
    assert "Within the noise" not in sections["won"] and "More than noise" not in sections["won"]
    assert "seconds, sum over all runs" in sections["time"]
    assert "Numbers from metrics.json" in " ".join(sections["won"].split())


def test_it_is_written_into_the_folder_unless_out_is_given(tmp_path):
    run_folders.write(tmp_path / "runs", runs=2)
    assert report.write_report(tmp_path / "runs") == tmp_path / "runs" / "report.html"
    assert (tmp_path / "runs" / "report.html").exists()
    elsewhere = tmp_path / "new" / "x.html"
    assert report.write_report(tmp_path / "runs", elsewhere) == elsewhere
    before = sorted((tmp_path / "runs").rglob("*"))
    report.write_report(tmp_path / "runs")  # its own page is no run
    assert sorted((tmp_path / "runs").rglob("*")) == before


# What won, and noise


@pytest.mark.parametrize(
    ("right", "badge"), [((60, 59), "Within the noise"), ((60, 40), "More than noise"), ((60, 60), "Within the noise")]
)
def test_the_lead_is_called_noise_by_the_paired_test(tmp_path, right, badge):
    sections = Parsed(written(run_folders.answering(tmp_path, right))).sections
    assert badge in sections["won"]
    p = float(re.search(r"p = ([\d.e-]+)", sections["won"])[1])
    assert (p >= 0.05) == (badge == "Within the noise")
    assert "paired permutation test over" in sections["won"]


def test_without_predictions_nothing_is_said_about_noise(tmp_path):
    for path in run_folders.write(tmp_path, runs=3):
        (path / "predictions.csv").unlink()
    sections = Parsed(written(tmp_path)).sections
    assert "No interval" in sections["won"]
    assert "predictions.csv is missing" in sections["confusion"]


def test_intervals_hold_the_accuracy_and_shrink_with_more_images():
    few, many = ({str(i): i % 4 > 0 for i in range(n)} for n in (72, 720))
    a, b = (comparison.accuracy_interval(right, {}) for right in (few, many))
    assert a.value == b.value == 0.75
    assert a.low < b.low < 0.75 < b.high < a.high
    share = (a.high - a.low) / (b.high - b.low)
    assert share == pytest.approx(np.sqrt(10), rel=0.15)


def test_copies_of_an_image_are_not_new_evidence():
    right = {str(i): i % 4 > 0 for i in range(80)}
    without_copies = comparison.accuracy_interval(right, {})
    copied = comparison.accuracy_interval(right, {str(i): i // 4 * 4 + i % 2 for i in range(80)})
    assert copied.high - copied.low != pytest.approx(without_copies.high - without_copies.low, rel=0.02)


def test_where_every_answer_is_right_the_interval_is_wilsons_over_distinct_images():
    from scipy import stats

    right = {str(i): True for i in range(72)}
    for twins, distinct in (({}, 72), ({str(i): i // 2 for i in range(72)}, 36)):
        interval = comparison.accuracy_interval(right, twins)
        wilson = stats.binomtest(distinct, distinct).proportion_ci(0.95, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((wilson.low, wilson.high))


STUDY = {
    "study": "study-1",
    "command": "python -m ctkeras study --data x.zip",
    "winner": {"config": {"model_name": "resnet18", "lr": 1e-3}, "mean_val_acc": 0.7123, "sd_val_acc": 0.0123},
    "runner_up": {"config": {"model_name": "efficientnet_b0", "lr": 2e-3}, "mean_val_acc": 0.7},
    "ahead": 0.0123,
    "verdict": "The difference of 0.012 may be chance.",
    "edges": ["lr ended at 0.01, the highest value searched: a wider range may do better."],
    "seeds": 5,
    "validation_images": 72,
    "inside_noise": True,
    "phases": [
        {
            "phase": 1,
            "trials": 45,
            "failed": 2,
            "stopped": 20,
            "epochs_saved": 431,
            "seconds": 3600,
            "sweep_file": "phase1.yaml",
        },
        {
            "phase": 2,
            "trials": 20,
            "failed": 0,
            "stopped": 0,
            "epochs_saved": 0,
            "seconds": None,
            "best": {"val_acc": 0.8123},
        },
    ],
}


def test_a_studys_own_verdict_and_final_model_are_taken(tmp_path):
    paths = run_folders.write(tmp_path, runs=6)
    final = sorted(paths, key=lambda path: json.loads((path / "metrics.json").read_text())["val_acc"])[0]
    (tmp_path / "study.json").write_text(json.dumps(STUDY | {"final": {"folder": final.name, "model": "x"}}))
    sections = Parsed(written(tmp_path)).sections
    assert f"Run {final.name}" in sections["won"]
    assert "0.712 ± 0.012" in sections["won"] and "0.012 behind" in sections["won"]
    for text in (
        "Within the noise",
        "may be chance",
        "a wider range",
        "5 seeds",
        "study.json",
    ):
        assert text in " ".join(sections["won"].split()), text
    assert "python -m ctkeras study --data x.zip" in sections["reproduce"]
    assert all(text in sections["phases"] for text in ("phase1.yaml", "431", "0.812", "60 min"))
    (tmp_path / "study.json").write_text(json.dumps(STUDY | {"inside_noise": False}))
    assert "More than noise" in Parsed(written(tmp_path)).sections["won"]


@pytest.mark.parametrize(
    "study",
    [
        "{",
        "[]",
        '{"inside_noise": true}',
        '{"phases": [1, {"best": 3, "seconds": "x"}, {"seconds": -1, "trials": {}}]}',
        '{"inside_noise": true, "winner": 3, "runner_up": [], "final": {"folder": 7}}',
        '{"inside_noise": false, "ahead": "x", "noise": null, "winner": {"mean_val_acc": {}}, "final": "nowhere"}',
    ],
)
def test_a_damaged_study_still_gives_a_report(tmp_path, study):
    run_folders.write(tmp_path, runs=3)
    (tmp_path / "study.json").write_text(study)
    assert "What won" in written(tmp_path)


def test_test_numbers_are_given_three_ways(tmp_path):
    (path,) = run_folders.write(tmp_path, runs=1)
    numbers = {
        "acc": 0.71,
        "acc_low": 0.61,
        "acc_high": 0.81,
        "n": 315,
        "opened": "2026-01-02T03:04:05+00:00",
        "openings": 3,
    }
    numbers |= {"clean_acc": 0.62, "clean_acc_low": 0.52, "clean_acc_high": 0.72, "clean_n": 280}
    numbers |= {"distinct_acc": 0.63, "distinct_acc_low": 0.53, "distinct_acc_high": 0.73, "distinct_n": 300}
    (path / "metrics_test.json").write_text(json.dumps(numbers))
    sections = Parsed(written(tmp_path)).sections
    for text in (
        "0.710 (0.610–0.810)",
        "0.620 (0.520–0.720)",
        "0.630 (0.530–0.730)",
        "n = 280",
        "2026-01-02",
        "opening number 3",
    ):
        assert text in sections["test"], text
    assert "0.710" in sections["numbers"]
    edit(path / "metrics_test.json", openings=1)
    assert "for the first time" in Parsed(written(tmp_path)).sections["test"]


def test_a_closed_test_split_stays_closed(page):
    assert "has not been opened" in Parsed(page).sections["test"]


# What was saved, what mattered


def test_stopped_runs_and_reused_programs_are_counted_by_hand(tmp_path):
    paths = run_folders.write(tmp_path, runs=4, bands=(5,))
    same = {"model_name": "resnet18", "freeze_backbone": True, "batch_size": 16, "max_epochs": 30}
    times = ((100.0, 20.0), (70.0, 5.0), (65.0, 25.0), (62.0, 0.0))  # seconds in all, compiling
    for path, (total, compiling) in zip(paths, times, strict=True):
        edit(path / "config.json", **same)
        edit(path / "metrics.json", seconds_total=total, seconds_compile=compiling, stopped_by="hyperband", epochs=5)
        rows = list(csv.DictReader((path / "history.csv").open()))[:5]
        run_folders.write_csv(path / "history.csv", [row | {"epoch_seconds": "10"} for row in rows])
    runs = results.read(tmp_path).runs
    stopped = savings.stopped(runs, by=("hyperband",))
    assert [(s.limit, s.epochs, s.seconds) for s in stopped] == [(30, 5, 250.0)] * 4
    (programs,) = savings.programs_reused(runs)
    assert programs.saved == pytest.approx(15 + 0 + 20)  # a later run that spent more is no loss
    (prepared,) = savings.preparation_reused(runs)
    # All else: 100-50, 70-50, 65-50 and 62-50 seconds; training holds the compiling.
    assert prepared.saved == pytest.approx((50 - 20) + (50 - 15) + (50 - 12))
    for run, (total, _) in zip(sorted(runs, key=lambda run: run.name), times, strict=True):
        assert sum(savings.spent(run)) == pytest.approx(total)


def test_importance_finds_what_a_result_depends_on(runs):
    found = results.read(runs)
    made = [results.Run(run.name, None, run.config, {"val_acc": 0.5 + run.config["dropout"]}, ()) for run in found.runs]
    ranked = importance.importance(made, results.searched(made))
    assert ranked.names[0] == "dropout"
    assert ranked.loss[0] > 5 * abs(ranked.loss[1])
    assert ranked.explained > 0.8


@pytest.mark.slow
def test_importance_of_chance_is_called_what_it_is(tmp_path):
    rng = np.random.default_rng(0)
    for path in run_folders.write(tmp_path, runs=40):
        edit(path / "metrics.json", val_acc=float(rng.uniform(0.4, 0.9)))
    section = Parsed(written(tmp_path)).sections["importance"]
    assert "explains almost nothing" in section


def test_too_few_runs_have_no_importance(tmp_path):
    run_folders.write(tmp_path, runs=5)
    assert "Not shown" in Parsed(written(tmp_path)).sections["importance"]


def test_seeds_of_one_configuration_are_shown_together(tmp_path):
    paths = run_folders.write(tmp_path, runs=4)
    config = json.loads((paths[0] / "config.json").read_text())
    for seed, path in enumerate(paths[:3]):
        (path / "config.json").write_text(json.dumps(config | {"seed": seed}))
        edit(path / "metrics.json", val_acc=(0.70, 0.72, 0.77)[seed])
    section = Parsed(written(tmp_path)).sections["seeds"]
    assert "0.730 ± 0.036" in section
    assert "0.700 0.720 0.770" in section
    for path in paths[:3]:
        edit(path / "metrics.json", val_acc=1.0)
    section = Parsed(written(tmp_path)).sections["seeds"]
    assert "1.000 with each of 3 seeds" in section and "±" not in section.replace("± one standard deviation", "")


def test_the_command_trains_the_same_run_again(runs):
    for run in results.read(runs).runs[:5]:
        words = shlex.split(train_command(run))
        assert words[:4] == ["python", "-m", "ctkeras", "train"]
        flags = dict(zip((word.removeprefix("--") for word in words[4::2]), words[5::2], strict=True))
        assert RunConfig.from_mapping(flags).to_dict() == dict(run.config)


# Hostile and half-finished folders


@pytest.fixture
def hostile(tmp_path):
    """Runs whose every text would like to be markup."""
    classes = (EVIL, "a&b<i>", "\"quoted\" 'x'", "--></style></script>")
    folder = tmp_path / f"{EVIL.replace('/', '')} & $title ${{body}}"
    paths = run_folders.write(folder, runs=14, classes=classes, bands=(5,))
    for path in paths:
        edit(path / "config.json", data=f"{EVIL}.zip", weights_dir='"><img src=x onerror=alert(1)>')
        edit(path / "metrics.json", versions=EVIL, data_fingerprint=EVIL, stopped_by=EVIL)
        edit(path / "contract.json", intended_use=f"{EVIL} not for diagnosis", input_colour=EVIL, input_range=EVIL)
        rows = list(csv.DictReader((path / "predictions.csv").open()))
        run_folders.write_csv(
            path / "predictions.csv", [row | {"file": f'{EVIL}/"{i}.png'} for i, row in enumerate(rows)]
        )
    (folder / "<b>broken").mkdir()
    (folder / "<b>broken" / "config.json").write_text(EVIL)
    (folder / "study.json").write_text(json.dumps(STUDY | {"command": EVIL, "seeds": EVIL, "ahead": EVIL}))
    return folder


def test_nothing_from_a_file_becomes_markup(hostile, page):
    parsed, honest = Parsed(written(hostile)), Parsed(page)
    assert len(parsed.named("script")) == len(parsed.named("style")) == 1
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in honest.elements} | {"i", "li", "ul"} - {"i"}
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert names <= {name for _, attributes in honest.elements for name in attributes}
    assert any(EVIL in words for words in parsed.words), "it is shown, as text"
    assert parsed.sections["confusion"].count(EVIL) >= 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda path: (path / "metrics.json").unlink(), "it has not finished", id="unfinished"),
        pytest.param(lambda path: (path / "config.json").unlink(), "config.json (No such file", id="no config"),
        pytest.param(lambda path: (path / "config.json").write_text("{"), "is not JSON", id="half a config"),
        pytest.param(lambda path: (path / "metrics.json").write_text("[]"), "is not a JSON object", id="other metrics"),
        pytest.param(lambda path: edit(path / "metrics.json", val_acc=None), "it has no val_acc", id="no result"),
        pytest.param(lambda path: edit(path / "metrics.json", val_acc="0.9"), "it has no val_acc", id="text"),
        pytest.param(lambda path: edit(path / "metrics.json", val_acc=7), "it has no val_acc", id="not a share"),
        pytest.param(lambda path: edit(path / "config.json", lr="fast"), "lr must be a number", id="a value"),
        pytest.param(
            lambda path: edit(path / "config.json", model_name=EVIL), "model_name must be one of", id="a name"
        ),
    ],
)
def test_a_run_that_cannot_be_used_is_listed_with_its_reason(tmp_path, damage, reason):
    paths = run_folders.write(tmp_path, runs=4)
    damage(paths[1])
    parsed = Parsed(written(tmp_path))
    assert "run-0001" in parsed.sections["skipped"]
    assert reason in parsed.sections["skipped"]
    assert "1 entry could not be used" in parsed.sections["skipped"]
    assert "run-0001" not in "".join(text for name, text in parsed.sections.items() if name != "skipped")


def test_a_run_without_its_lesser_files_is_still_shown(tmp_path):
    paths = run_folders.write(tmp_path, runs=3)
    for path in paths:
        for name in ("history.csv", "predictions.csv", "contract.json"):
            (path / name).unlink()
    sections = Parsed(written(tmp_path)).sections
    assert "run-0000" in sections["architectures"]
    assert "no run has a readable history.csv" in sections["curves"]
    assert "skipped" not in sections


HISTORIES = {
    "no CSV": (lambda text: text.replace("0.", '"0.', 1), "cannot read"),
    "no text": (lambda text: text.replace("0.", "\udcff", 1), "cannot read"),
    "empty": (lambda text: "", "has no epochs"),
    "no epochs": (lambda text: text.replace("epoch,", "when,", 1), "line 2: epoch is missing"),
    "an epoch that is not a number": (
        lambda text: text.replace("\n3,", "\ninf,", 1).replace("\r3,", "\rinf,", 1),
        "epoch is 'inf'",
    ),
    "a word": (lambda text: text.replace(",0.", ",?0.", 1), "line 2: train_acc is '?0."),
    "cut short": (lambda text: text[: text.rindex(",") - 25], " is missing"),
}


@pytest.mark.parametrize("damage", HISTORIES)
def test_a_damaged_history_is_reported_and_its_run_shown(tmp_path, capfd, damage):
    spoil, reason = HISTORIES[damage]
    paths = run_folders.write(tmp_path, runs=3)
    history = paths[1] / "history.csv"
    before, spoilt = history.read_bytes().decode(), history
    spoilt.write_bytes(spoil(before).encode("utf-8", "surrogateescape"))
    assert spoilt.read_bytes() != before.encode()
    page = written(tmp_path)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("run-0001: the report has no learning curves for it; ")
    assert reason in line
    sections = Parsed(page).sections
    assert "1 run is shown without learning curves" in sections["skipped"]
    assert "run-0001" in sections["skipped"]
    assert line.partition("; ")[2] in sections["skipped"]
    assert "run-0001" not in sections["curves"]
    assert "run-0000" in sections["curves"]
    assert len(results.read(tmp_path).runs) == 3


def test_a_loss_that_was_not_a_number_is_not_damage(tmp_path, capfd):
    path = run_folders.write(tmp_path, runs=1)[0] / "history.csv"
    rows = list(csv.DictReader(path.open()))
    run_folders.write_csv(path, [row | {"train_loss": "nan"} for row in rows])
    assert "skipped" not in Parsed(written(tmp_path)).sections
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("attempts", [4, pytest.param(80, marks=pytest.mark.slow)])
def test_random_damage_never_ends_a_report(tmp_path, attempts):
    run_folders.write(tmp_path / "whole", runs=6)
    rng, reported = random.Random(0), 0
    for attempt in range(attempts):
        folder = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", folder)
        for path in rng.sample(sorted(folder.rglob("*.*")), 6):
            content = bytearray(path.read_bytes())
            kind = rng.randrange(4)
            if kind == 0:
                content = content[: rng.randrange(len(content))]
            elif kind == 1:
                for _ in range(20):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            elif kind == 2:
                words = re.findall(rb"-?\d+\.?\d*", content)
                content = content.replace(
                    rng.choice(words), rng.choice([b"nan", b"1e999", b"-1", b'"x"', b"null", b"{}"])
                )
            else:
                path.unlink()
                continue
            path.write_bytes(content)
        try:
            written(folder)
            reported += 1
        except UserError:
            continue
        finally:
            shutil.rmtree(folder)
    assert reported > attempts / 2


@pytest.mark.parametrize("content", ["nothing", "a file", "broken runs", "no folder"])
def test_without_a_run_there_is_one_line_and_exit_code_2(tmp_path, content):
    place = tmp_path / "place"
    if content == "a file":
        place.write_text("x")
    elif content != "no folder":
        place.mkdir()
    if content == "broken runs":
        for path in run_folders.write(place, runs=2):
            (path / "metrics.json").unlink()
    done = command("report", str(place))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "ctkeras", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"WANDB_MODE": "disabled"},
    )


def test_the_verb_prints_the_pages_path_last(tmp_path, capfd):
    def invoke(out):
        with pytest.raises(SystemExit) as exit_:
            main.main(["report", str(tmp_path / "runs"), "--out", str(out)])
        return exit_.value.code, *capfd.readouterr()

    run_folders.write(tmp_path / "runs", runs=2)
    code, out, err = invoke(tmp_path / "a.html")
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size > 10_000
    for wrong, why in ((tmp_path, "is a folder"), (tmp_path / "a.html" / "b.html", "is a file")):
        code, _, err = invoke(wrong)
        assert code == 2 and why in err
    code, _, err = invoke(tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").exists()
    assert str(tmp_path / "new") in err


def test_a_sweep_needs_a_login(tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {"HOME": str(tmp_path)}
    words = [sys.executable, "-m", "ctkeras", "report", "entity/project/abc123"]
    modes = ({}, *({"WANDB_MODE": mode} for mode in ("offline", "dryrun", "disabled")))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    processes = [subprocess.Popen(words, env=env | mode, **pipes) for mode in modes]
    (_, login), *others = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [2] * 4
    assert "wandb login" in login
    for out, err in others:
        assert out == ""
        assert re.fullmatch(r"Error: .* needs W&B online: unset WANDB_MODE.*\n", err)  # and no line of wandb's own


TRAIN = """
import wandb
run = wandb.init()
best = 0.5 + 0.1 * (run.config["model_name"] == "resnet18") - run.config["lr"]
names = ("epoch", "train_acc", "train_loss", "val_acc", "val_loss", "lr", "epoch_seconds", "memory_bytes")
for epoch in range(1, 4):
    run.log(dict(zip(names, (epoch, 0.9, 0.4, best * epoch / 3, 1.0, run.config["lr"], 2.0, 1e8))))
run.summary.update({"val_acc": best, "val_loss": 0.7, "best_epoch": 3, "epochs": 3, "stopped_by": "max_epochs",
                    "params_total": 11.2e6, "seconds_total": 8.0, "memory_bytes": 1e8})
run.finish(exit_code=1 if run.config["lr"] > 0.2 else 0)
"""


@pytest.mark.integration
def test_a_wandb_sweep_is_reported(tmp_path):
    from wandb_server import WandbServer

    (tmp_path / "train.py").write_text(TRAIN)
    parameters = {"model_name": {"values": ["resnet18", "resnet34"]}, "lr": {"values": [0.1, 0.2, 0.3]}}
    sweep = {
        "program": "train.py",
        "command": ["${env}", "python", "${program}"],
        "method": "grid",
        "parameters": parameters,
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    with WandbServer(seed=1) as server:
        env = server.env(tmp_path)

        def run(*words):
            words = [sys.executable, "-m", *words]
            return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)

        assert run("wandb", "sweep", "--project", "p", "sweep.yaml").returncode == 0
        name = f"tester/p/{next(iter(server.sweeps.values())).name}"
        run("wandb", "agent", name)
        done = run("ctkeras", "report", name, "--out", "sweep.html")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "sweep.html"
        sections = Parsed((tmp_path / "sweep.html").read_text(encoding="utf-8")).sections
        assert "resnet18" in sections["won"] and "0.500" in sections["won"]
        assert f"the W&B sweep {name}" in sections["architectures"]
        assert sections["skipped"].count("its state at W&B is failed") == 2
        assert sections["curves"].count("Epochs of") == 4
        assert f"python -m ctkeras sweep best {name} --download" in sections["reproduce"]
        assert run("ctkeras", "report", "tester/p/nothing").returncode == 2


def test_data_that_is_not_at_hand_leaves_a_sentence(runs):
    found = findings.find(results.read(runs), data="/nowhere/at/all")
    assert found.source is None
    assert "is not a file or folder" in found.no_data
    other = findings.find(results.read(runs), data="phantom:48")
    assert "not those that the runs were trained on" in other.no_data


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_trials_are_quick_and_small(tmp_path, count):
    run_folders.write(tmp_path / "runs", runs=count, images=20, models=tuple(run_folders.SKILL))
    begun = time.process_time()
    path = report.write_report(tmp_path / "runs")
    assert time.process_time() - begun < 30
    assert path.stat().st_size < report.MOST_BYTES * count / 4000
    page = path.read_text(encoding="utf-8")
    assert "240 of " in Parsed(page).sections["coordinates"]
    assert page.count('<path d="M', page.index('id="coordinates-chart-wide')) >= 240


# In a browser

needs_browser = pytest.mark.skipif(browser.program() is None, reason="needs Chromium: apt-get install chromium")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNDRAWN = """[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length
    + [...document.querySelectorAll('svg')].filter(s => !s.children.length).length"""
SHOWN = "[...document.querySelectorAll('.parallel .run:not(.off)')].filter(l => l.getClientRects().length).length"
# WCAG's contrast of every text on the page's background, the least of all.
CONTRAST = """(() => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
    const paper = light(parse(getComputedStyle(document.body).backgroundColor).slice(0, 3));
    return Math.min(...[...document.querySelectorAll('p, td, th, a, code, figcaption, summary, .axis, .name')].map(e => {
        const style = getComputedStyle(e);
        const ink = light(parse(e.ownerSVGElement ? style.fill : style.color).slice(0, 3));
        return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05) }));
})()"""


@pytest.mark.integration
@needs_browser
def test_a_browser_shows_all_of_it(runs, page, hostile, tmp_path):
    (tmp_path / "page.html").write_text(page)
    evil = report.write_report(hostile, tmp_path / "evil.html")
    with browser.chromium() as shown:
        for path in (tmp_path / "page.html", evil):
            for dark in (False, True):
                for width in (1280, 768, 360):
                    shown.open(path, width=width, dark=dark)
                    assert shown.run(UNDRAWN) == 0
                    assert shown.run(OVERFLOW) <= 0, width
                    assert shown.run(CONTRAST) >= 4.4
            shown.open(path, media="print", width=800)
            assert shown.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert shown.complaints == []


@pytest.mark.integration
@needs_browser
def test_lines_are_chosen_by_keyboard(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    with browser.chromium() as shown:
        shown.open(tmp_path / "page.html")
        assert shown.run(SHOWN) == 30
        shown.run("document.getElementById('best-share').focus()")
        for _ in range(4):
            shown.key("ArrowLeft", 37)
        assert shown.run("document.getElementById('best-count').textContent") == "26"
        assert shown.run(SHOWN) == 26
        shown.key("Home", 36)
        assert shown.run(SHOWN) == 1
        assert shown.run("document.querySelectorAll('.wide .run.winner:not(.off)').length") == 1
        assert shown.complaints == []


@pytest.mark.integration
@needs_browser
def test_a_real_model_shows_what_its_errors_looked_at(tmp_path):
    options = ["--data=phantom:48", "--model_name=mobilenet_v2", "--pretrained=false", "--freeze_backbone=false"]
    options += ["--image_size=32", "--batch_size=8", "--max_epochs=2", f"--output_dir={tmp_path / 'runs'}"]
    assert command("train", *options).returncode == 0
    (run,) = [path for path in (tmp_path / "runs").iterdir() if (path / "model.keras").exists()]
    assert command("evaluate", str(run), "--split", "test").returncode == 0
    path = report.write_report(tmp_path / "runs")
    parsed = Parsed(path.read_text())
    pictures = parsed.named("img")
    assert len(pictures) in range(2, 13) and len(pictures) % 2 == 0
    assert all(picture["alt"] and picture["src"].startswith("data:image/") for picture in pictures)
    assert "Not shown" not in parsed.sections["data"]
    assert "three ways" in path.read_text()
    with browser.chromium() as shown:
        shown.open(path, width=360)
        assert shown.run(UNDRAWN) == 0
        assert shown.run(OVERFLOW) <= 0
        assert shown.complaints == []
