"""An audit as one object for programs and in words for people."""

from collections.abc import Iterator, Sequence
from typing import Any

from ctkeras import audit, shortcuts
from ctkeras.audit import Audit
from ctkeras.sources import SPLITS

SHOWN = 5  # lines of a list on the terminal; --json and the page have all


def summary(audited: Audit) -> dict[str, Any]:
    """Everything the audit found, as JSON takes it.

    Returns:
        images: that can be read. distinct_images: with other pixels. near_groups: with near-duplicates taken as one.
        leaks: for pairs of splits, `files` of `from` whose image stands in `to` and how many `distinct` images these
        are; `exact` false counts files that have a near, but no equal twin there. conflicts: pairs of files, equal
        images under two labels. duplicates, near_duplicates: groups of files. train_left_out: what training drops.
    """
    left_out = audit.left_out(audited)
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
        "train_left_out": {name: len(files) for name, files in left_out.items()},
        "told_by_file": shortcuts.told_by_file(audited.images),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A summary in words, for the terminal."""
    yield from _balance(found["balance"])
    yield ""
    near = found["distinct_images"] - found["near_groups"]
    yield f"{found['images']:,} images, {found['distinct_images']:,} of them distinct" + (
        f"; {found['near_groups']:,} when near-duplicates count as one" if near else ""
    )
    yield from _leaks(found)
    pairs = [f"{first} = {second}" for first, second in found["conflicts"]]
    yield from _listed("equal images under two labels", pairs)
    yield from _listed("can't be read", list(found["unreadable"].values()))
    wrong = [f"{file} is {kind}" for file, kind in found["contradicting_formats"].items()]
    yield from _listed("format is not what the name says", wrong)
    yield from _told_by_file(found["told_by_file"])


def sentence(leak: dict[str, Any]) -> str:
    """One leak in words: 46 test images (19 distinct) stand in train."""
    count, alone = leak["files"], leak["files"] == 1
    what = f"{count:,} {leak['from']} image{'' if alone else 's'} ({leak['distinct']:,} distinct)"
    verb = "stands" if alone else "stand"
    return f"{what} {verb} in {leak['to']}" if leak["exact"] else f"{what} nearly {verb} in {leak['to']}"


def _balance(balance: dict[str, dict[str, int]]) -> Iterator[str]:
    """The table of classes and splits."""
    names = list(balance["train"])
    width = max(len("class"), *map(len, names)) if names else len("class")
    rows = [(name, [balance[split][name] for split in SPLITS]) for name in names]
    rows.append(("all", [sum(balance[split].values()) for split in SPLITS]))
    yield f"{'class':<{width}}" + "".join(f"{split:>8}" for split in SPLITS)
    for name, counts in rows:
        yield f"{name:<{width}}" + "".join(f"{count:>8}" for count in counts)


def _leaks(found: dict[str, Any]) -> Iterator[str]:
    """The leaks, and what training does about them."""
    if not found["leaks"]:
        yield "no image stands in two splits"
    for leak in found["leaks"]:
        yield f"LEAK: {sentence(leak)}"
    leaks, torn = found["train_left_out"]["leaks"], found["train_left_out"]["conflicts"]
    if leaks or torn:
        total = sum(found["balance"]["train"].values())
        yield (
            f"training leaves out {leaks + torn} of its {total} images: {leaks} that stand in valid or test, exactly or "
            f"nearly, {torn} with two labels (--leaks keep: none)"
        )


def _listed(what: str, items: Sequence[str]) -> Iterator[str]:
    """A heading with a number and the first few items."""
    yield f"{what}: {len(items) or 'none'}"
    for item in items[:SHOWN]:
        yield f"  {item}"
    if len(items) > SHOWN:
        yield f"  … and {len(items) - SHOWN} more"


def _told_by_file(told: dict[str, Any]) -> Iterator[str]:
    """How far the file tells the class."""
    if "reason" in told:
        yield f"class told by the file alone: not measured, {told['reason']}"
        return
    shown = ", ".join(f"{name} {value:.3f}" for name, value in told["accuracy"].items())
    yield (
        f"class told by the file alone, right in: {shown} (the most frequent class {told['majority']:.3f}, "
        f"chance up to {told['chance']:.3f})"
    )
