"""Near-duplicates: one picture saved again, resized, cropped or drawn on, as opposed to a neighbouring slice.

A hash or a correlation of whole pictures cannot distinguish these on CT. Among the public set's 847 distinct images,
correlation at 64 px is 0.989 for two neighbouring slices, 0.987 for a slice and the same with a pen stroke, and 0.73 for a
slice cropped differently. Therefore one picture is first fitted onto the other (shift and scale of either axis), then they
are compared block by block: a stroke spoils a few blocks, but another slice moves every vessel.

The measure is the 15th percentile of the correlations of those blocks, 8 px of 128, that show anything. On that set 170
pairs reach 0.88 or more, and inspection showed one slice in each; the most similar two slices reach 0.80, and no pair lies
between. Of 60 of its slices changed on purpose, it finds all 60 after JPEG at quality 30, resizing to 0.3 of the size,
crops of up to 10% per side, gamma 0.8 or 1.3 and noise of 5 gray levels; 59 with a pen stroke or a black rim; 49 after JPEG
at quality 10. It does not find mirrored or rotated copies, or one slice in two gray windows.
"""

from typing import TYPE_CHECKING

import numpy as np

from ctkeras.data import threads
from ctkeras.data.images import SIZE
from ctkeras.runtime import console

if TYPE_CHECKING:
    import faiss

THRESHOLD = 0.85  # in the gap described above
_PERCENTILE = 15  # percent of the blocks may differ: strokes, captions
_BLOCK = 8  # pixels
_LEAST_SHOWN = 8  # at least one block in this many must show something; fewer are too few to judge by
_FIRST_SIZE, _FIRST_THRESHOLD = 64, 0.7  # a quick comparison before the slow one; the 170 pairs reached 0.83
_CELLS = 12  # candidates are found by their 12 x 12 means …
_CANDIDATE = 0.88  # … whose correlation is at least this; the 170 pairs reached 0.885
_MOST = 8  # candidates per picture, so that time grows with pictures rather than pairs
# A picture's middle, without this share of each side, is compared with crops by each of the shares below, so that up to 6%
# may be missing on any side.
_MARGIN = 0.08
_CUTS = (0.02, 0.08, 0.14)
_BATCH = 32  # pictures at once, about 50 MB
# Up to this many pictures, each crop is compared with all; of more, with those in the nearest cells of an index, which finds
# 0.996 of the most similar. Cells grow with the root of the pictures, and so does what is compared with each crop.
_COMPARED_WITH_ALL, _VISITED = 4000, 16
_CHUNK = 256  # pairs whose pictures are blurred together, each once; at most 100 MB per thread
_FEW = 8  # pairs fitted at once; they fit in a core's cache


def pairs(thumbnails: np.ndarray) -> list[tuple[int, int, float]]:
    """Finds pairs of pictures that are nearly the same.

    Args:
        thumbnails: uint8 [N, 128, 128], all different.

    Returns:
        (i, j, agreement) with i < j, sorted; agreement is from THRESHOLD to 1.
    """
    both, place = _candidates(thumbnails)
    place, agreement = _compared(thumbnails, both, place, size=_FIRST_SIZE, blurs=(2.5,), steps=3)
    likely = agreement >= _FIRST_THRESHOLD
    both, place = both[likely], place[likely]
    _, agreement = _compared(thumbnails, both, place, size=SIZE, blurs=(2.0, 1.0), steps=4)
    rows = zip(both.tolist(), agreement.tolist(), strict=True)
    return [(i, j, value) for (i, j), value in rows if value >= THRESHOLD]


