"""The report's first section: three accuracies side by side, and under each what a lookup without anatomy scores."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ctkeras.evaluation.comparison import accuracy_interval
from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import known, number, plural
from ctkeras.report.sections import patients
from ctkeras.report.sections.answer import in_folds

UNLIKE = 0.88  # correlation with the most similar training image; novel_acc counts the images below it
UNLOOKED = "Lookup: not measured."


class Number(NamedTuple):
    """One of the three: an accuracy, what it rests on, and the lookup's accuracy on the same images."""

    name: str
    value: float | None
    interval: str  # in words; '' without one
    words: str  # one sentence
    lookup: str  # in words
    source: Sequence[str]  # files


def three_numbers(found: Findings) -> Section:
    """The test split as published, images unlike any in training, and new patients; each with its lookup."""
    numbers = (published(found), unlike(found), new_patients(found))
    lead = (
        "Accuracy on three sets of images. Under each, the accuracy of a lookup that knows no anatomy: it gives every "
    )
    lead += "image the class of the training image that it resembles most."
    verdict = [rewards(found), unseen(found)]
    return page.section(
        "numbers",
        "Three numbers",
        p(lead),
        tag("div", *(_tile(each, key=place == 2) for place, each in enumerate(numbers)), class_="tiles three"),
        *(p(words) for words in verdict if words),
        patients.table(found),
        files=list(dict.fromkeys(file for each in numbers for file in each.source)),
        short="Three numbers",
    )


def _tile(each: Number, *, key: bool) -> Html:
    """One number with all that belongs to it."""
    value = "–" if each.value is None else number(each.value)
    named = page.join((tag("code", file) for file in each.source), ", ")
    parts = [tag("dt", each.name), tag("dd", value, class_="value")]
    parts += [tag("dd", each.interval, class_="words")] if each.interval else []
    parts += [tag("dd", each.words, class_="words"), tag("dd", each.lookup, class_="lookup")]
    parts += [tag("dd", "From ", named, class_="from")] if each.source else []
    return tag("dl", *parts, class_="tile key" if key else "tile")


def published(found: Findings) -> Number:
    """The test split, all its images."""
    test, name = found.test, "Test as published"
    if not known(test.get("acc")):
        words = "The test split has not been opened for this model; open it once, after every choice."
        return Number(name, None, "", words, UNLOOKED, ())
    words = f"All {number(test.get('n'), 0)} images of the given test split."
    source = found.files("metrics_test.json", runs=[found.chosen])
    return Number(name, test["acc"], _bounds(test, "acc"), words, _lookup(test, "lookup"), source)


def unlike(found: Findings) -> Number:
    """Images whose most similar training image is not like them; of validation where test is closed."""
    name = "On images unlike any in training"
    for values, file, split in (
        (found.test, "metrics_test.json", "test"),
        (found.measured.get("metrics_valid.json", {}), "metrics_valid.json", "validation"),
    ):
        if known(values.get("novel_acc")):
            count = values.get("novel_n")
            images = plural(int(count), f"{split} image") if known(count) else f"The {split} images"
            words = f"{images} whose most similar training image correlates below {UNLIKE:g}."
            source = found.files(file, runs=[found.chosen])
            lookup = _lookup(values, "novel_lookup")
            return Number(name, values["novel_acc"], _bounds(values, "novel_acc"), words, lookup, source)
    words = "Not measured: evaluate counts these images when it can read the data."
    if "novel_n" in found.test:
        words = f"No test image has a most similar training image that correlates below {UNLIKE:g}."
    return Number(name, None, "", words, UNLOOKED, ())


def new_patients(found: Findings) -> Number:
    """Folds that part no group: what to expect of patients that training has not seen."""
    name, run = "Expected on new patients", found.chosen
    if not in_folds(run):
        words = f"Not measured: the run was not trained in folds. Its validation accuracy, {number(run.val_acc)}, may count "
        words += "patients that are also in training."
        return Number(name, None, "", words, UNLOOKED, found.files("metrics.json", runs=[run]))
    right = found.right[run.name]
    interval, what = "", found.grouped_by or "images"
    if right:
        bounds = accuracy_interval(right, found.groups)
        parts = len({found.groups.get(file, file) for file in right})
        interval = f"95% interval {bounds.low:.3f} to {bounds.high:.3f}, by resampling {parts:,} {what}"
    groups = "of its patient" if what == "patients" else "like it"
    count = f"{len(right):,} images" if right else "images"
    words = f"The {count} of training and validation, each answered by one of {number(run.metrics['folds'], 0)} members that "
    words += f"was trained without it and without slices {groups}."
    source = found.files("metrics.json", *(["predictions.csv"] if right else []), runs=[run])
    apart = found.lookup_apart
    lookup = UNLOOKED if apart is None else f"Lookup outside the image's own group: {number(apart)}."
    return Number(name, run.val_acc, interval, words, lookup, [*source, *found.audit_files()])


