"""Charts are well-formed SVG that says what it shows, stays inside its frame, and takes any text and any number."""

import functools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from ctkeras.report.html import charts, curves, parallel
from ctkeras.report.html.charts import NARROW, WIDE, Row

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'x'"
WORDS = {"title": HOSTILE, "description": f"seen: {HOSTILE}"}
NAMES = ("adenocarcinoma", HOSTILE, "normal", "x" * 200)


def rows(width, **options):
    data = [
        Row(HOSTILE, 0.8, 0.7, 0.9, "0.800 (0.700–0.900)", (0.3, 0.5), lead=True),
        Row("x" * 200, 0.5, None, None, "0.500"),
        Row("resnet18", 0.1, 0.0, 0.4, "0.100"),
    ]
    return charts.rows(data, width=width, ident="rows", axis="accuracy", **WORDS, **options)


def matrix(width):
    counts = [[12, 0, 3, 1], [0, 0, 0, 0], [1, 2, 300, 4], [9, 9, 9, 9]]
    return charts.matrix(counts, NAMES, width=width, ident="matrix", **WORDS)


def learning(width):
    lines = [("training", "second", [0.2, math.nan, 0.9]), ("validation", "first", [0.1, 0.6, 7.0])]
    return curves.learning(lines, bounds=(0, 1), epochs=30, best_epoch=3, ident="learning", **WORDS)


def remaining(width):
    ends = [5, 5, 15, 30, 30]
    return curves.remaining(ends, limit=30, stopped=[5, 5, 15], width=width, ident="remaining", **WORDS)


def reliability(width):
    counts, confidence, accuracy = [0, 3, 40], [None, 0.4, 0.9], [None, 1.0, 0.6]
    return curves.reliability(counts, confidence, accuracy, width=NARROW, ident="reliability", **WORDS)


def coordinates(width):
    runs = [["a", 1e-5, True, 0.4], [HOSTILE, 1e-2, False, 0.6], ["a" * 200, 1e-3, True, 0.8]]
    axes = [parallel.axis_of(name, [run[i] for run in runs]) for i, name in enumerate(("model", "lr", HOSTILE))]
    axes.append(parallel.axis_of("val_acc", [run[3] for run in runs], bounds=(0.3, 0.9)))
    return parallel.coordinates(axes, runs, shades=[0, 2, 4], groups=[0, 1, 0], width=width, ident="lines", **WORDS)


CHARTS = {
    "rows": rows,
    "bars": functools.partial(rows, bars=True),
    "matrix": matrix,
    "learning": learning,
    "remaining": remaining,
    "reliability": reliability,
    "coordinates": coordinates,
}


@pytest.fixture(params=[f"{name} {width}" for name in CHARTS for width in (WIDE, NARROW)])
def drawn(request):
    name, width = request.param.split()
    return ElementTree.fromstring(CHARTS[name](int(width)))


def elements(drawn, name):
    return [element for element in drawn.iter() if element.tag.split("}")[-1] == name]


def test_a_picture_is_named_and_described_for_a_screen_reader(drawn):
    assert drawn.get("role") == "img"
    title, description = (next(e for e in drawn if e.tag == name) for name in ("title", "desc"))
    assert drawn.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert (title.text, description.text) == (HOSTILE, f"seen: {HOSTILE}")


def test_text_is_only_ever_text(drawn):
    assert not elements(drawn, "script")
    known = {"svg", "title", "desc", "g", "text", "line", "circle", "rect", "path"}
    assert {element.tag for element in drawn.iter()} <= known


def test_every_mark_lies_inside_the_frame(drawn):
    _, _, width, height = (float(v) for v in drawn.get("viewBox").split())
    for name, across, down in (("circle", ("cx",), ("cy",)), ("line", ("x1", "x2"), ("y1", "y2"))):
        for mark in elements(drawn, name):
            assert all(0 <= float(mark.get(key)) <= width for key in across), mark.attrib
            assert all(0 <= float(mark.get(key)) <= height for key in down), mark.attrib
    for mark in elements(drawn, "path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", mark.get("d"))]
        assert all(math.isfinite(number) for number in numbers)
        assert all(0 <= x <= width for x in numbers[::2])
        assert all(0 <= y <= height for y in numbers[1::2])


def test_text_fits_beside_its_anchor(drawn):
    width = float(drawn.get("width"))
    slanted = {text for group in elements(drawn, "g") for text in group.iter("text")}
    for text in elements(drawn, "text"):
        if text in slanted:
            continue
        length = 0.5 * charts.FONT * len(text.text or "")  # a narrow estimate: what is over by this is over
        x = float(text.get("x"))
        left = {"end": x - length, "middle": x - length / 2}.get(text.get("text-anchor"), x)
        assert left >= -12, text.text
        assert left + length <= width + 12, text.text


