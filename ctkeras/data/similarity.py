"""Which images must stay together: slices of one patient, and clusters of similar slices."""

from collections.abc import Iterable, Sequence

import numpy as np

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
