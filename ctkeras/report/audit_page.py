"""The audit as a page: pairs side by side and tables, which the report shows too; one file that opens from disk."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.audit.audit import Audit, Image, Leak
from ctkeras.audit.measures import sentences
from ctkeras.audit.summary import sentence
from ctkeras.data import crop, images, sources
from ctkeras.data.layout import SPLITS
from ctkeras.data.sources import Source
from ctkeras.errors import UserError
from ctkeras.report.html import page
from ctkeras.report.html.page import Html, Section, p, tag
from ctkeras.report.html.words import plural
from ctkeras.runtime.files import atomic

VERSION = "2"  # of the stored page; raise it when what it shows changes
SIDE = 200  # pixels; the longer side of a picture on the page
PAIRS = 40  # shown of each kind
BYTES = 8_000_000  # of all pictures in the page, which then stays under 10 MB
QUALITIES = (85, 60, 35, 15)  # of JPEG; the best that stays within BYTES is used
Pair = tuple[Image, Image]


def write(source: Source, audited: Audit, summary: dict[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        source: the data set, from which the pictures are read.
        audited: its audit.
        summary: the audit's summary, see audit.summary.
        path: the file to write.

    Raises:
        UserError: the file cannot be written.
    """
    name = Path(source.path).name
    verdict = "; ".join(sentence(leak) for leak in summary["leaks"]) or "No image appears in two splits"
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    header = page.join(
        [
            p("Data audit", class_="kicker"),
            tag("h1", name),
            p(f"{verdict}.", class_="lead"),
            p(f"{source.path}, fingerprint {source.fingerprint[:16]}, checked {made}", class_="made"),
        ]
    )
    content = page.document(f"Data audit: {name}", header, sections(source, audited, summary))
    try:
        with atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); pass another --html") from error


def sections(source: Source, audited: Audit, summary: dict[str, Any]) -> list[tuple[str, list[Section]]]:
    """Returns the page's parts, each a name with its sections.

    Args:
        source: the data set, from which the pictures are read.
        audited: its audit.
        summary: the audit's summary.
    """
    by_file = {image.file: image for image in audited.images}
    leaking = [_leaking_pairs(audited, leak) for leak in audited.leaks()]
    conflicts = [(by_file[first], by_file[second]) for first, second in audited.conflicts()]
    near = [(by_file[first], by_file[second]) for first, second, _ in sorted(audited.pairs, key=lambda row: row[2])]
    near = [pair for pair in near if pair[0].split == pair[1].split]
    pictures = _pictures(
        source, [image.file for pairs in (*leaking, conflicts, near) for pair in pairs[:PAIRS] for image in pair]
    )
    agreement = _agreement(audited)

    def side_by_side(pairs: Sequence[Pair]) -> Html:
        return _side_by_side(pairs, pictures, agreement) if pairs else p("None.")

    leaks = [
        page.join([tag("h3", sentence(leak)), side_by_side(pairs)])
        for leak, pairs in zip(summary["leaks"], leaking, strict=True)
    ]
    left_out = summary["train_left_out"]
    words = p(
        f"Images left out of training, unless leaks is keep: {left_out['leaks']:,} also in valid or test, exactly or "
        f"nearly, and {left_out['conflicts']:,} with two labels. Valid and test are not changed."
    )
    faults = [
        page.section("audit-leaks", "Images in two splits", words, leaks_table(summary), *leaks),
        page.section("audit-conflicts", "One image, two labels", side_by_side(conflicts)),
        page.section(
            "audit-alike",
            "Near-duplicates within a split",
            p(f"{plural(len(near), 'pair')} of different files that show the same picture; least similar first."),
            side_by_side(near),
        ),
    ]
    measured = page.section("audit-splits", "What the splits measure", *(p(f"{line}.") for line in sentences(summary)))
    frames = page.section("audit-crop", "Before and after the crop", *_frames(source, audited))
    shortcuts = page.section("audit-shortcuts", "Class predicted without pixels", *class_by_file(summary))
    return [
        ("Faults", [measured, *faults]),
        ("Files", [_balance(summary), _files(summary), frames, shortcuts, _method()]),
    ]


