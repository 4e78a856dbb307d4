"""Groups of images that must stay together, and folds that never part one: patients, or else clusters of similar slices.

Neighbouring slices of one patient look alike, and a model that has seen one names the other. A fold is an honest question
only where no group lies on both of its sides.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ctkeras.errors import UserError

SIZE = 32  # pixels of a side of the thumbnails that are compared, of images cropped to the body
CORRELATION = 0.85  # average within a cluster, at least
LARGEST = 10_000  # images clustered at once: N^2 / 2 distances of 8 bytes, twice 400 MB, and some 10 s
_ROWS = 256  # thumbnails correlated with all others at once
_RAISE = 0.2  # of the way to 1, each time that images are too many to be clustered at once


def clusters(thumbnails: np.ndarray, *, correlation: float = CORRELATION) -> np.ndarray:
    """Clusters similar slices by average linkage on the correlation of their thumbnails.

    A cluster hangs together by pairs of at least `correlation`, so images are first divided into the components of that
    graph, and each of these is clustered. Where a component has over 10,000 images, it is divided at higher correlations
    first, and clusters may then come out smaller.

    Args:
        thumbnails: uint8 or float [N, S, S]; 32 x 32 is what the default correlation was chosen at.
        correlation: at which clusters are cut, below 1.

    Returns:
        int64 [N], the number of each image's cluster; numbers follow the order of first occurrence.
    """
    if not len(thumbnails):
        return np.zeros(0, np.int64)
    units = _unit(np.asarray(thumbnails, np.float32).reshape(len(thumbnails), -1))
    numbers, count = np.empty(len(units), np.int64), 0
    for members in _components(units, correlation):
        own = _linked(units[members], 1 - correlation)
        numbers[members] = count + own
        count += own.max() + 1
    return _in_order(numbers)


def of_patients(patients: Sequence[str]) -> np.ndarray:
    """Numbers patients by first occurrence: int64 [N], one group per patient."""
    return _in_order(np.unique(np.asarray(patients), return_inverse=True)[1])


def named(files: Sequence[str], pattern: str) -> list[str]:
    r"""Names the patient of each file by a pattern, as a pseudonym: patients are numbered from 1 by first occurrence.

    Args:
        files: paths inside the data set, with /.
        pattern: a regular expression, searched for in each path; its first group names the patient.

    Returns:
        One pseudonym per file.

    Raises:
        UserError: it is not a regular expression, has no group, or does not match every file.

    Example:
        >>> named(["train/a/p7-01.png", "train/a/p7-02.png", "test/b/p9-01.png"], r"(p\d+)-")
        ['1', '1', '2']
    """
    usage = f"a path such as {files[0] if files else 'train/a/p012-3.png'!r}; as in --group_pattern '(p\\d+)-'"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"group_pattern {pattern!r} is not a regular expression ({error}); it names the patient in {usage}"
        ) from error
    if not expression.groups:
        raise UserError(f"group_pattern {pattern!r} needs brackets around the part that names the patient in {usage}")
    matches = [expression.search(file) for file in files]
    names = [match[1] if match else None for match in matches]
    if missing := [file for file, name in zip(files, names, strict=True) if not name]:
        raise UserError(
            f"group_pattern {pattern!r} does not find a patient in {len(missing):,} of {len(files):,} files, such as "
            f"{missing[0]}; its first brackets must match in every path, as in --group_pattern '(p\\d+)-'"
        )
    numbers: dict[str | None, str] = {}
    return [numbers.setdefault(name, str(len(numbers) + 1)) for name in names]


def connected(count: int, pairs: Iterable[tuple[int, int, float]]) -> np.ndarray:
    """Returns, for each of `count` numbers, the smallest number that pairs connect it with: int64 [count]."""
    from scipy import sparse
    from scipy.sparse import csgraph

    ends = np.array([(i, j) for i, j, *_ in pairs], np.int64).reshape(-1, 2).T
    graph = sparse.coo_matrix((np.ones(ends.shape[1], bool), ends), shape=(count, count))
    _, smallest, inverse = np.unique(
        csgraph.connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
    )
    return smallest[inverse].astype(np.int64)


def joined(*numberings: Sequence[int] | np.ndarray) -> np.ndarray:
    """Joins groups that share an image: int64 [N], numbered by first occurrence.

    Args:
        numberings: int [N] each; images with the same number in any of them are in one group.
    """
    count, pairs = len(numberings[0]), []
    for numbers in numberings:
        _, first, inverse = np.unique(np.asarray(numbers), return_index=True, return_inverse=True)
        pairs += [(at, int(own), 1.0) for at, own in enumerate(first[inverse])]
    return _in_order(connected(count, pairs)) if count else np.zeros(0, np.int64)


def folds(labels: np.ndarray, groups: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """Divides images into k folds of about equal class frequencies, each group whole in one fold.

    Groups are dealt out one by one, the largest first, each to the fold in which class counts then differ least between
    folds; the seed decides the order among groups of one size.

    Args:
        labels: int [N], of distinct images.
        groups: int [N].
        k: number of folds, at least 2.
        seed: of the order.

    Returns:
        int64 [N], the fold of each image, from 0.

    Raises:
        UserError: a class has too few groups to be in training whichever fold is held out.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)  # images per group and class
    if len(counts) < k:
        raise UserError(f"{k} folds need at least {k} groups of images; the data has {len(counts)}: use fewer folds")
    single = np.flatnonzero((counts > 0).sum(0) == 1)
    if len(single):
        raise UserError(
            f"all images of class number {single[0]} are in one group, which some fold would take out of training whole: "
            "use --folds 0 and the given validation split"
        )
    order = np.random.default_rng([seed, 4]).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    shares = counts / counts.sum(0).clip(1)
    dealt, fold_of = np.zeros((k, counts.shape[1])), np.empty(len(counts), np.int64)
    for group in order:
        spread = [_spread(dealt, shares[group], fold) for fold in range(k)]
        fold_of[group] = np.argmin(spread)
        dealt[fold_of[group]] += shares[group]
    if len(np.unique(fold_of)) < k:
        raise UserError(f"some of {k} folds would have no images, because a class has too few groups: use fewer folds")
    return fold_of[groups]