def _candidates(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs worth comparing, by correlating the middle of each picture with 81 crops of every other.

    Returns:
        int [P, 2], the smaller index first, and float32 [P, 4], the place of the second on the first (see _warped).
    """
    sides = [(cut, 1 - other) for cut in _CUTS for other in _CUTS]
    crops = np.concatenate([_averages(*side) for side in sides])
    middle = _averages(_MARGIN, 1 - _MARGIN)
    starts = range(0, len(thumbnails), _BATCH)
    middles = threads.in_threads(lambda start: _unit(_sketched(thumbnails[start : start + _BATCH], middle)), starts)
    middle_of_all = np.concatenate([np.zeros((0, _CELLS**2), np.float32), *middles])

    index = _index(middle_of_all)

    def candidates(start: int) -> np.ndarray:
        part = thumbnails[start : start + _BATCH]
        sketches = _sketched(part, crops).reshape(-1, len(sides), _CELLS, len(sides), _CELLS)
        sketches = _unit(sketches.transpose(0, 1, 3, 2, 4).reshape(-1, _CELLS, _CELLS))
        return _most_similar(index, sketches.reshape(len(part), len(sides) ** 2, -1), start)

    bar = console.Bar("looking for near-duplicates", len(starts))
    matches = [np.zeros((0, 4))]
    for rows in threads.in_threads(candidates, starts):
        bar.update(len(matches))
        matches.append(rows)
    bar.close()
    return _once(np.concatenate(matches), np.array(sides))


def _index(middles: np.ndarray) -> "faiss.Index":
    """Returns an index that finds the rows, float32 [N, D], whose product with a row is largest."""
    import faiss

    count, width = middles.shape
    everything = faiss.IndexFlatIP(width)
    if count <= _COMPARED_WITH_ALL:
        everything.add(middles)
        return everything
    cells = round(4 * count**0.5)  # Douze et al. 2024, The Faiss library: 4 to 16 times the root
    index = faiss.IndexIVFFlat(everything, width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # fewer than its usual 39 are enough here, and it would warn
    index.nprobe = _VISITED
    index.train(middles)
    index.add(middles)
    return index


def _most_similar(index: "faiss.Index", crops: np.ndarray, first: int) -> np.ndarray:
    """Returns rows of (i, j, crop, correlation): for each picture j, the few i whose middle is most similar to a crop of j.

    Args:
        index: of the middles of all pictures.
        crops: float32 [P, crops, D], of pictures first, first + 1, …
        first: the number of the first of these.
    """
    most = min(_MOST + 1, index.ntotal)  # one more, because it finds the picture itself
    correlation, number = index.search(crops.reshape(-1, crops.shape[2]), most)
    picture, crop, _ = np.indices((*crops.shape[:2], most)).reshape(3, -1)
    table = np.stack([number.ravel(), first + picture, crop, correlation.ravel()], axis=1, dtype=np.float64)
    table = table[(table[:, 3] >= _CANDIDATE) & (table[:, 0] != table[:, 1]) & (table[:, 0] >= 0)]
    table = table[np.argsort(-table[:, 3], kind="stable")]
    _, best = np.unique(table[:, :2], axis=0, return_index=True)  # of each pair
    table = table[np.sort(best)]
    table = table[np.argsort(table[:, 1], kind="stable")]
    _, start, count = np.unique(table[:, 1], return_index=True, return_counts=True)
    return table[np.arange(len(table)) - np.repeat(start, count) < _MOST]


def _once(matches: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts rows of (i, j, crop, correlation) to what _candidates returns: each pair once, by its best match."""
    matches = matches[np.argsort(-matches[:, 3], kind="stable")]
    both, crop = matches[:, :2].astype(np.int64), matches[:, 2].astype(np.int64)
    (top, bottom), (left, right) = sides[crop // len(sides)].T, sides[crop % len(sides)].T
    shift = np.stack([left + right - 1, top + bottom - 1], axis=1)
    scale = np.stack([right - left, bottom - top], axis=1) / (1 - 2 * _MARGIN)
    swapped = (both[:, 0] > both[:, 1])[:, None]  # the first lies on the second: invert the place
    shift, scale = np.where(swapped, -shift / scale, shift), np.where(swapped, 1 / scale, scale)
    both, first = np.unique(np.sort(both, axis=1), axis=0, return_index=True)
    return both, np.concatenate([shift, scale], axis=1)[first].astype(np.float32)


def _averages(low: float, high: float) -> np.ndarray:
    """Returns the matrix [cells, 128] that maps a row of pixels to means of cells between shares `low` and `high` of it."""
    cuts = low + (high - low) * np.arange(_CELLS + 1) / _CELLS
    pixel = np.arange(SIZE) / SIZE
    cover = np.minimum(cuts[1:, None], pixel + 1 / SIZE) - np.maximum(cuts[:-1, None], pixel)
    cover = np.clip(cover, 0, None)
    return (cover / cover.sum(1, keepdims=True)).astype(np.float32)


def _sketched(pictures: np.ndarray, averages: np.ndarray) -> np.ndarray:
    """Averages along both sides: [N, 128, 128] to [N, K, K], in products that BLAS computes in the calling thread."""
    count, cells = len(pictures), len(averages)
    across = pictures.reshape(-1, 16, SIZE).astype(np.float32) @ averages.T
    across = across.reshape(count, SIZE, cells).transpose(0, 2, 1).reshape(-1, _CELLS, SIZE)
    return (across @ averages.T).reshape(count, cells, cells).transpose(0, 2, 1)


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [N, …] as rows of mean 0 and length 1, whose products are correlations; a flat picture is all 0."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-3)  # 1e-3: gray levels, far below one


def _compared(
    thumbnails: np.ndarray, both: np.ndarray, place: np.ndarray, *, size: int, blurs: tuple[float, ...], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits pairs at one size; returns their places, float32 [P, 4], and how far they agree, float32 [P]."""
    from scipy import ndimage

    share = SIZE // size

    def fit(chunk: slice) -> tuple[np.ndarray, np.ndarray]:
        numbers, where = np.unique(both[chunk], return_inverse=True)
        first, second = where.reshape(-1, 2).T
        pictures = thumbnails[numbers].reshape(-1, size, share, size, share).mean((2, 4), dtype=np.float32)
        few = [slice(start, start + _FEW) for start in range(0, len(first), _FEW)]
        fitted = place[chunk].copy()
        for blur in blurs:
            blurred = ndimage.gaussian_filter(pictures, (0, blur, blur), mode="nearest")
            for part in few:
                fitted[part] = _fitted(blurred, first[part], second[part], fitted[part], steps)
        agreement = [_agreement(pictures, first[part], second[part], fitted[part]) for part in few]
        return fitted, np.concatenate(agreement)

    places, agreement = [place[:0]], [np.zeros(0, np.float32)]
    bar = console.Bar(f"comparing at {size} px", len(both))
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(both), _CHUNK)]
    for chunk, (fitted, agreeing) in zip(chunks, threads.in_threads(fit, chunks), strict=True):
        places.append(fitted)
        agreement.append(agreeing)
        bar.update(min(chunk.stop, len(both)))
    bar.close()
    return np.concatenate(places), np.concatenate(agreement)


def _fitted(pictures: np.ndarray, first: np.ndarray, second: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray:
    """Improves the places of pictures on others: Lucas and Kanade 1981, for shift, scale, gain and offset.

    Pixels that do not fit count less (Cauchy's weights), so that a stroke does not pull the fit.

    Args:
        pictures: float32 [N, S, S].
        first: int [P], the numbers of the pictures that stay as they are.
        second: int [P], the numbers of the pictures that are fitted onto them.
        place: float32 [P, 4], see _warped.
        steps: Gauss-Newton steps.
    """
    count, size = len(first), pictures.shape[1]
    every = size // _FIRST_SIZE  # fewer pixels are enough, because they are blurred
    at = _positions(size)[::every]
    fixed = pictures[first].transpose(0, 2, 1)
    right, down = (slope[:, ::every, ::every] for slope in np.gradient(fixed, 2 / size, axis=(1, 2)))
    fixed = np.ascontiguousarray(fixed[:, ::every, ::every])
    terms = np.ones((count, 6, *fixed.shape[1:]), np.float32)
    terms[:, 0], terms[:, 1] = right, down
    np.multiply(right, at[:, None], out=terms[:, 2])
    np.multiply(down, at, out=terms[:, 3])
    for _ in range(steps):
        warped, inside = _warped(pictures, second, place, at)
        rest = fixed - warped
        usual = _medians(np.abs(rest[:, ::2, ::2]).reshape(count, -1))[:, None, None]
        weights = inside / (1 + (rest / (3 * usual + 1)) ** 2)
        np.multiply(warped, 1 / 64, out=terms[:, 4])  # in the order of magnitude of the slopes
        weighted = (terms * weights[:, None]).reshape(count, 6, -1)
        normal = weighted @ terms.reshape(count, 6, -1).transpose(0, 2, 1)
        normal += 0.01 * np.eye(6, dtype=np.float32)  # so that a flat picture is solvable too
        step = np.linalg.solve(normal, weighted @ rest.reshape(count, -1, 1))[:, :4, 0]
        place = place + np.clip(step, -0.05, 0.05)
        place = np.clip(place, (-0.3, -0.3, 0.7, 0.7), (0.3, 0.3, 1.3, 1.3)).astype(np.float32)
    return place


def _medians(rows: np.ndarray) -> np.ndarray:
    """Returns the median of each row, float32 [N, an even number]; np.median takes twice as long, to handle NaN."""
    half = rows.shape[1] // 2
    return np.sort(rows, axis=1)[:, half - 1 : half + 1].mean(1)


def _positions(size: int) -> np.ndarray:
    """Returns the middles of the pixels along a side that runs from -1 to 1."""
    return ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)


def _warped(
    pictures: np.ndarray, numbers: np.ndarray, place: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures resampled onto others, bilinearly, and which of the positions lie inside them.

    Args:
        pictures: float32 [N, S, S].
        numbers: int [P], the numbers of the pictures to resample.
        place: float32 [P, 4], shift x and y, scale x and y: position u on the other is shift + scale u on this one, where
            sides run from -1 to 1.
        at: float32 [K], the positions u, of columns and of rows.

    Returns:
        float32 [P, K, K] and bool [P, K, K], columns before rows: taking whole rows is faster than single pixels.
    """
    size = pictures.shape[1]
    pixel = (place[:, :2, None] + place[:, 2:, None] * at + 1) * size / 2 - 0.5
    inside = (pixel >= 0) & (pixel <= size - 1)
    low = np.clip(pixel.astype(np.int64), 0, size - 2)
    (x, y), (right, down) = low.transpose(1, 0, 2), np.clip(pixel - low, 0, 1).transpose(1, 0, 2)
    rows = _between(pictures, numbers[:, None], y, down)
    columns = np.ascontiguousarray(rows.transpose(0, 2, 1))
    return _between(columns, np.arange(len(place))[:, None], x, right), inside[:, 0, :, None] & inside[:, 1, None, :]


def _between(pictures: np.ndarray, numbers: np.ndarray, row: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns rows of pictures, interpolated between each row and the next by `share`."""
    height = pictures.shape[1]
    rows = pictures.reshape(-1, pictures.shape[2])
    before = rows.take(numbers * height + row, axis=0)
    between = rows.take(numbers * height + row + 1, axis=0)
    between -= before
    between *= share[:, :, None]
    between += before
    return between


def _agreement(pictures: np.ndarray, first: np.ndarray, second: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns the 15th percentile of the blocks' correlations, float32 [P]; 0 if too few blocks show anything."""
    fixed = pictures[first].transpose(0, 2, 1)
    warped, inside = _warped(pictures, second, place, _positions(pictures.shape[1]))
    one, other = (blocks - blocks.mean(-1, keepdims=True) for blocks in (_blocks(fixed), _blocks(warped)))
    power, other_power = (one**2).mean(-1), (other**2).mean(-1)
    correlation = (one * other).mean(-1) / np.sqrt(power * other_power + 1e-6)
    shown = np.maximum(4, 0.01 * fixed.var((1, 2)))[:, None]  # squared gray levels: 2, or a tenth of the contrast
    used = _blocks(inside).all(-1) & (np.maximum(power, other_power) > shown)
    count = used.sum(1)
    ranked = np.sort(np.where(used, correlation, np.inf), axis=1)
    at = np.maximum(count - 1, 0) * _PERCENTILE // 100
    return np.where(count * _LEAST_SHOWN >= used.shape[1], ranked[np.arange(len(ranked)), at], 0).astype(np.float32)


def _blocks(pictures: np.ndarray) -> np.ndarray:
    """Reshapes [P, S, S] to [P, blocks, pixels]."""
    count, size, _ = pictures.shape
    split = pictures.reshape(count, size // _BLOCK, _BLOCK, size // _BLOCK, _BLOCK)
    return split.transpose(0, 1, 3, 2, 4).reshape(count, -1, _BLOCK**2)
