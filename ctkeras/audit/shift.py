"""Whether splits were prepared differently: can a linear model tell them apart, and by which facts of their images.

Of splits that were drawn from the same images in the same way, no model can tell which is which: the area under the ROC
curve (AUC) is near 0.5. Where it is near 1, a test accuracy also measures how well a model bears another preparation.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ctkeras.audit.audit import Audit
from ctkeras.data.facts import NAMES, PREPARED
from ctkeras.runtime import blas

FOLDS, REPEATS, PENALTY = 5, 5, 10.0  # of the linear model: ridge regression of +1 and -1 on standardised columns
PERMUTATIONS, RESAMPLES, LEVEL = 999, 300, 0.05  # so many permutations can give a p of LEAST_P
# Permutations that reach the AUC, after which no more are drawn; and how many are drawn at once.
ENOUGH, _AT_ONCE = 20, 250
# A shift is spoken of where even the lower bound of the AUC is at least the first, and p at most the second. A data set is
# asked four times (valid and test, before and after preparation), so chance alone speaks in 4 of 1,000 sets at most. Splits
# of few groups have fewer than 1,000 permutations, so that p is never that small: there is nothing to say about them.
LEAST_AUC, LEAST_P = 0.7, 0.001
_ROUNDING = 1e-9  # of an AUC
TELLING, SHOWN = 0.62, 3  # AUC from which a single fact is named, and how many are
_WORDS = {
    "margin": "the black margin",
    "black": "the black area",
    "sharpness": "the sharpness",
    "width": "the width",
    "height": "the height",
    "aspect": "the width per height",
    "gray_1": "the gray of the darkest 1%",
    "gray_25": "the gray of the darkest quarter",
    "gray_50": "the median gray",
    "gray_75": "the gray that a quarter exceeds",
    "gray_99": "the gray of the brightest 1%",
}


Division = list[tuple[np.ndarray, np.ndarray]]


class Fact(NamedTuple):
    """One fact that differs between two splits."""

    name: str
    words: str
    mean: float  # of the split asked about, over images
    reference: float  # of the other split
    auc: float  # of this fact alone, at least 0.5


class Shift(NamedTuple):
    """How well a linear model tells one split from another."""

    n: int  # images of both splits
    auc: float  # cross-validated, no group parted; NaN where there are too few groups
    low: float  # 95% interval, by resampling groups
    high: float
    p: float  # share of permutations of the groups' splits, inside each class, that reach the AUC
    facts: tuple[Fact, ...] = ()  # those that differ most, first
    by_class: tuple[tuple[str, float], ...] = ()  # the AUC within each class

    @property
    def speaks(self) -> bool:
        """Whether it is more than chance, and large enough to matter."""
        return self.low >= LEAST_AUC and self.p <= LEAST_P


def shift(
    audited: Audit, split: str, into: str = "train", *, prepared: bool = False, features: np.ndarray | None = None
) -> Shift:
    """Tells one split from another by a linear model on facts of their images.

    Each column has its class's mean taken off, so that another mix of classes is not a shift. Images that appear in both
    splits, exactly or nearly, are left out of both, because nothing tells them apart. The model is ridge regression,
    cross-validated in folds that part no group. p is from permutations of the groups' splits inside each class, because
    splits are balanced by class; they end early where the AUC is plainly reached by chance (Besag & Clifford 1991).

    Args:
        audited: the data set's audit.
        split: the split asked about.
        into: the split that it is compared with.
        prepared: facts after the crop to the body and the resize, rather than of the files' own images.
        features: float [N, D] of the images of `audited` in their order, to be used in place of facts.

    Returns:
        The AUC with its interval; `facts` is empty where features are given.
    """
    own = _only_in_one(audited, split, into)
    images = [audited.images[at] for at in own]
    label = np.array([image.split == split for image in images], bool)
    groups = np.unique([image.group for image in images], return_inverse=True)[1]
    class_names, classes = np.unique([image.class_name for image in images], return_inverse=True)
    names, values = _columns(audited.facts[own], prepared) if features is None else ((), features[own])
    folds = min(FOLDS, *(len(np.unique(groups[label == side])) for side in (True, False)))
    if folds < 2:
        return Shift(len(own), math.nan, math.nan, math.nan, math.nan)
    columns = _standardised(values, classes)
    targets = np.where(label, 1.0, -1.0)[:, None]
    divisions = [_divided(columns, label, groups, folds, seed=seed) for seed in range(REPEATS)]
    score = np.mean([_scores(columns, targets, division) for division in divisions], axis=0)[:, 0]
    auc = _auc_of(score, label, np.arange(len(own)))
    inside = tuple((str(name), _auc_of(score, label, classes == number)) for number, name in enumerate(class_names))
    p = _reached_by_chance(columns, label, groups, classes, divisions[0])
    return Shift(len(own), auc, *_interval(score, label, groups), p, tuple(_facts(names, values, label)), inside)


def both(audited: Audit, split: str, into: str = "train") -> dict[str, Any]:
    """Returns the shift before and after preparation, as JSON."""
    return {
        name: _as_json(shift(audited, split, into, prepared=prepared))
        for name, prepared in (("before", False), ("after", True))
    }


def _as_json(result: Shift) -> dict[str, Any]:
    """A shift as JSON."""
    facts = [fact._asdict() for fact in result.facts]
    return {**result._asdict(), "facts": facts, "by_class": dict(result.by_class), "speaks": result.speaks}


def _only_in_one(audited: Audit, split: str, into: str) -> np.ndarray:
    """The numbers of the images of two splits that do not appear in both: int [n]."""
    near = {name: {image.near for image in audited.images if image.split == name} for name in (split, into)}
    shared = near[split] & near[into]
    rows = (at for at, image in enumerate(audited.images) if image.split in near and image.near not in shared)
    return np.fromiter(rows, np.int64)


def _columns(facts: np.ndarray, prepared: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and float [n, F], of the facts of files or of prepared images, and of what they say together."""
    names = PREPARED if prepared else NAMES
    values = np.asarray(facts[:, len(NAMES) :] if prepared else facts[:, : len(NAMES)], np.float64)
    top, left, bottom, right = values[:, :4].T
    margin = 1 - (1 - top - bottom) * (1 - left - right)
    return (*names, "margin"), np.column_stack([values, margin])