def balance_table(summary: dict[str, Any]) -> Html:
    """Returns a table of images by class and split."""
    balance = summary["balance"]
    rows = [[name, *(balance[split][name] for split in SPLITS)] for name in balance["train"]]
    rows.append(["all", *(sum(balance[split].values()) for split in SPLITS)])
    rows = [[name, *(f"{count:,}" for count in counts), f"{sum(counts):,}"] for name, *counts in rows]
    return page.table(["class", *SPLITS, "all"], rows, caption="Images by class and split", numbers=range(1, 5))


def leaks_table(summary: dict[str, Any]) -> Html | None:
    """Returns a table of the leaks between splits; None if there are none."""
    kinds = {True: "equal", False: "near-duplicate"}
    rows = [
        [f"{leak['from']} in {leak['to']}", kinds[leak["exact"]], leak["files"], leak["distinct"]]
        for leak in summary["leaks"]
    ]
    columns = ["leak", "image", "files", "distinct images"]
    return page.table(columns, rows, caption="Images that appear in two splits", numbers=(2, 3)) if rows else None


def class_by_file(summary: dict[str, Any]) -> list[Html]:
    """Returns how well a file predicts its class without its pixels, in words and as a table."""
    result = summary["told_by_file"]
    if "reason" in result:
        return [p(f"Whether files reveal their class was not measured, because {result['reason']}.")]
    names = {"mode": "format and mode", "size": "width and height", "aspect": "width / height", "all": "all of these"}
    rows = [[names[name], f"{value:.3f}"] for name, value in result["accuracy"].items()]
    rows.append(["always the most frequent class", f"{result['majority']:.3f}"])
    words = (
        f"A decision tree that sees no pixels, cross-validated on the {result['images']:,} training images in "
        f"{result['folds']} folds with copies in the same fold. An accuracy above {result['chance']:.3f} is more than "
        "chance: the files then reveal the class, and a model may learn that instead of the anatomy. Training sees every "
        "image in gray and at one size, which hides the mode; the original size still shows in the sharpness, and the "
        "original aspect in how the body is stretched."
    )
    table = page.table(["predicted from", "accuracy"], rows, caption="Class predicted without pixels", numbers=(1,))
    return [p(words), table]


def _leaking_pairs(audited: Audit, leak: Leak) -> list[Pair]:
    """Returns each distinct image of a leak with its equal, or its most similar, image in the other split."""
    agreement = _agreement(audited)
    by_file = {image.file: image for image in audited.images}
    leaking = {by_file[file].exact: by_file[file] for file in reversed(leak.files)}
    others = [image for image in audited.images if image.split == leak.into]
    pairs = []
    for image in sorted(leaking.values(), key=lambda image: image.file):
        twins = [other for other in others if (other.exact == image.exact if leak.exact else other.near == image.near)]
        pairs.append((image, max(twins, key=lambda other: agreement.get(frozenset((image.exact, other.exact)), 0.0))))
    return pairs


def _agreement(audited: Audit) -> dict[frozenset[int], float]:
    """Returns how far near-duplicates agree, by the numbers of their images."""
    twins = audited.twins()
    return {frozenset((twins[first], twins[second])): value for first, second, value in audited.pairs}


def _pictures(source: Source, files: Sequence[str]) -> dict[str, str]:
    """Returns file to data URI, of the best quality that fits the page; `files` names a file as often as it is shown."""
    from PIL import Image as Pillow

    small = {}
    for split in SPLITS:
        for entry, content in sources.contents(source, split, only=set(files)):
            if isinstance(content, bytes):
                picture = Pillow.fromarray(
                    images.decode_gray(content, name=entry.file, frame=entry.frame, span=source.span)
                )
                picture.thumbnail((SIDE, SIDE), Pillow.Resampling.BILINEAR)
                small[entry.file] = np.asarray(picture)
    encoded: dict[str, str] = {}
    for quality in QUALITIES:
        encoded = {file: page.jpeg_uri(picture, quality=quality) for file, picture in small.items()}
        if sum(len(encoded.get(file, "")) for file in files) <= BYTES:
            break
    return encoded


