"""Whether two models differ by more than noise, from their answers on the same images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctkeras.audit import audit
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.evaluation import bootstrap, patients
from ctkeras.runs.folder import read_config
from ctkeras.runs.predictions import Predictions, read_predictions
from ctkeras.runtime import console

LEVEL = 0.05  # of the test and of intervals: two runs with a p of at least this cannot be distinguished
FLIPS = 10_000  # random exchanges; p is then exact within 0.005
PATIENT, SIMILAR, IMAGE = "patient", "group of similar slices", "image"
PLURALS = {PATIENT: "patients", SIMILAR: "groups of similar slices", IMAGE: "images"}
_ELEMENTS = 2_000_000  # signs in memory at a time: 16 MB


class Comparison(NamedTuple):
    """How far one model is ahead of another on the same images, and the one test of whether that is more than chance."""

    difference: float  # the first one's accuracy minus the other's
    low: float  # 95% bounds: all differences that the test does not reject
    high: float
    p: float  # two-sided; below LEVEL exactly when 0 is outside the bounds
    unit: str  # what is exchanged: patient, group of similar slices, or distinct image
    n_units: int
    n: int  # images
    seeds: int  # runs of each model
    error: float  # standard error of the difference

    @property
    def inside_noise(self) -> bool:
        """Whether chance alone may explain the difference."""
        return self.p >= LEVEL


class Interval(NamedTuple):
    """An accuracy with its 95% bounds."""

    value: float
    low: float
    high: float
    images: int


def difference_test(
    right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray, *, unit: str, by_seed: Sequence[float] = ()
) -> Comparison:
    """The paired permutation test of two models, and the interval that follows from it.

    If both were equally good, the two answers of a unit could be exchanged (Fisher 1935); units are exchanged whole,
    because slices of one patient are not independent. Where each unit is one image, this is McNemar's exact test. The bounds
    are the differences that the same test does not reject. With several seeds, each exchange also adds what other seeds
    would change, as Student's t of the differences by seed.

    Args:
        right_a: float [N], the share of the first one's runs that are right; bool for a single run.
        right_b: float [N], of the other's, on the same images.
        groups: int [N], the unit of each image.
        unit: what a unit is, in the singular.
        by_seed: the difference in accuracy for each seed that both ran with; fewer than two add nothing.
    """
    ahead = np.asarray(right_a, float) - np.asarray(right_b, float)
    _, member = np.unique(groups, return_inverse=True)
    gains, sizes = np.bincount(member, ahead), np.bincount(member).astype(float)
    images, units = len(ahead), len(sizes)
    gain, difference = float(gains.sum()), float(gains.sum() / images)
    residuals = gains - difference * sizes
    of_units = math.sqrt(float((residuals**2).sum()) * units / max(units - 1, 1)) / images
    of_seeds = float(np.std(by_seed, ddof=1)) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else 0.0
    lows, highs = [], []
    for signs, noise in _exchanges(units, len(by_seed) if of_seeds else 0):
        gained = np.einsum("rg,g->r", signs, gains) + images * of_seeds * noise
        size = np.einsum("rg,g->r", signs, sizes)
        # For a true difference d, an exchange is as extreme as what was seen if |gained - d size| >= |gain - d images|.
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(gain - gained) / (images - size), (gain + gained) / (images + size)])
        whole = (images - np.abs(size)) < 0.5  # nothing is exchanged, or everything
        lows.append(np.where(whole, -np.inf, ends.min(0)))
        highs.append(np.where(whole, np.inf, ends.max(0)))
    low, high = np.round(np.concatenate(lows), 12), np.round(np.concatenate(highs), 12)
    p = float(np.mean((low <= 0) & (high >= 0)))
    place = math.ceil(LEVEL * len(low) - 1e-9) - 1
    bounds = max(float(np.sort(low)[place]), -1.0), min(float(np.sort(high)[::-1][place]), 1.0)
    error = math.hypot(of_units, of_seeds)
    return Comparison(difference, *bounds, p, unit, units, images, max(len(by_seed), 1), error)


def _exchanges(units: int, seeds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields signs float64 [R, units] and the noise of other seeds [R], a few exchanges at a time; the first changes nothing.

    All exchanges of few units, FLIPS random ones of many, and always random ones with seeds.
    """
    if not seeds and 2**units <= FLIPS:
        numbers = np.arange(2**units)[:, None] >> np.arange(units) & 1
        yield 1.0 - 2.0 * numbers, np.zeros(len(numbers))
        return
    rng = np.random.default_rng(0)
    yield np.ones((1, units)), np.zeros(1)
    rows = max(1, _ELEMENTS // units)
    for start in range(1, FLIPS, rows):
        size = min(rows, FLIPS - start)
        noise = rng.standard_t(seeds - 1, size) if seeds else np.zeros(size)
        yield 1.0 - 2.0 * rng.integers(2, size=(size, units)), noise


def named(compared: Comparison) -> str:
    """The test in words, with its units: 'paired permutation test over 187 groups of similar slices'."""
    units = f"1 {compared.unit}" if compared.n_units == 1 else f"{compared.n_units:,} {PLURALS[compared.unit]}"
    seeds = f" and {compared.seeds} seeds" if compared.seeds > 1 else ""
    return f"paired permutation test over {units}{seeds}"


def worded(compared: Comparison) -> str:
    """The outcome of the test in one sentence, with its interval and p, wherever a difference is reported."""
    if compared.difference == compared.low == compared.high == 0:
        return (
            f"The difference of 0.000 may be chance, p = 1: both are right equally often for each "
            f"{compared.unit} ({named(compared)})."
        )
    verdict = "may be chance" if compared.inside_noise else f"is more than chance at the {LEVEL:.0%} level"
    return (
        f"The difference of {_bound(compared.difference)} {verdict}: 95% interval {_bound(compared.low)} to "
        f"{_bound(compared.high)}, p = {compared.p:.2g} ({named(compared)})."
    )


def _bound(value: float) -> str:
    """A number with three digits, or as many as show that it is not 0."""
    return f"{value + 0.0:.3f}" if abs(value) >= 0.0005 or not value else f"{value:.1g}"


def units(audited: audit.Audit | None, files: Sequence[str]) -> tuple[np.ndarray, str]:
    """What the test exchanges: the unit of each file, int [N], and what a unit is.

    Args:
        audited: of the data set; None if it cannot be read, and each file is then a unit.
        files: N names. One that the audit does not know is a unit of its own.
    """
    if audited is None:
        return np.arange(len(files)), IMAGE
    known = {image.file: image.group for image in audited.images}
    unit = PATIENT if audited.grouped_by == "patient" else SIMILAR
    return np.array([known.get(file, -1 - place) for place, file in enumerate(files)]), unit


def audit_of(options: Mapping[str, Any]) -> audit.Audit | None:
    """The audit of the data set that options name, for units; None, with a note, if the data cannot be read.

    Args:
        options: hyperparameters, of which data, slices and group_pattern count.
    """
    try:
        source = sources.open_source(str(options.get("data") or ""), slices=str(options.get("slices") or "all"))
        return audit.load(source, group_pattern=str(options.get("group_pattern") or ""))
    except UserError as error:
        console.note(
            f"Note: slices of one patient are counted as separate images because the data cannot be read ({error})."
        )
        return None


def paired(right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray, *, unit: str = IMAGE) -> dict[str, Any]:
    """Two models' accuracies and the test of their difference; flat.

    Args:
        right_a: bool [N], whether the first model is right.
        right_b: bool [N], whether the second is, on the same images.
        groups: int [N], the unit of each image.
        unit: what a unit is, in the singular.

    Returns:
        n, n_units, unit, acc_a and acc_b, each with _low and _high; difference (a minus b) with difference_low and
        difference_high; p; only_a and only_b, the numbers of images that only one classifies correctly; verdict.
    """

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        return {
            "acc_a": bootstrap.totals(weights, right_a) / total,
            "acc_b": bootstrap.totals(weights, right_b) / total,
        }

    found = difference_test(right_a, right_b, groups, unit=unit)
    numbers: dict[str, Any] = {"n": found.n, "n_units": found.n_units, "unit": unit}
    numbers |= {"acc_a": float(right_a.mean()), "acc_b": float(right_b.mean())} | bootstrap.bounds(statistics, groups)
    numbers |= {
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "p": found.p,
    }
    numbers |= {"only_a": int((right_a & ~right_b).sum()), "only_b": int((right_b & ~right_a).sum())}
    return numbers | {"verdict": worded(found)}


def compare(folder_a: Path, folder_b: Path, split: str, *, data: str | None = None) -> dict[str, Any]:
    """Compares two runs by their predictions.csv on a split; opens no model and no image.

    Args:
        folder_a: a run folder.
        folder_b: another.
        split: train, valid or test.
        data: the data set, when it is no longer where the first run found it; it shows which files are copies.

    Returns:
        See paired; and where patients with several slices are known, the same of each patient's mean, with the prefix patient_.

    Raises:
        UserError: a run has no predictions of that split, or the two runs' images or labels differ.
    """
    a, b = (_predictions(folder, split) for folder in (folder_a, folder_b))
    if a.class_names != b.class_names or not np.array_equal(_labelled(a), _labelled(b)):
        raise UserError(
            f"{folder_a} and {folder_b} were evaluated on different {split} images or labels; evaluate both on the same data"
        )
    order_a, order_b = (np.argsort(each.files) for each in (a, b))
    right_a, right_b = (each.probabilities.argmax(-1) == each.labels for each in (a, b))
    files = tuple(a.files[i] for i in order_a)
    config = read_config(folder_a)
    if data:
        sources.open_source(data)  # which the user named, so it must be there
    options = {"data": data or config.data, "slices": config.slices, "group_pattern": config.group_pattern}
    audited = audit_of(options)
    groups, unit = units(audited, files)
    found = paired(right_a[order_a], right_b[order_b], groups, unit=unit)
    names = [patients.known(audited, each.files) for each in (a, b)]
    return found | (_per_patient((a, b), names) if all(names) else {})


def _per_patient(both: Sequence[Predictions], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The comparison of two runs' means over patients' slices; {} if no patient has a label."""
    means = [patients.averaged(each, own) for each, own in zip(both, names, strict=True)]
    if not len(means[0].names):
        return {}
    right = [dict(zip(one.names, one.probabilities.argmax(-1) == one.labels, strict=True)) for one in means]
    right_a, right_b = (np.array([one[name] for name in means[0].names]) for one in right)
    found = paired(right_a, right_b, np.arange(len(right_a)), unit=PATIENT)
    return {f"patient_{name}": value for name, value in found.items() if name != "unit"}


def _predictions(folder: Path, split: str) -> Predictions:
    """A split's predictions.

    Raises:
        UserError: the run has no predictions of that split.
    """
    read_config(folder)
    if (predictions := read_predictions(folder, split)) is None:
        raise UserError(f"{folder} has no {split} predictions; create them with `evaluate {folder} --split {split}`")
    return predictions


def _labelled(predictions: Predictions) -> np.ndarray:
    """(file, label) of each image, in the order of files."""
    return np.array(sorted(zip(predictions.files, map(str, predictions.labels), strict=True)))


def accuracy_interval(right: Mapping[str, bool], twins: Mapping[str, int]) -> Interval:
    """Accuracy with bounds by the bootstrap over distinct images; Wilson's at 0 and 1, as everywhere else.

    Args:
        right: file to whether the answer was right.
        twins: file to the number of its distinct image; a file that it lacks is an image of its own.
    """
    values = np.array(list(right.values()), bool)
    return Interval(float(values.mean()), *bootstrap.share(values, _groups(right, twins)), len(values))


def against(
    first: Mapping[str, bool], other: Mapping[str, bool], groups: Mapping[str, int], *, unit: str = IMAGE
) -> Comparison | None:
    """One run against another, paired by image; None when they were evaluated on different images.

    Args:
        first: file to whether the answer was right.
        other: the same for the other run.
        groups: file to the number of its unit; a file that it lacks is a unit of its own.
        unit: what a unit is, in the singular.
    """
    if first.keys() != other.keys() or not first:
        return None
    return difference_test(*_paired(first, other), _groups(first, groups), unit=unit)


def _paired(first: Mapping[str, bool], other: Mapping[str, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two runs' right answers in one order of files: bool [N] each."""
    return np.array(list(first.values())), np.array([other[file] for file in first])


def indistinguishable(
    first: Mapping[str, bool],
    others: Sequence[Mapping[str, bool] | None],
    groups: Mapping[str, int],
    *,
    unit: str = IMAGE,
) -> tuple[int, int]:
    """How many runs on the same images the test cannot distinguish from the first, and out of how many."""
    found = [against(first, other, groups, unit=unit) for other in others if other is not None]
    tested = [one for one in found if one is not None]
    return sum(one.inside_noise for one in tested), len(tested)


def _groups(right: Mapping[str, bool], twins: Mapping[str, int]) -> np.ndarray:
    """Which distinct image each file holds: int [N]."""
    own = {file: -1 - i for i, file in enumerate(right)}
    return np.array([twins.get(file, own[file]) for file in right])