def _spread(dealt: np.ndarray, share: np.ndarray, fold: int) -> float:
    """How unequal the folds' class shares [k, C] would be with one more group's share [C] in a fold."""
    after = dealt.copy()
    after[fold] += share
    return float(after.var(0).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] with their mean taken off, of length 1, so that products are correlations; a flat row stays 0."""
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _components(units: np.ndarray, correlation: float) -> list[np.ndarray]:
    """Index arrays of the connected components at a correlation; too large ones are divided at higher correlations."""
    from scipy import sparse
    from scipy.sparse import csgraph

    numbers = np.arange(len(units))
    for start in range(
        0, len(units), _ROWS
    ):  # one component after another grows together, so that no list of pairs is kept
        row, column = np.nonzero(units[start : start + _ROWS] @ units[start:].T >= correlation)
        ends = numbers[row + start], numbers[column + start]
        graph = sparse.coo_matrix((np.ones(len(row), bool), ends), shape=(len(units),) * 2)
        numbers = csgraph.connected_components(graph, directed=False)[1][numbers]
    order = np.argsort(numbers, kind="stable")
    parts = []
    for members in np.split(order, np.cumsum(np.bincount(numbers))[:-1]):
        if len(members) <= LARGEST or correlation > 0.999:
            parts.append(members)
        else:
            higher = correlation + _RAISE * (1 - correlation)
            parts += [members[part] for part in _components(units[members], higher)]
    return parts


def _linked(units: np.ndarray, distance: float) -> np.ndarray:
    """Clusters of average linkage cut at a distance of 1 - correlation: int [N] from 0."""
    from scipy.cluster import hierarchy

    count = len(units)
    if count == 1:
        return np.zeros(1, np.int64)
    distances = np.empty(count * (count - 1) // 2)  # above the diagonal, row by row, as linkage takes them
    at = 0
    for row in range(count - 1):
        end = at + count - 1 - row
        distances[at:end] = np.clip(1 - units[row + 1 :] @ units[row], 0, 2)
        at = end
    tree = hierarchy.linkage(distances, "average")
    return hierarchy.fcluster(tree, distance, "distance").astype(np.int64) - 1


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """Renumbers by first occurrence: int [N] to int64 [N] from 0."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
