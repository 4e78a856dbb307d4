"""Near-duplicates: one picture saved again, resized, cropped or scribbled on, told apart from a neighbouring slice.

A hash or one correlation of whole pictures can't do that on CT. Among the public set's 847 distinct images, correlation
at 64 px is 0.989 for two neighbouring slices, 0.987 for one slice with a pen stroke, 0.73 for one slice cropped anew.
So pictures are laid over each other first (shift and scale of either axis, fitted), then compared block by block: a
stroke spoils a few blocks, another slice moves every vessel.

The measure is the 15th percentile of the correlations of blocks, 8 px of 128, that show anything. On that set 170 pairs
reach 0.88 or more, each looked at and each one slice; the likest two slices reach 0.80, and nothing lies between. Of 60
of its slices changed on purpose, all 60 are found after JPEG at quality 30, resizing to 0.3 of the size, crops of up to
10% a side, gamma 0.8 or 1.3 and noise of 5 gray levels; 59 with a pen stroke or a black rim; 49 after JPEG at quality 10.
Mirrored or turned copies, and one slice in two gray windows, are not found.
"""

import numpy as np

from ctkeras import images, runtime

SIZE = 128  # pixels of a side that pictures are compared at: vessels show, the noise of JPEG doesn't
THRESHOLD = 0.85  # in the gap named above
_PERCENTILE = 15  # of blocks may differ: strokes, captions
_BLOCK = 8  # pixels
_LEAST_SHOWN = 8  # blocks, one in this many must show something; fewer are too little to tell by
_FIRST_SIZE, _FIRST_THRESHOLD = 64, 0.7  # a quick look before the long one; the 170 pairs reached 0.83
_CELLS = 12  # candidates are found by 12 x 12 means …
_CANDIDATE = 0.88  # … whose correlation is at least this; the 170 pairs reached 0.885
_MOST = 8  # candidates a picture: time then grows with pictures rather than with pairs
_MARGIN = 0.08  # share of a side cut off a picture's middle …
_CUTS = (0.02, 0.08, 0.14)  # … which is sought where these are cut off: 6% lost on any side is made good
_BATCH = 32  # pictures at once, some 50 MB
_ROWS = 32  # pictures that these are compared with at once: small products, which BLAS leaves to the thread they are in
_CHUNK = 256  # pairs whose pictures are blurred together, each once; at most 100 MB a thread
_FEW = 8  # pairs fitted at once: what they take stays in a core's cache


