"""Splits for data that has none, or lacks one: patients, or similar slices, always stay together."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np

from ctkeras.data import layout, similarity, splitting
from ctkeras.data.layout import SPLITS, Entry, fingerprint, in_label_order
from ctkeras.runtime import stored
from ctkeras.runtime.files import cache_dir

_VERSION = "1"  # raise it when images are divided differently
_WITHOUT = {  # the splits that a data set has, and the shares into which its training images are divided
    frozenset(): splitting.FRACTIONS,
    frozenset({"train"}): splitting.FRACTIONS,
    frozenset({"train", "test"}): (0.85, 0.15, 0.0),
    frozenset({"train", "valid"}): (0.85, 0.0, 0.15),
}


def completed(
    entries: Sequence[Entry], thumbnails: Callable[[list[Entry]], np.ndarray]
) -> tuple[list[Entry], list[str]]:
    """Gives a split to images that have none, or divides the training images of data without valid or test.

    Args:
        entries: of the whole data set.
        thumbnails: returns uint8 [N, 32, 32] of images; called only where patients are not known.

    Returns:
        The entries with their splits, and what was done, in words.

    Raises:
        UserError: the cache cannot be written.
    """
    present = frozenset(entry.split for entry in entries if entry.split)
    if present == set(SPLITS) or present not in _WITHOUT:  # which layout.checked_classes refuses
        return list(entries), []
    fractions = _WITHOUT[present]
    divided = [entry for entry in entries if entry.split in ("", "train")]
    parts, groups, by_patient = _parts(divided, thumbnails, fractions)
    given = {id(entry): SPLITS[part] for entry, part in zip(divided, parts, strict=True)}
    done = [dataclasses.replace(e, split=given[id(e)]) if id(e) in given else e for e in entries]
    counts = Counter(SPLITS[part] for part in parts)
    shares = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    missing = (
        "splits" if len(present) < 2 else " or ".join(f"{split} split" for split in SPLITS if split not in present)
    )
    which = f"its {len(divided)} images" if not present else f"its {len(divided)} training images"
    kind = "patients" if by_patient else "groups of similar slices"
    notes = [
        f"The data has no {missing}, so {which} of {groups} {kind} are divided into {shares}, always in the same way; no "
        f"{'patient' if by_patient else 'group'} is in two splits (ctkeras data split writes such a division to a file)."
    ]
    names = in_label_order(entry.class_name for entry in divided)
    labels = np.array([names.index(entry.class_name) for entry in divided])
    if not present:
        notes += splitting.missing(labels, np.array(parts), np.array(parts), names)
    return done, notes


def _parts(
    entries: list[Entry], thumbnails: Callable[[list[Entry]], np.ndarray], fractions: tuple[float, float, float]
) -> tuple[list[int], int, bool]:
    """The split of each image as an index, the number of groups, and whether these are patients; from the cache if there."""
    key = hashlib.sha256(f"{_VERSION} {fractions} {fingerprint(tuple(entries))}".encode()).hexdigest()[:32]
    cached = cache_dir("divisions") / f"{key}.json"
    if (known := stored.find_json(cached)) is not None:
        parts, count, by_patient = known
        return parts, count, by_patient
    groups, by_patient = groups_of(entries, thumbnails)
    names = in_label_order(entry.class_name for entry in entries)
    labels = np.array([names.index(entry.class_name) for entry in entries])
    parts = splitting.divide(labels, groups, fractions=fractions).tolist()
    count = int(groups.max()) + 1
    stored.write_json(cached, [parts, count, by_patient])
    return parts, count, by_patient


def groups_of(entries: list[Entry], thumbnails: Callable[[list[Entry]], np.ndarray]) -> tuple[np.ndarray, bool]:
    """Which images must stay together: patients where all are known, otherwise similar slices, and folders inside a class.

    Returns:
        int64 [N], from 0, and whether the groups are patients.
    """
    patients = [entry.patient for entry in entries]
    if all(patients):
        return similarity.of_patients(patients), True
    own = similarity.of_patients([patient or f" {number}" for number, patient in enumerate(patients)])
    inside = [_folder_in_class(entry) or f" {number}" for number, entry in enumerate(entries)]
    below = similarity.of_patients(inside)
    return similarity.joined(similarity.clusters(thumbnails(entries)), own, below), False


def _folder_in_class(entry: Entry) -> str:
    """The folder inside its class folder that an image is in, which may be a patient's; '' if it is in none."""
    folder = PurePosixPath(entry.file).parent
    own = layout.spelling(entry.class_name)
    depth = next((at for at, part in enumerate(folder.parts, 1) if layout.spelling(part) == own), 0)
    return str(folder) if depth and len(folder.parts) > depth else ""
