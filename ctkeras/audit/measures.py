"""What a data set's splits measure, as JSON and in sentences: its groups, the lookup and the shift between splits."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ctkeras.audit import shift as shifts
from ctkeras.audit.audit import LEAKS, Audit
from ctkeras.audit.lookup import lookup

_FAMILIES = ({"margin", "black"}, {"width", "height"}, {"aspect"}, {"sharpness"})  # of facts; the rest are grays


def measures(audited: Audit) -> dict[str, Any]:
    """Returns what the splits measure, as JSON; numbers that cannot be computed are None.

    Returns:
        groups: `by` patient or similarity, `number`, `largest` (images), `purity` (share of groups of one class).
        shared_patients: per pair of splits, how many known `patients` have images in both, and how many `files` of `from`
        are theirs. lookup: of valid and test, see lookup.Lookup, with exact copies left out of the references; `trained`:
        the accuracy with those images that training uses, so without near-duplicates too. shift: of valid and test,
        `before` and `after` preparation, see shift.Shift.
    """
    return {
        "groups": _groups(audited),
        "shared_patients": _shared(audited),
        "lookup": {split: _lookup(audited, split) for split in ("valid", "test")},
        "shift": {split: _finite(shifts.both(audited, split)) for split in ("valid", "test")},
    }


def _groups(audited: Audit) -> dict[str, Any]:
    """What the groups are, how many, the largest, and how many have one class."""
    classes: dict[int, set[str]] = {}
    for image in audited.images:
        classes.setdefault(image.group, set()).add(image.class_name)
    sizes = np.bincount([image.group for image in audited.images] or [0])
    pure = sum(len(names) == 1 for names in classes.values()) / max(len(classes), 1)
    return {"by": audited.grouped_by, "number": len(classes), "largest": int(sizes.max()), "purity": round(pure, 4)}


def _shared(audited: Audit) -> list[dict[str, Any]]:
    """Patients that have images in two splits, in the order of LEAKS; only where there are any."""
    of = {
        split: {i.patient for i in audited.images if i.split == split and i.patient}
        for split in ("train", "valid", "test")
    }
    rows = []
    for split, into in LEAKS:
        if both := of[split] & of[into]:
            files = sum(image.split == split and image.patient in both for image in audited.images)
            rows.append({"from": split, "to": into, "patients": len(both), "files": files})
    return rows


def _lookup(audited: Audit, split: str) -> dict[str, Any]:
    """The lookup as JSON."""
    result = lookup(audited, split, leaks="exact")
    trained = lookup(audited, split, leaks="drop").acc
    return dict(_finite({**result._asdict(), "trained": trained, "speaks": result.speaks}))


def _finite(value: Any) -> Any:
    """JSON with numbers at four decimals, and None for those that are not finite."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def sentences(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the groups are, and what is wrong with the splits: shared patients, lookup, shift.

    Args:
        summary: holds what measures returned.
    """
    yield groups_words(summary["groups"])
    for row in summary["shared_patients"]:
        yield f"LEAK: {patients_words(row)}"
    for split in ("test", "valid"):
        if words := lookup_words(split, summary["lookup"][split], by=summary["groups"]["by"]):
            yield f"LOOKUP: {words}"
    for split in ("test", "valid"):
        if words := shift_words(split, summary["shift"][split]):
            yield f"SHIFT: {words}"


def groups_words(groups: Mapping[str, Any]) -> str:
    """Returns the groups in words, such as 201 groups of similar slices."""
    one = groups["number"] == 1
    what = f"patient{'' if one else 's'}"
    if groups["by"] != "patient":
        what = f"group{'' if one else 's'} of similar slices (the data names no patients)"
    images = f"{groups['largest']:,} image{'' if groups['largest'] == 1 else 's'}"
    sizes = f"the largest has {images}, and {groups['purity']:.0%} have one class"
    return f"{groups['number']:,} {what}; {sizes}"


def patients_words(row: Mapping[str, Any]) -> str:
    """Returns patients in two splits in words: 40 patients (59 test images) have images in both test and train."""
    one = row["patients"] == 1
    return (
        f"{row['patients']:,} patient{'' if one else 's'} ({row['files']:,} {row['from']} images) "
        f"ha{'s' if one else 've'} images in both {row['from']} and {row['to']}"
    )


def lookup_words(split: str, result: Mapping[str, Any], *, by: str) -> str:
    """Returns the lookup in words where it is well above chance because splits share patients; '' otherwise."""
    if not result["speaks"]:
        return ""
    same = "of other patients" if by == "patient" else "of other groups of similar slices"
    apart = f", or {result['apart']:.2f} among slices {same}" if result["apart"] is not None else ""
    return (
        f"a lookup of the most similar training slice already scores {result['acc']:.2f} on {split} ({result['low']:.2f} to "
        f"{result['high']:.2f}), where the most frequent class scores {result['chance']:.2f}{apart}: this split rewards "
        "recognising patients"
    )


def shift_words(split: str, result: Mapping[str, Any]) -> str:
    """Returns the shift in words where a linear model tells a split from train; '' otherwise."""
    before, after = result["before"], result["after"]
    if not before["speaks"] and not after["speaks"]:
        return ""
    told = before if before["speaks"] else after
    words = (
        f"a linear model tells {split} images from train's by margins, size, grays and sharpness, with an AUC of "
        f"{before['auc']:.2f} ({before['low']:.2f} to {before['high']:.2f}) as the files are, and of {after['auc']:.2f} "
        f"({after['low']:.2f} to {after['high']:.2f}) after the crop and the resize; 0.5 is chance"
    )
    facts = [fact_words(fact) for fact in _different(told["facts"])]
    return words + (f". {split.capitalize()} images have {_listed(facts)}" if facts else "")


def fact_words(fact: Mapping[str, Any]) -> str:
    """Returns one fact in words: 3.6 times the black margin (26% against 7%)."""
    ratio = fact["mean"] / fact["reference"] if fact["reference"] else math.inf
    times = (
        "twice" if 1.95 <= ratio < 2.05 else f"{ratio:.1f} times" if ratio >= 0.1 and ratio < 100 else "other values of"
    )
    own, other = (_value(fact["name"], fact[key]) for key in ("mean", "reference"))
    return f"{times} {fact['words']} ({own} against {other})"


def _value(name: str, value: float) -> str:
    """A fact's value with its unit."""
    if name in ("margin", "black"):
        return f"{value:.0%}"
    return f"{value:.2f}" if name in ("aspect", "sharpness") else f"{value:.0f}"


def _different(facts: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The few facts that differ most, one of each kind, because margins and the black area say the same."""
    kinds: dict[int, Mapping[str, Any]] = {}
    for fact in facts:
        kinds.setdefault(next((k for k, names in enumerate(_FAMILIES) if fact["name"] in names), -1), fact)
    return [*kinds.values()][: shifts.SHOWN]


def _listed(words: list[str]) -> str:
    """Items as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