def _bounds(values: Mapping[str, Any], name: str) -> str:
    """An interval in words: by group where it is known, and how wide it is with images and with groups."""
    pairs = [(values.get(f"{name}{by}_low"), values.get(f"{name}{by}_high")) for by in ("_group", "")]
    if name == "novel_acc" and known(values.get("novel_group_n")):  # its only bounds are by group
        pairs.reverse()
    widths = []
    for (low, high), count, what in zip(pairs, _counts(values, name), (_grouped(values), "images"), strict=True):
        if known(low) and known(high) and known(count):
            widths.append(f"{count:,.0f} {what}: plus or minus {points(low, high)} points")
    low, high = next((pair for pair in pairs if known(pair[0]) and known(pair[1])), (None, None))
    if low is None:
        return ""
    return f"95% interval {number(low)} to {number(high)}" + (f" ({'; '.join(reversed(widths))})" if widths else "")


def _counts(values: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """(groups, images) that a number rests on; the file counts groups for the whole split only."""
    prefix = name.partition("acc")[0]
    return values.get(f"{prefix}group_n"), values.get(f"{prefix}n")


def _grouped(values: Mapping[str, Any]) -> str:
    return "patients" if values.get("grouped_by") == "patient" else "groups"


def points(low: float, high: float) -> str:
    """Half an interval's width in percentage points."""
    return f"{50 * (high - low):.0f}"


def _lookup(values: Mapping[str, Any], prefix: str) -> str:
    """The lookup's accuracy in words, with its interval and with chance where the file has them."""
    value = values.get(f"{prefix}_acc")
    if not known(value):
        return UNLOOKED
    low, high, chance = (values.get(f"{prefix}_{end}") for end in ("acc_low", "acc_high", "chance"))
    words = f"Lookup: {number(value)}"
    words += f" ({number(low)} to {number(high)})" if known(low) and known(high) else ""
    return words + (f"; the most frequent class: {number(chance)}." if known(chance) else ".")


def rewards(found: Findings) -> str:
    """That the split rewards recognising patients: as evaluate says, or where the lookup is over half-way to the model."""
    test = found.test
    acc, lookup, chance = (test.get(name) for name in ("acc", "lookup_acc", "lookup_chance"))
    if known(lookup) and isinstance(speaks := test.get("lookup_speaks"), bool):
        return _recognising(lookup) if speaks else ""
    if not (known(acc) and known(lookup) and known(chance)) or lookup - chance <= max(0.0, acc - chance) / 2:
        return ""
    low = test.get("lookup_acc_low")
    if not known(low) or low <= chance:
        return ""
    return _recognising(lookup)


def _recognising(lookup: float) -> str:
    words = f"A lookup of the most similar training image already scores {number(lookup)} on this test split"
    return f"{words}: the split rewards recognising patients."


def unseen(found: Findings) -> str:
    """That selection could not see what test measures, because the lookup scores otherwise where the choice was made."""
    test, valid = found.test, found.measured.get("metrics_valid.json", {})
    low, high = (test.get(f"lookup_acc_{end}") for end in ("low", "high"))
    if not (known(low) and known(high)):
        return ""
    if in_folds(found.chosen):
        chosen_by, own, ends = "out of fold, on slices apart from those like them", found.lookup_apart, None
    else:
        chosen_by, own = "on the validation split", valid.get("lookup_acc")
        ends = [valid.get(f"lookup_acc_{end}") for end in ("low", "high")]
    if not known(own):
        return ""
    below, above = (end if known(end) else own for end in ends or (own, own))
    if below <= high and low <= above:
        return ""
    return (
        f"Selection could not see what test measures: configurations were chosen {chosen_by}, where the lookup scores "
        f"{number(own)}; on test it scores {number(test.get('lookup_acc'))}."
    )
