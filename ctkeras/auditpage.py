"""The audit as a page: pairs side by side, and tables of all the rest; one file that opens from disk."""

import base64
import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import auditsummary, images, runtime, sources
from ctkeras.audit import Audit, Image, Leak
from ctkeras.config import UserError
from ctkeras.report import page
from ctkeras.report.page import Html, Section, p, tag
from ctkeras.sources import SPLITS, Source

SIDE = 200  # pixels; of the longer side of a picture on the page
PAIRS = 40  # shown of each kind
BYTES = 6_000_000  # of all pictures; base64 and the words then keep the page under 10 MB
QUALITIES = (85, 60, 35, 15)  # of JPEG; the best that keeps to it

Pair = tuple[Image, Image]


def write(source: Source, audited: Audit, found: dict[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        source: the data set, from which the pictures are read again.
        audited: its audit.
        found: its summary.
        path: the file.

    Raises:
        UserError: the file can't be written.
    """
    name = Path(source.path).name
    verdict = "; ".join(auditsummary.sentence(leak) for leak in found["leaks"]) or "No image stands in two splits"
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    header = page.join(
        [
            p("Data audit", class_="kicker"),
            tag("h1", name),
            p(f"{verdict}.", class_="lead"),
            p(f"{source.path}, fingerprint {source.fingerprint[:16]}, checked {made}", class_="made"),
        ]
    )
    content = page.document(f"Data audit: {name}", header, sections(source, audited, found))
    try:
        with runtime.atomic(path) as partial:
            partial.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}); pass another --html") from error


def sections(source: Source, audited: Audit, found: dict[str, Any]) -> list[tuple[str, list[Section]]]:
    """The page's parts, for a page of their own or within another.

    Args:
        source: the data set, from which the pictures are read again.
        audited: its audit.
        found: its summary.
    """
    by_file = {image.file: image for image in audited.images}
    leaking = [(leak, _leaking_pairs(audited, leak)) for leak in audited.leaks()]
    torn = [(by_file[first], by_file[second]) for first, second in audited.conflicts()]
    alike = [(by_file[first], by_file[second]) for first, second, _ in sorted(audited.pairs, key=lambda row: row[2])]
    alike = [pair for pair in alike if pair[0].split == pair[1].split]
    shown = [*(pairs for _, pairs in leaking), torn, alike]
    pictures = _pictures(source, [image.file for pairs in shown for pair in pairs[:PAIRS] for image in pair])
    agreement = _agreement(audited)

    def side_by_side(pairs: Sequence[Pair]) -> Html:
        return _side_by_side(pairs, pictures, agreement)

    left_out = found["train_left_out"]
    dropped = p(
        f"Training leaves out {left_out['leaks']} images that stand in valid or test, exactly or nearly, and "
        f"{left_out['conflicts']} with two labels, unless leaks is keep. Validation and test stay as they are."
    )
    leak_parts = [
        page.join([tag("h3", auditsummary.sentence(told)), side_by_side(pairs)])
        for told, (_, pairs) in zip(found["leaks"], leaking, strict=True)
    ]
    nothing = p("None.")
    faults = [
        page.section("audit-leaks", "Images in two splits", dropped, *(leak_parts or [nothing])),
        page.section("audit-conflicts", "One image, two labels", side_by_side(torn) if torn else nothing),
        page.section(
            "audit-alike",
            "Near-duplicates in one split",
            p(f"{len(alike):,} pairs of different files that show one picture; those least alike first."),
            side_by_side(alike),
        ),
    ]
    files = [_balance(found), _files(found), _told_by_file(found["told_by_file"]), _method(found)]
    return [("Faults", faults), ("Files", files)]


def _leaking_pairs(audited: Audit, leak: Leak) -> list[Pair]:
    """Each distinct image of a leak, with its twin, or its likest, in the other split."""
    agreement = _agreement(audited)
    by_file = {image.file: image for image in audited.images}
    leaking = {by_file[file].exact: by_file[file] for file in reversed(leak.files)}
    there = [image for image in audited.images if image.split == leak.into]
    pairs = []
    for image in sorted(leaking.values(), key=lambda image: image.file):
        twins = [other for other in there if (other.exact == image.exact if leak.exact else other.near == image.near)]
        pairs.append((image, max(twins, key=lambda other: agreement.get(frozenset((image.exact, other.exact)), 0.0))))
    return pairs


def _agreement(audited: Audit) -> dict[frozenset[int], float]:
    """How far near-duplicates agree, by the numbers of their images."""
    twins = audited.twins()
    return {frozenset((twins[first], twins[second])): value for first, second, value in audited.pairs}


def _pictures(source: Source, shown: Sequence[str]) -> dict[str, str]:
    """Files, each as often as it is shown, to pictures as data URIs, of the best quality that fits the page."""
    from PIL import Image as Pillow

    files, small = set(shown), {}
    for split in SPLITS:
        for entry, content in sources.contents(source, split, only=files):
            if isinstance(content, bytes):
                picture = Pillow.fromarray(images.decode_gray(content, name=entry.file))
                picture.thumbnail((SIDE, SIDE), Pillow.Resampling.BILINEAR)
                small[entry.file] = np.asarray(picture)
    encoded: dict[str, bytes] = {}
    for quality in QUALITIES:
        encoded = {file: _jpeg(picture, quality) for file, picture in small.items()}
        if sum(len(encoded.get(file, b"")) for file in shown) <= BYTES:
            break
    return {file: f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for file, data in encoded.items()}


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    """A gray picture as JPEG."""
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.fromarray(picture).save(content, "JPEG", quality=quality, optimize=True)
    return content.getvalue()


def _side_by_side(
    pairs: Sequence[Pair], pictures: Mapping[str, str], agreement: Mapping[frozenset[int], float]
) -> Html:
    """Pairs of pictures with their names below, and how many more there are."""
    figures = []
    for pair in pairs[:PAIRS]:
        same = pair[0].exact == pair[1].exact
        value = 1.0 if same else agreement.get(frozenset((pair[0].exact, pair[1].exact)))
        words = "equal" if same else f"agree to {value:.2f}" if value else "alike by way of others"
        drawn = [
            page.image(pictures[image.file], alt=f"{image.file}, {image.class_name}", size=SIDE)
            if image.file in pictures
            else tag("span", "can't be read")
            for image in pair
        ]
        names = [tag("code", image.file) for image in pair]
        classes = " / ".join(dict.fromkeys(image.class_name for image in pair))
        caption = tag("figcaption", *names, f"{classes}; {words}")
        figures.append(tag("figure", tag("div", *drawn, class_="twin"), caption, class_="error"))
    more = len(pairs) - PAIRS
    rest = [p(f"And {more:,} more: data check --json lists them.", class_="fine")] if more > 0 else []
    return page.join([tag("div", *figures, class_="pairs"), *rest])


def _balance(found: dict[str, Any]) -> Section:
    """Counts by class and split."""
    balance = found["balance"]
    rows = [[name, *(balance[split][name] for split in SPLITS)] for name in balance["train"]]
    rows.append(["all", *(sum(balance[split].values()) for split in SPLITS)])
    words = (
        f"{found['images']:,} images, {found['distinct_images']:,} distinct; "
        f"{found['near_groups']:,} when near-duplicates count as one."
    )
    table = page.table(["Class", *SPLITS], rows, caption="Images of each class in each split", numbers=(1, 2, 3))
    return page.section("audit-balance", "Classes", p(words), table)


def _files(found: dict[str, Any]) -> Section:
    """Unreadable files, wrong names, modes and sizes."""
    faults = [["can't be read", file, reason] for file, reason in found["unreadable"].items()]
    faults += [["not what its name says", file, kind] for file, kind in found["contradicting_formats"].items()]
    kinds = sorted({kind for counts in found["modes"].values() for kind in counts})
    modes = [[name, *(counts.get(kind, 0) for kind in kinds)] for name, counts in found["modes"].items()]
    sizes = [
        [
            name,
            *("{:g} – {:g} – {:g}".format(*facts[k]) for k in ("width", "height", "aspect")),
            facts["different_sizes"],
        ]
        for name, facts in found["sizes"].items()
    ]
    columns = ["Class", "Width, px", "Height, px", "Width / height", "Different sizes"]
    return page.section(
        "audit-files",
        "Files",
        page.table(["Fault", "File", "Found"], faults, caption="Faulty files") if faults else p("No faulty file."),
        page.table(["Class", *kinds], modes, caption="Format and mode by class", numbers=range(1, len(kinds) + 1)),
        page.table(columns, sizes, caption="Smallest, median and largest size by class", numbers=(1, 2, 3, 4)),
    )


def _told_by_file(told: dict[str, Any]) -> Section:
    """Shortcuts."""
    if "reason" in told:
        content = [p(f"Not measured: {told['reason']}.")]
    else:
        names = {
            "mode": "format and mode",
            "size": "width and height",
            "aspect": "width / height",
            "all": "all of these",
        }
        rows = [[names[name], f"{value:.3f}"] for name, value in told["accuracy"].items()]
        rows += [["always the most frequent class", f"{told['majority']:.3f}"]]
        words = (
            f"A decision tree that sees no pixel, cross-validated on the {told['images']:,} training images in "
            f"{told['folds']} parts with copies kept together. Above {told['chance']:.3f} is more than chance: what is "
            "told so can stand in for what is seen. Training sees every image in gray and at one size, which hides the "
            "mode; a file's size still shows in sharpness, and its aspect in how the body is stretched."
        )
        content = [p(words), page.table(["Told by", "Right"], rows, caption="Class told by the file", numbers=(1,))]
    return page.section("audit-shortcuts", "Class told by the file alone", *content)


def _method(found: dict[str, Any]) -> Section:
    """What the words mean."""
    return page.section(
        "audit-method",
        "What counts as the same",
        p(
            "Equal: the same pixels once decoded to gray, whatever the file's format and mode. Nearly: laid over each "
            "other, 85% of the small blocks that show anything correlate at 0.85 or more. That finds pictures saved "
            "again, resized, cropped or drawn on, and keeps apart neighbouring slices of one patient, which differ in "
            "every vessel. Mirrored and turned copies are not found, nor other slices of a patient in two splits."
        ),
    )