def thumbnail(gray: np.ndarray) -> np.ndarray:
    """A picture as it is compared: uint8 [H, W] to uint8 [128, 128], antialiased."""
    from PIL import Image

    return np.asarray(Image.fromarray(gray).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def pairs(thumbnails: np.ndarray) -> list[tuple[int, int, float]]:
    """Finds the pictures that are nearly the same.

    Args:
        thumbnails: uint8 [N, 128, 128], no two the same.

    Returns:
        (i, j, agreement) with i < j, in order; agreement is at least THRESHOLD, at most 1.
    """
    both, place = _candidates(thumbnails)
    place, agreement = _compared(thumbnails, both, place, size=_FIRST_SIZE, blurs=(2.5,), steps=3)
    likely = agreement >= _FIRST_THRESHOLD
    both, place = both[likely], place[likely]
    _, agreement = _compared(thumbnails, both, place, size=SIZE, blurs=(2.0, 1.0), steps=4)
    rows = zip(both.tolist(), agreement.tolist(), strict=True)
    return [(i, j, value) for (i, j), value in rows if value >= THRESHOLD]


def _candidates(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs worth comparing: the middle of each picture is sought in 81 crops of every other.

    Returns:
        int [P, 2], the smaller index first, and float32 [P, 4], where the second lies on the first (see _warped).
    """
    sides = [(cut, 1 - other) for cut in _CUTS for other in _CUTS]
    crops = np.concatenate([_averages(*side) for side in sides])
    middle = _averages(_MARGIN, 1 - _MARGIN)
    starts = range(0, len(thumbnails), _BATCH)
    middles = images.in_threads(lambda start: _unit(_sketched(thumbnails[start : start + _BATCH], middle)), starts)
    known = np.concatenate([np.zeros((0, _CELLS**2), np.float32), *middles])

    def look(start: int) -> np.ndarray:
        part = thumbnails[start : start + _BATCH]
        sketches = _sketched(part, crops).reshape(-1, len(sides), _CELLS, len(sides), _CELLS)
        sketches = _unit(sketches.transpose(1, 3, 0, 2, 4).reshape(-1, _CELLS, _CELLS))
        return _likest(known, sketches.reshape(len(sides) ** 2, len(part), -1), start)

    bar = runtime.Bar("looking for near-duplicates", len(starts))
    found = [np.zeros((0, 4))]
    for rows in images.in_threads(look, starts):
        bar.update(len(found))
        found.append(rows)
    bar.close()
    return _once(np.concatenate(found), np.array(sides))


def _likest(known: np.ndarray, sought: np.ndarray, first: int) -> np.ndarray:
    """Rows of (i, j, crop, correlation): for each picture j, the few i whose middle one of its crops is likest.

    Args:
        known: float32 [N, D], middles.
        sought: float32 [crops, P, D], of pictures first, first + 1, …
        first: the number of the first of these.
    """
    columns = np.arange(sought.shape[1])
    best = np.empty((len(columns), len(known)), np.float32)
    for start in range(0, len(known), _ROWS):
        rows = known[start : start + _ROWS].T
        np.max(sought @ rows, axis=0, out=best[:, start : start + _ROWS])
    best[columns, first + columns] = -1  # itself
    most = min(_MOST, len(known))
    rows = np.argpartition(-best, most - 1, axis=1)[:, :most].T
    row, column = rows.ravel(), np.tile(columns, most)
    number = np.einsum("cpd,pd->pc", sought[:, column], known[row]).argmax(1)
    table = np.stack([row, first + column, number, best[column, row]], axis=1, dtype=np.float64)
    return table[table[:, 3] >= _CANDIDATE]


def _once(found: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes rows of (i, j, crop, correlation) to what _candidates returns, each pair as it matched best."""
    found = found[np.argsort(-found[:, 3], kind="stable")]
    both, crop = found[:, :2].astype(np.int64), found[:, 2].astype(np.int64)
    (top, bottom), (left, right) = sides[crop // len(sides)].T, sides[crop % len(sides)].T
    shift = np.stack([left + right - 1, top + bottom - 1], axis=1)
    scale = np.stack([right - left, bottom - top], axis=1) / (1 - 2 * _MARGIN)
    swapped = (both[:, 0] > both[:, 1])[:, None]  # the first on the second: turn it round
    shift, scale = np.where(swapped, -shift / scale, shift), np.where(swapped, 1 / scale, scale)
    both, first = np.unique(np.sort(both, axis=1), axis=0, return_index=True)
    return both, np.concatenate([shift, scale], axis=1)[first].astype(np.float32)


def _averages(low: float, high: float) -> np.ndarray:
    """The matrix [cells, 128] that takes a row of pixels, from share `low` to `high` of it, to its cells' means."""
    cuts = low + (high - low) * np.arange(_CELLS + 1) / _CELLS
    pixel = np.arange(SIZE) / SIZE
    cover = np.minimum(cuts[1:, None], pixel + 1 / SIZE) - np.maximum(cuts[:-1, None], pixel)
    cover = np.clip(cover, 0, None)
    return (cover / cover.sum(1, keepdims=True)).astype(np.float32)


def _sketched(pictures: np.ndarray, averages: np.ndarray) -> np.ndarray:
    """Averages along both sides: [N, 128, 128] to [N, K, K], in products that BLAS leaves to the thread they are in."""
    count, cells = len(pictures), len(averages)
    across = pictures.reshape(-1, 16, SIZE).astype(np.float32) @ averages.T
    across = across.reshape(count, SIZE, cells).transpose(0, 2, 1).reshape(-1, _CELLS, SIZE)
    return (across @ averages.T).reshape(count, cells, cells).transpose(0, 2, 1)


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, …] as rows of mean 0 and length 1, whose product is their correlation; an empty picture is all 0."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-3)  # 1e-3 gray levels, far below one


def _compared(
    thumbnails: np.ndarray, both: np.ndarray, place: np.ndarray, *, size: int, blurs: tuple[float, ...], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits pairs at a size: where they lie, float32 [P, 4], and how far they agree, float32 [P]."""
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
    bar = runtime.Bar(f"comparing at {size} px", len(both))
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(both), _CHUNK)]
    for chunk, (fitted, agreeing) in zip(chunks, images.in_threads(fit, chunks), strict=True):
        places.append(fitted)
        agreement.append(agreeing)
        bar.update(min(chunk.stop, len(both)))
    bar.close()
    return np.concatenate(places), np.concatenate(agreement)


def _fitted(pictures: np.ndarray, first: np.ndarray, second: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray:
    """Improves where pictures lie on others: Lucas and Kanade 1981, for shift, scale, gain and offset.

    Pixels that don't fit count less (Cauchy's weights), so that a stroke doesn't pull.

    Args:
        pictures: float32 [N, S, S].
        first: int [P], the numbers of those that stay as they are.
        second: int [P], the numbers of those that are laid over them.
        place: float32 [P, 4], see _warped.
        steps: of Gauss and Newton.
    """
    count, size = len(first), pictures.shape[1]
    every = size // _FIRST_SIZE  # blurred, so that fewer pixels do
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
        np.multiply(warped, 1 / 64, out=terms[:, 4])  # of the slopes' order
        weighted = (terms * weights[:, None]).reshape(count, 6, -1)
        normal = weighted @ terms.reshape(count, 6, -1).transpose(0, 2, 1)
        normal += 0.01 * np.eye(6, dtype=np.float32)  # solvable where a picture is flat
        step = np.linalg.solve(normal, weighted @ rest.reshape(count, -1, 1))[:, :4, 0]
        place = place + np.clip(step, -0.05, 0.05)
        place = np.clip(place, (-0.3, -0.3, 0.7, 0.7), (0.3, 0.3, 1.3, 1.3)).astype(np.float32)
    return place


def _medians(rows: np.ndarray) -> np.ndarray:
    """The median of each row, float32 [N, an even number]; np.median makes sure of NaN, for half the time."""
    half = rows.shape[1] // 2
    return np.sort(rows, axis=1)[:, half - 1 : half + 1].mean(1)


def _positions(size: int) -> np.ndarray:
    """Pixels' middles along a side that runs from -1 to 1."""
    return ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)


def _warped(
    pictures: np.ndarray, numbers: np.ndarray, place: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures laid over others, bilinear, and the pixels that they have there.

    Args:
        pictures: float32 [N, S, S].
        numbers: int [P], of those that are laid.
        place: float32 [P, 4], shift x and y, scale x and y: what is at u on the other is at shift + scale u, sides
            running from -1 to 1.
        at: float32 [K], the positions u wanted, of columns and of rows.

    Returns:
        float32 [P, K, K] and bool [P, K, K], columns before rows: whole rows are quicker to take than single pixels.
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
    """Rows of pictures, each so far on its way to the next."""
    height = pictures.shape[1]
    rows = pictures.reshape(-1, pictures.shape[2])
    before = rows.take(numbers * height + row, axis=0)
    way = rows.take(numbers * height + row + 1, axis=0)
    way -= before
    way *= share[:, :, None]
    way += before
    return way


def _agreement(pictures: np.ndarray, first: np.ndarray, second: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The 15th percentile of blocks' correlations: float32 [P]; 0 where too few blocks show anything."""
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
    """[P, S, S] as [P, blocks, pixels]."""
    count, size, _ = pictures.shape
    split = pictures.reshape(count, size // _BLOCK, _BLOCK, size // _BLOCK, _BLOCK)
    return split.transpose(0, 1, 3, 2, 4).reshape(count, -1, _BLOCK**2)