def test_what_was_cut_is_there_as_a_tooltip():
    drawn = ElementTree.fromstring(rows(WIDE))
    cut = [text for text in elements(drawn, "text") if (text.text or "").endswith("…")]
    assert "x" * 200 in [text.find("title").text for text in cut]


@pytest.mark.parametrize(
    ("low", "high", "about"), [(0, 1, 5), (0.61, 0.83, 4), (-3, 900, 5), (1e-9, 3e-9, 4), (2, 2, 4), (0, 1e12, 6)]
)
def test_ticks_are_few_round_and_inside(low, high, about):
    found = charts.ticks(low, high, about)
    assert found
    assert len(found) <= 2 * about + 1
    assert all(low - 1e-12 <= tick <= high * (1 + 1e-9) + 1e-12 for tick in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert round(step / 10 ** math.floor(math.log10(step * 1.0001)), 6) in (1, 2, 5, 10)


def test_rows_are_drawn_at_their_values():
    data = [Row("a", 0.2, 0.1, 0.4), Row("b", 0.6, 0.5, 0.9), Row("c", 0.6)]
    text = charts.rows(data, width=WIDE, ident="i", title="t", description="d", axis="x", bounds=(0, 1))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in elements(ElementTree.fromstring(text), "circle")]
    (a, b, c), heights = [x for x, _ in dots], [y for _, y in dots]
    assert a < b == c
    assert heights == sorted(heights)
    intervals = [e for e in elements(ElementTree.fromstring(text), "line") if e.get("class") == "interval"]
    assert len(intervals) == 2
    span = float(intervals[0].get("x2")) - float(intervals[0].get("x1"))
    assert span == pytest.approx((b - a) / 0.4 * 0.3, abs=0.3)


def test_bars_begin_at_zero():
    text = charts.rows(
        [Row("a", 3), Row("b", 4)], width=WIDE, ident="i", title="t", description="d", axis="x", bars=True
    )
    bars = elements(ElementTree.fromstring(text), "rect")
    lengths = [float(bar.get("width")) for bar in bars]
    assert bars[0].get("x") == bars[1].get("x")
    assert lengths[0] / lengths[1] == pytest.approx(0.75, abs=0.01)


def test_a_matrix_shades_by_the_share_of_its_row():
    drawn = ElementTree.fromstring(
        charts.matrix([[9, 1], [50, 50]], ("a", "b"), width=300, ident="i", title="t", description="d")
    )
    shades = [(e.get("class"), float(e.get("fill-opacity"))) for e in elements(drawn, "rect") if e.get("fill-opacity")]
    assert shades == [("hit", 0.9), ("miss", 0.1), ("miss", 0.5), ("hit", 0.5)]
    assert {"9", "1", "50", "90%", "10%", "50%"} <= {text.text for text in elements(drawn, "text")}


def test_a_staircase_loses_what_ended_and_takes_no_time_for_long_runs():
    text = curves.remaining(
        [1, 3, 10**12], limit=10**12, stopped=[1], width=WIDE, ident="i", title="t", description="d"
    )
    edge = next(e for e in elements(ElementTree.fromstring(text), "path") if e.get("class") == "edge")
    heights = [float(point.split()[1]) for point in edge.get("d")[1:].split("L")]
    assert heights == sorted(heights)  # down the page
    assert len(set(heights)) == 4  # 3, 2, 1 and 0 runs


def test_gaps_in_a_curve_are_left_out():
    drawn = ElementTree.fromstring(learning(NARROW))
    assert all("nan" not in (e.get("d") or "") for e in drawn.iter())
    labels = [e for e in elements(drawn, "text") if "name" in (e.get("class") or "")]
    assert abs(float(labels[0].get("y")) - float(labels[1].get("y"))) >= 12  # names don't overlap


@pytest.mark.parametrize(
    ("values", "order"),
    [
        pytest.param([16, 32, 64], "even", id="few numbers are spaced evenly"),
        pytest.param([1, 2, 3, 4, 5, 6, 11], "linear", id="many numbers on a line"),
        pytest.param(["b", "a"], "even", id="names"),
        pytest.param([True, False], "even", id="true and false"),
        pytest.param([0.5], "one", id="a single value"),
    ],
)
def test_axes_place_values(values, order):
    place = parallel.axis_of("x", values * 3).place
    ascending = [place[value] for value in sorted(set(values))]
    assert ascending == sorted(ascending)
    assert all(0 <= at <= 1 for at in ascending)
    expected = {
        "even": [i / max(1, len(values) - 1) for i in range(len(values))],
        "linear": [(value - 1) / 10 for value in values if isinstance(value, int)],
        "one": [0.5],
    }[order]
    assert ascending == pytest.approx(expected, abs=0.001)


