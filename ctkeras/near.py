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

from collections.abc import Iterator

import numpy as np

from ctkeras import runtime

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
_BATCH = 32  # pictures or pairs at once, some 50 MB


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


def _batches(pictures: np.ndarray, title: str) -> Iterator[np.ndarray]:
    """Slices of a first axis, with a bar."""
    bar = runtime.Bar(title, len(pictures))
    for start in range(0, len(pictures), _BATCH):
        yield pictures[start : start + _BATCH]
        bar.update(min(start + _BATCH, len(pictures)))
    bar.close()


def _candidates(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the pairs worth comparing: the middle of each picture is sought in 81 crops of every other.

    Returns:
        int [P, 2], the smaller index first, and float32 [P, 4], where the second lies on the first (see _warped).
    """
    sides = [(cut, 1 - other) for cut in _CUTS for other in _CUTS]
    crops = np.concatenate([_averages(*side) for side in sides])
    middle = _averages(_MARGIN, 1 - _MARGIN)
    middles = [_unit(_sketched(part, middle)) for part in _batches(thumbnails, "sketching")]
    known = np.concatenate(middles or [np.zeros((0, _CELLS**2), np.float32)])
    found, done = [np.zeros((0, 4))], 0
    for part in _batches(thumbnails, "looking for near-duplicates"):
        sketches = _sketched(part, crops).reshape(-1, len(sides), _CELLS, len(sides), _CELLS)
        sketches = _unit(sketches.transpose(1, 3, 0, 2, 4).reshape(-1, _CELLS, _CELLS))
        found.append(_likest(known, sketches.reshape(len(sides) ** 2, len(part), -1), done))
        done += len(part)
    return _once(np.concatenate(found), np.array(sides))


def _likest(known: np.ndarray, sought: np.ndarray, first: int) -> np.ndarray:
    """Rows of (i, j, crop, correlation): for each picture j, the few i whose middle one of its crops is likest.

    Args:
        known: float32 [N, D], middles.
        sought: float32 [crops, P, D], of pictures first, first + 1, …
        first: the number of the first of these.
    """
    columns = np.arange(sought.shape[1])
    best = np.full((len(known), len(columns)), -1, np.float32)
    correlation = np.empty_like(best)
    for crop in sought:
        np.maximum(best, np.matmul(known, crop.T, out=correlation), out=best)
    best[first + columns, columns] = -1  # itself
    most = min(_MOST, len(known))
    rows = np.argpartition(-best, most - 1, axis=0)[:most]
    row, column = rows.ravel(), np.tile(columns, most)
    number = np.einsum("cpd,pd->pc", sought[:, column], known[row]).argmax(1)
    table = np.stack([row, first + column, number, best[row, column]], axis=1, dtype=np.float64)
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
    """Averages along both sides: [N, 128, 128] to [N, K, K], in two large products, which BLAS is best at."""
    across = pictures.reshape(-1, SIZE).astype(np.float32) @ averages.T
    across = across.reshape(len(pictures), SIZE, -1).transpose(0, 2, 1)
    return (across.reshape(-1, SIZE) @ averages.T).reshape(len(pictures), -1, len(averages)).transpose(0, 2, 1)


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

    places, agreement = [place[:0]], [np.zeros(0, np.float32)]
    share, done = SIZE // size, 0
    for part in _batches(both, f"comparing at {size} px"):
        pictures = thumbnails[part].reshape(-1, size, share, size, share).mean((2, 4), dtype=np.float32)
        fixed, moving = pictures[0::2], pictures[1::2]
        fitted = place[done : done + len(part)]
        for blur in blurs:
            blurred = ndimage.gaussian_filter(pictures, (0, blur, blur), mode="nearest")
            fitted = _fitted(blurred[0::2], blurred[1::2], fitted, steps)
        places.append(fitted)
        agreement.append(_agreement(fixed, moving, fitted))
        done += len(part)
    return np.concatenate(places), np.concatenate(agreement)


def _fitted(fixed: np.ndarray, moving: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray:
    """Improves where `moving` lies on `fixed`: Lucas and Kanade 1981, for shift, scale, gain and offset.

    Pixels that don't fit count less (Cauchy's weights), so that a stroke doesn't pull.

    Args:
        fixed: float32 [P, S, S].
        moving: float32 [P, S, S].
        place: float32 [P, 4], see _warped.
        steps: of Gauss and Newton.
    """
    count, size, _ = fixed.shape
    every = size // _FIRST_SIZE  # blurred, so that fewer pixels do
    at = _positions(size)[::every]
    down, right = (slope[:, ::every, ::every] for slope in np.gradient(fixed, 2 / size, axis=(1, 2)))
    fixed = fixed[:, ::every, ::every]
    slopes = np.stack([right, down, right * at, down * at[:, None]], axis=-1).reshape(count, -1, 4)
    ones = np.ones((count, fixed[0].size, 1), np.float32)
    for _ in range(steps):
        warped, inside = _warped(moving, place, at)
        rest = fixed - warped
        usual = np.median(np.abs(rest[:, ::2, ::2]), axis=(1, 2), keepdims=True)
        weights = (inside / (1 + (rest / (3 * usual + 1)) ** 2)).reshape(count, -1, 1)
        terms = np.concatenate([slopes, warped.reshape(count, -1, 1) / 64, ones], axis=-1)  # 64: of the slopes' order
        weighted = (terms * weights).transpose(0, 2, 1)
        normal = weighted @ terms + 0.01 * np.eye(6, dtype=np.float32)  # solvable where a picture is flat
        step = np.linalg.solve(normal, weighted @ rest.reshape(count, -1, 1))[:, :4, 0]
        place = place + np.clip(step, -0.05, 0.05)
        place = np.clip(place, (-0.3, -0.3, 0.7, 0.7), (0.3, 0.3, 1.3, 1.3)).astype(np.float32)
    return place


def _positions(size: int) -> np.ndarray:
    """Pixels' middles along a side that runs from -1 to 1."""
    return ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)