def _standardised(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Columns with each class's mean taken off, at variance 1; constant ones are 0."""
    values = np.asarray(values, np.float64)
    means = np.stack([values[classes == number].mean(0) for number in range(classes.max() + 1)])
    rest = values - means[classes]
    spread = rest.std(0)
    return rest / np.where(spread > 1e-9, spread, np.inf)


def _reached_by_chance(
    columns: np.ndarray, label: np.ndarray, groups: np.ndarray, classes: np.ndarray, division: Division
) -> float:
    """The share of permutations whose AUC is at least that of the labels, which count as one permutation."""
    rng, drawn, reached = np.random.default_rng(0), 0, 0
    cells = np.unique(2 * groups + label, return_inverse=True)[1]
    targets = np.where(label, 1.0, -1.0)[:, None]
    auc = _auc(_scores(columns, targets, division), targets)[0]
    while drawn < PERMUTATIONS and reached < ENOUGH:
        permuted = _permuted(label, cells, classes, min(_AT_ONCE, PERMUTATIONS - drawn), rng)
        drawn += permuted.shape[1]
        null = _auc(_scores(columns, permuted, division), permuted)
        reached += int((null >= auc - _ROUNDING).sum())
    return (1 + reached) / (1 + drawn)


def _permuted(
    label: np.ndarray, cells: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Labels +1 and -1, permuted among the cells of each class: float [n, count]. A cell has the class of most images."""
    numbers = np.zeros((cells.max() + 1, classes.max() + 1))
    np.add.at(numbers, (cells, classes), 1)
    own, of_cell = numbers.argmax(1), np.zeros(len(numbers))
    of_cell[cells] = np.where(label, 1.0, -1.0)
    permuted = np.tile(of_cell[:, None], count)
    for number in range(classes.max() + 1):
        permuted[own == number] = rng.permuted(permuted[own == number], axis=0)
    return permuted[cells]


def _divided(values: np.ndarray, label: np.ndarray, groups: np.ndarray, folds: int, *, seed: int) -> Division:
    """Rows in folds that part no group: (trained on, held out) of each."""
    from sklearn import model_selection

    splitter = model_selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(values, label, groups))


def _scores(values: np.ndarray, targets: np.ndarray, division: Division) -> np.ndarray:
    """Out-of-fold answers float [n, T] of ridge regression to each column of targets."""
    from sklearn import linear_model

    scores = np.zeros_like(targets)
    for train, held in division:
        # By the singular values, which all columns share; scikit-learn's choice solves for one column after the other.
        with blas.threads_for(values.size):
            model = linear_model.Ridge(alpha=PENALTY, solver="svd").fit(values[train], targets[train])
        scores[held] = model.predict(values[held]).reshape(len(held), -1)
    return scores


def _auc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The area under each column's ROC curve, float [T], by ranks (Mann & Whitney 1947)."""
    from scipy import stats

    above = targets > 0
    count = above.sum(0)
    ranks = np.where(above, stats.rankdata(scores, axis=0), 0).sum(0)
    return np.asarray((ranks - count * (count + 1) / 2) / np.maximum(count * (len(scores) - count), 1))


def _auc_of(score: np.ndarray, label: np.ndarray, which: np.ndarray) -> float:
    """The AUC among some images; NaN where one side has none."""
    if len(set(label[which])) < 2:
        return float("nan")
    return float(_auc(score[which, None], np.where(label[which], 1.0, -1.0)[:, None])[0])


def _interval(scores: np.ndarray, label: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the AUC, by resampling groups (Efron 1979)."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups == number) for number in range(groups.max() + 1)]
    values = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[number] for number in rng.integers(len(members), size=len(members))])
        values.append(_auc_of(scores, label, rows))
    low, high = np.nanquantile(values, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def _facts(names: tuple[str, ...], values: np.ndarray, label: np.ndarray) -> list[Fact]:
    """The facts that tell the splits apart alone, the best first."""
    targets = np.where(label, 1.0, -1.0)[:, None]
    rows = []
    for name, column in zip(names, np.asarray(values, np.float64).T, strict=False):
        auc = float(_auc(column[:, None], targets)[0])
        if name in _WORDS and max(auc, 1 - auc) >= TELLING:
            own, other = float(column[label].mean()), float(column[~label].mean())
            rows.append(Fact(name, _WORDS[name], own, other, max(auc, 1 - auc)))
    return sorted(rows, key=lambda fact: -fact.auc)