def test_a_number_over_a_wide_range_is_logarithmic():
    values = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2]
    place = parallel.axis_of("lr", values).place
    assert place[1e-4] == pytest.approx(1 / 3)
    assert place[1e-3] == pytest.approx(2 / 3)


def test_up_to_five_numbers_are_spaced_evenly_and_a_ratio_above_20_is_logarithmic():
    assert parallel.axis_of("x", [1, 2, 3, 4, 20]).place[4] == pytest.approx(3 / 4)
    assert parallel.axis_of("x", [1, 2, 3, 4, 5, 20]).place[4] == pytest.approx(3 / 19)
    assert parallel.axis_of("x", [1, 2, 3, 4, 5, 21]).place[4] == pytest.approx(math.log(4) / math.log(21))
    assert parallel.axis_of("x", [0, 2, 3, 4, 5, 100]).place[4] == pytest.approx(4 / 100)


def test_an_axis_with_bounds_is_linear_between_them():
    axis = parallel.axis_of("val_acc", [0.4, 0.6], bounds=(0.2, 1.0))
    assert axis.place == pytest.approx({0.4: 0.25, 0.6: 0.5})
    assert [text for _, text in axis.ticks] == ["0.2", "0.4", "0.6", "0.8", "1"]


@pytest.mark.parametrize(
    ("values", "within", "expected"),
    [
        ([0.2, 0.6], None, (0.18, 0.62)),
        ([0.0, 1.0], (0, 1), (0, 1)),
        ([0.5, None, math.nan], None, (0.475, 0.525)),
        ([0.0], None, (-0.05, 0.05)),
        ([], None, (-0.05, 1.05)),
    ],
)
def test_a_domain_has_a_margin_of_a_twentieth(values, within, expected):
    assert charts.domain(values, within=within) == pytest.approx(expected)


def test_text_is_cut_to_its_room():
    assert charts.fit("abcdef", 6 * charts.LETTER + 0.1) == "abcdef"
    assert charts.fit("abcdef", 5 * charts.LETTER + 0.1) == "abcd…"
    assert charts.fit("abcdef", 0) == "a…"


def test_reliability_shows_the_gap_between_confidence_and_accuracy():
    drawn = ElementTree.fromstring(reliability(NARROW))
    small, large = elements(drawn, "circle")
    gaps = [line for line in elements(drawn, "line") if line.get("class") == "gap"]
    assert len(gaps) == 2 and float(small.get("r")) < float(large.get("r")) == 12
    left, right, top, bottom = 40, NARROW - 14, 26, 26 + (NARROW - 54) * 0.86
    assert float(large.get("cx")) == pytest.approx(left + 0.9 * (right - left), abs=0.1)
    assert float(large.get("cy")) == pytest.approx(bottom - 0.6 * (bottom - top), abs=0.1)
    assert float(small.get("r")) == pytest.approx(3 + 9 * math.sqrt(3 / 40), abs=0.1)


def test_the_best_epoch_is_ringed():
    values = [0.2, 0.8, 0.5]
    text = curves.learning([("validation", "first", values)], bounds=(0, 1), epochs=3, best_epoch=2, ident="i", **WORDS)
    (ring,) = elements(ElementTree.fromstring(text), "circle")
    assert float(ring.get("cy")) == pytest.approx(10 + 0.2 * 154, abs=0.1)  # 0.8 of a scale from 164 up to 10


def test_stopped_runs_are_counted_at_their_epoch():
    texts = [text.text for text in elements(ElementTree.fromstring(remaining(WIDE)), "text")]
    assert [text for text in texts if "stopped" in text] == ["2 stopped", "1 stopped"]


def test_shades_are_fifths_of_the_runs():
    assert parallel.shades([i / 10 for i in range(10)]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert parallel.shades([0.5] * 3) == [0, 0, 0]


def test_equal_results_share_a_shade_and_better_ones_are_not_paler():
    found = parallel.shades([0.1, 0.2, 0.2, 0.2, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert found == sorted(found)
    assert found[1] == found[2] == found[3]
    assert (found[0], found[-1]) == (0, parallel.SHADES - 1)