def _warped(moving: np.ndarray, place: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures laid over others, bilinear, and the pixels that they have there.

    Args:
        moving: float32 [P, S, S].
        place: float32 [P, 4], shift x and y, scale x and y: what is at u on the other is at shift + scale u, sides
            running from -1 to 1.
        at: float32 [K], the positions u wanted, of columns and of rows.

    Returns:
        float32 [P, K, K] and bool [P, K, K].
    """
    size = moving.shape[1]
    pixel = (place[:, :2, None] + place[:, 2:, None] * at + 1) * size / 2 - 0.5
    inside = (pixel >= 0) & (pixel <= size - 1)
    low = np.clip(pixel.astype(np.int64), 0, size - 2)
    (x, y), (right, down) = low.transpose(1, 0, 2), np.clip(pixel - low, 0, 1).transpose(1, 0, 2)
    picture = np.arange(len(moving))[:, None]
    upper, lower = moving[picture, y], moving[picture, y + 1]
    rows = upper + (lower - upper) * down[:, :, None]
    before, after = (np.take_along_axis(rows, (x + step)[:, None], axis=2) for step in (0, 1))
    return before + (after - before) * right[:, None], inside[:, 1, :, None] & inside[:, 0, None, :]


def _agreement(fixed: np.ndarray, moving: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The 15th percentile of blocks' correlations: float32 [P]; 0 where too few blocks show anything."""
    warped, inside = _warped(moving, place, _positions(moving.shape[1]))
    first, second = (blocks - blocks.mean(-1, keepdims=True) for blocks in (_blocks(fixed), _blocks(warped)))
    first_power, second_power = (first**2).mean(-1), (second**2).mean(-1)
    correlation = (first * second).mean(-1) / np.sqrt(first_power * second_power + 1e-6)
    shown = np.maximum(4, 0.01 * fixed.var((1, 2)))[:, None]  # squared gray levels: 2, or a tenth of the contrast
    used = _blocks(inside).all(-1) & (np.maximum(first_power, second_power) > shown)
    count = used.sum(1)
    ranked = np.sort(np.where(used, correlation, np.inf), axis=1)
    at = np.maximum(count - 1, 0) * _PERCENTILE // 100
    return np.where(count * _LEAST_SHOWN >= used.shape[1], ranked[np.arange(len(ranked)), at], 0).astype(np.float32)


def _blocks(pictures: np.ndarray) -> np.ndarray:
    """[P, S, S] as [P, blocks, pixels]."""
    count, size, _ = pictures.shape
    split = pictures.reshape(count, size // _BLOCK, _BLOCK, size // _BLOCK, _BLOCK)
    return split.transpose(0, 1, 3, 2, 4).reshape(count, -1, _BLOCK**2)