def _frames(source: Source, audited: Audit) -> list[Html]:
    """Images as their files hold them and as the model sees them: of each split the one most cut, and one in the middle."""
    chosen: dict[str, str] = {}
    for split in SPLITS:
        own = [at for at, image in enumerate(audited.images) if image.split == split]
        order = sorted(own, key=lambda at: -float(audited.facts[at, :4].sum()))  # the margins around the body
        chosen |= {audited.images[order[rank]].file: split for rank in {0, len(order) // 2} if rank < len(order)}
    figures = []
    for split in SPLITS:
        for entry, content in sources.contents(source, split, only=set(chosen)):
            if isinstance(content, bytes):
                gray = images.decode_gray(content, name=entry.file, frame=entry.frame, span=source.span)
                pair = (gray, crop.prepare(gray, SIDE, crop.Preparation()))
                drawn = [page.image(_small(one), alt=f"{entry.file}, {split}", size=SIDE) for one in pair]
                caption = tag("figcaption", tag("code", entry.file), "as the file is; cropped and resized")
                figures.append(tag("figure", tag("div", *drawn, class_="twin"), caption, class_="error"))
    return [tag("div", *figures, class_="pairs")]


def _small(gray: np.ndarray) -> str:
    """A picture as a data URI, its longer side SIDE pixels."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(gray)
    picture.thumbnail((SIDE, SIDE), Pillow.Resampling.BILINEAR)
    return page.jpeg_uri(np.asarray(picture), quality=QUALITIES[0])


def _side_by_side(
    pairs: Sequence[Pair], pictures: Mapping[str, str], agreement: Mapping[frozenset[int], float]
) -> Html:
    """Returns pairs of pictures with their names below, and how many more there are."""
    figures = []
    for pair in pairs[:PAIRS]:
        same = pair[0].exact == pair[1].exact
        value = 1.0 if same else agreement.get(frozenset((pair[0].exact, pair[1].exact)))
        words = "equal" if same else f"agreement {value:.2f}" if value else "connected through other near-duplicates"
        drawn = [
            page.image(pictures[image.file], alt=f"{image.file}, {image.class_name}", size=SIDE)
            if image.file in pictures
            else tag("span", "unreadable")
            for image in pair
        ]
        names = [tag("code", image.file) for image in pair]
        classes = " / ".join(dict.fromkeys(image.class_name for image in pair))
        caption = tag("figcaption", *names, f"{classes}; {words}")
        figures.append(tag("figure", tag("div", *drawn, class_="twin"), caption, class_="error"))
    more = len(pairs) - PAIRS
    rest = [p(f"{more:,} more, which data check --json lists.", class_="fine")] if more > 0 else []
    return page.join([tag("div", *figures, class_="pairs"), *rest])


def _balance(summary: dict[str, Any]) -> Section:
    """Counts by class and split."""
    words = (
        f"{summary['images']:,} images, {summary['distinct_images']:,} of them distinct; "
        f"{summary['near_groups']:,} if near-duplicates count as one."
    )
    return page.section("audit-balance", "Classes", p(words), balance_table(summary))


def _files(summary: dict[str, Any]) -> Section:
    """Unreadable files, wrong names, modes and sizes."""
    faults = [["unreadable", file, reason] for file, reason in summary["unreadable"].items()]
    faults += [["not the format its name says", file, kind] for file, kind in summary["contradicting_formats"].items()]
    kinds = sorted({kind for counts in summary["modes"].values() for kind in counts})
    modes = [[name, *(counts.get(kind, 0) for kind in kinds)] for name, counts in summary["modes"].items()]
    sizes = [
        [
            name,
            *("{:g} – {:g} – {:g}".format(*facts[k]) for k in ("width", "height", "aspect")),
            facts["different_sizes"],
        ]
        for name, facts in summary["sizes"].items()
    ]
    columns = ["class", "width, px", "height, px", "width / height", "different sizes"]
    return page.section(
        "audit-files",
        "Files",
        page.table(["fault", "file", "details"], faults, caption="Faulty files") if faults else p("No faulty files."),
        page.table(["class", *kinds], modes, caption="Format and mode by class", numbers=range(1, len(kinds) + 1)),
        page.table(columns, sizes, caption="Smallest, median and largest size by class", numbers=(1, 2, 3, 4)),
    )


def _method() -> Section:
    """What the words mean."""
    return page.section(
        "audit-method",
        "What counts as the same",
        p(
            "Equal: the same pixels once decoded to gray, whatever the file's format and mode. Near-duplicate: when one "
            "picture is fitted onto the other, 85% of the small blocks that show anything correlate at 0.85 or more. This "
            "finds pictures that were saved again, resized, cropped or drawn on, and does not match neighbouring slices of "
            "one patient, which differ in every vessel. It does not find mirrored or rotated copies, or other slices of a "
            "patient in two splits."
        ),
    )
