"""The report's words and elements: numbers with their units, text that is always text, tables, commands."""

import math
import shlex

import pytest

from ctkeras.report.html import page
from ctkeras.report.html.words import millions, number, plural, size, three, with_interval
from ctkeras.runtime.console import seconds_text, value_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.52, "0.52 s"),
        (8.24, "8.2 s"),
        (9.96, "10 s"),
        (89.4, "89 s"),
        (90, "1.5 min"),
        (590, "9.8 min"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36000, "10.0 h"),
    ],
)
def test_seconds_are_in_the_unit_that_suits_them(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (0.00123456, "0.00123"), (1e-5, "1e-05"), (16, "16"), ("adam", "adam")]
)
def test_hyperparameters_are_short(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.5, "\u22120.500"), (math.nan, "–"), (None, "–"), ("x", "–"), (1, "1.000")],
)
def test_a_number_has_three_digits_and_anything_else_is_a_dash(value, text):
    assert number(value) == text


def test_counts_have_their_units():
    assert [size(n) for n in (None, 640e6, 999.4e6, 1e9, 2.34e9)] == ["–", "640 MB", "999 MB", "1.0 GB", "2.3 GB"]
    assert [millions(n) for n in (None, 5124, 99_999, 1e5, 2.26e6)] == ["–", "5,124", "99,999", "0.1 M", "2.3 M"]
    assert [plural(n, "run") for n in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]
    assert plural(2, "entry", "entries") == "2 entries"


def test_an_interval_follows_its_number():
    assert with_interval(0.8, 0.7, 0.9) == "0.800 (0.700–0.900)"
    assert with_interval(0.8, None, 0.9) == with_interval(0.8, 0.7, None) == "0.800"
    assert three({"acc": 0.8, "acc_low": 0.7, "acc_high": 0.9}, "acc") == "0.800 (0.700–0.900)"


def test_text_is_escaped_once():
    assert page.tag("p", "<b>", page.tag("i", "&"), class_='a"b', hidden=True, title=None) == (
        '<p class="a&quot;b" hidden>&lt;b&gt;<i>&amp;</i></p>'
    )
    assert page.join(["a", None, page.Html("<br>")], ", ") == "a, –, <br>"


def test_a_table_has_a_heading_for_each_row_and_can_mark_one():
    text = page.table(["a", "b"], [["x", 1], ["y", 2]], caption="c", numbers=(1,), marked=1)
    assert text.count('<th scope="row">') == 2
    assert text.count("<tr>") == 2 and '<tr class="marked"><th scope="row">y</th><td class="number">2</td></tr>' in text


def test_a_long_command_is_broken_so_that_a_shell_still_takes_it():
    words = ["python", "-m", "ctkeras", "train", *(f"--option{i} 'value {i}'" for i in range(9))]
    lines = page.command(" ".join(words)).removeprefix('<pre tabindex="0"><code>').removesuffix("</code></pre>")
    lines = lines.replace("&#x27;", "'")
    assert len(lines.splitlines()) > 2 and max(map(len, lines.splitlines())) <= page.COMMAND_WIDTH + 4
    assert shlex.split(lines.replace("\\\n", "")) == shlex.split(" ".join(words))
    assert "a &#x27;quote" in page.command("a 'quote")
