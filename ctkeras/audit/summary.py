"""An audit as JSON for programs and as text for people."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ctkeras.audit import audit as audits
from ctkeras.audit import measures, shortcuts
from ctkeras.audit.audit import Audit
from ctkeras.data import sources
from ctkeras.data.layout import SPLITS
from ctkeras.data.sources import Source
from ctkeras.runtime import console
from ctkeras.runtime import stored as cache

VERSION = "1"  # of the stored summary; raise it when what it holds changes
SHOWN = 5  # lines per list on the terminal; --json and the page show all


def audit(data: str, *, group_pattern: str = "") -> dict[str, Any]:
    """Compares all images of a data set: duplicates, leaks, groups, and what a lookup and the files alone reveal.

    The result is cached by the images' content, and is what `ctkeras data check --json` prints.

    Args:
        data: what `--data` takes: a zip, a folder, phantom or kaggle.
        group_pattern: a regular expression whose first brackets name the patient in a file's path.

    Returns:
        See summary.

    Raises:
        UserError: there is no such data, it is not laid out as split/class/image, or the pattern does not match every file.

    Example:
        >>> import ctkeras
        >>> ctkeras.audit("phantom:48")["leaks"]
        []
    """
    return stored(sources.open_source(data), group_pattern=group_pattern)[1]


def stored(source: Source, *, group_pattern: str = "") -> tuple[Audit, dict[str, Any]]:
    """Returns a data set's audit and its summary, both from the cache where possible.

    Args:
        source: what open_source returned.
        group_pattern: as for audit.

    Raises:
        UserError: the pattern does not match every file.
    """
    audited = audits.check(source, group_pattern=group_pattern)
    if audited.unreadable:  # such an audit is not stored
        return audited, summary(audited)
    path = place(source, f"summary-{VERSION}.json", group_pattern=group_pattern)

    def make() -> None:
        with console.waiting("Comparing the splits"):
            cache.write_json(path, summary(audited))

    table: dict[str, Any] = cache.reuse(lambda: cache.read_json(path), make, lock=path.with_suffix(".lock"))
    return audited, table


def place(source: Source, name: str, *, group_pattern: str) -> Path:
    """Returns where a file that is made of an audit is stored; it differs with the pattern."""
    path = Path(name)
    named = f"-{hashlib.sha256(group_pattern.encode()).hexdigest()[:12]}" if group_pattern else ""
    return audits.folder(source) / f"{path.stem}{named}{path.suffix}"


def summary(audited: Audit) -> dict[str, Any]:
    """Returns everything that an audit shows, as JSON.

    Returns:
        images: readable ones. distinct_images: those with different pixels. near_groups: the same, with near-duplicates
        counted as one. leaks: per pair of splits, how many `files` of `from` also appear in `to` and how many `distinct`
        images they are; `exact` false counts files with a near-duplicate but no equal image there. conflicts: pairs of
        files that are equal but have two labels. duplicates, near_duplicates: groups of files. train_left_out: how many
        images training leaves out. groups, shared_patients, lookup, shift: see measures.measures.
    """
    left_out = audits.left_out(audited)
    return {
        "images": len(audited.images),
        "distinct_images": len(set(audited.twins().values())),
        "near_groups": len(set(audited.twins(near=True).values())),
        "leaks": [
            {
                "from": leak.split,
                "to": leak.into,
                "files": len(leak.files),
                "distinct": leak.distinct,
                "exact": leak.exact,
            }
            for leak in audited.leaks()
        ],
        "conflicts": [list(pair) for pair in audited.conflicts()],
        "unreadable": audited.unreadable,
        "contradicting_formats": shortcuts.contradicting(audited.images),
        "balance": shortcuts.balance(audited.images),
        "modes": shortcuts.modes(audited.images),
        "sizes": shortcuts.sizes(audited.images),
        "duplicates": [[image.file for image in group] for group in audited.groups()],
        "near_duplicates": [[image.file for image in group] for group in audited.groups(near=True)],
        "near_pairs": [list(pair) for pair in audited.pairs],
        "train_left_out": {name: len(left_out[name]) for name in ("leaks", "conflicts")},
        "told_by_file": shortcuts.class_by_file(audited.images),
        **measures.measures(audited),
    }


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yields a summary in words, for the terminal."""
    yield from _balance(summary["balance"])
    yield ""
    near = summary["near_groups"] < summary["distinct_images"]
    yield f"{summary['images']:,} images, {summary['distinct_images']:,} of them distinct" + (
        f"; {summary['near_groups']:,} if near-duplicates count as one" if near else ""
    )
    yield from _leaks(summary)
    yield from measures.sentences(summary)
    pairs = [f"{first} = {second}" for first, second in summary["conflicts"]]
    yield from _listed("equal images under two labels", pairs)
    yield from _listed("unreadable images", list(summary["unreadable"].values()))
    wrong = [f"{file} is {kind}" for file, kind in summary["contradicting_formats"].items()]
    yield from _listed("images in another format than their name says", wrong)
    yield from _class_by_file(summary["told_by_file"])


def sentence(leak: dict[str, Any]) -> str:
    """Returns one leak in words: 46 test images (19 distinct) also appear in train."""
    one = leak["files"] == 1
    images = f"{leak['files']:,} {leak['from']} image{'' if one else 's'} ({leak['distinct']:,} distinct)"
    if leak["exact"]:
        return f"{images} also appear{'s' if one else ''} in {leak['to']}"
    return f"{images} {'has' if one else 'have'} a near-duplicate in {leak['to']}"


def _balance(balance: dict[str, dict[str, int]]) -> Iterator[str]:
    """Yields the table of classes and splits."""
    names = list(balance["train"])
    width = max(map(len, ["class", *names]))
    rows = [(name, [balance[split][name] for split in SPLITS]) for name in names]
    rows.append(("all", [sum(balance[split].values()) for split in SPLITS]))
    yield f"{'class':<{width}}" + "".join(f"{split:>8}" for split in SPLITS)
    for name, counts in rows:
        yield f"{name:<{width}}" + "".join(f"{count:>8}" for count in counts)


def _leaks(summary: dict[str, Any]) -> Iterator[str]:
    """Yields the leaks, and what training does about them."""
    if not summary["leaks"]:
        yield "no image appears in two splits"
    for leak in summary["leaks"]:
        yield f"LEAK: {sentence(leak)}"
    leaks, conflicts = summary["train_left_out"]["leaks"], summary["train_left_out"]["conflicts"]
    if leaks or conflicts:
        total = sum(summary["balance"]["train"].values())
        yield (
            f"training leaves out {leaks + conflicts} of its {total} images: {leaks} that appear in valid or test, exactly or "
            f"nearly, and {conflicts} with two labels (--leaks keep uses them all)"
        )


def _listed(heading: str, items: Sequence[str]) -> Iterator[str]:
    """Yields a heading with the number of items, and the first few items."""
    yield f"{heading}: {len(items) or 'none'}"
    for item in items[:SHOWN]:
        yield f"  {item}"
    if len(items) > SHOWN:
        yield f"  … and {len(items) - SHOWN} more"


def _class_by_file(result: dict[str, Any]) -> Iterator[str]:
    """Yields how well the file predicts the class."""
    if "reason" in result:
        yield f"class predicted from the file without its pixels: not measured, because {result['reason']}"
        return
    accuracy = ", ".join(f"{name} {value:.3f}" for name, value in result["accuracy"].items())
    yield (
        f"class predicted from the file without its pixels, accuracy by {accuracy} "
        f"(most frequent class {result['majority']:.3f}, chance up to {result['chance']:.3f})"
    )
