"""Generated chest-CT slices in four classes, for tests and rehearsals without patient data.

Slices are drawn in patient coordinates (x to the side, y to the back, unit: half an image width) in Hounsfield units.
The seed decides anatomy, window and noise; the label adds only the lesion, and the classes differ in its shape, edge and
place. Linear models on pixels or brightness stay near chance; a small convolutional network does not.
"""

import functools

import numpy as np

CLASSES: tuple[str, ...] = ("adenocarcinoma", "large_cell", "normal", "squamous_cell")
DEFAULT_IMAGES, VERSION = 1000, "1.0.0"  # raise the version when the drawing or the split changes
# Waves that bend a patient's slices: how many, their root mean square and their lengths in half image widths, and by how many
# radians per slice they move at most. Build makes patients differ by more than slices of one do.
_BUILD, _ALONG = (6, 0.04, (0.5, 1.2), 0.0), (8, 0.014, (0.2, 0.5), 1.5)
_THICKER = (
    0.04  # the wall of a bent chest, which would otherwise be too thin in places for the crop to the body to find
)
_AIR, _FAT, _TISSUE, _BONE = -1000, -90, 45, 380  # HU, usual values


def phantom_slice(seed: int, label: int, *, size: int = 128, position: int | None = None) -> np.ndarray:
    """Draws one axial slice as uint8 [size, size]; the same arguments give the same bytes.

    Args:
        seed: non-negative int; decides everything but the lesion.
        label: int index into `CLASSES`; decides the kind of lesion.
        size: height and width in pixels, at least 16.
        position: number of the slice along the body of patient `seed`; neighbours look alike, and no two are copies.
            None: a patient of one slice, as every slice was drawn before patients had several.

    Raises:
        ValueError: seed, label or size out of range.
    """
    hu = _scene(seed, label, size, position)[0]
    rng = np.random.default_rng((seed, 2))
    low, high = rng.uniform(-1200, -1000), rng.uniform(200, 450)  # HU, wide lung windows
    gain, offset = rng.uniform(0.85, 1.0), rng.uniform(-0.04, 0.06)  # of full scale; exports vary
    strength, own = rng.uniform(0.006, 0.02), rng if position is None else np.random.default_rng((seed, 2, position))
    noise = strength * own.standard_normal((size, size), dtype=np.float32)
    noise += 0.7 * np.roll(noise, 1, 0) + 0.7 * np.roll(noise, 1, 1)  # CT noise is correlated
    gray = gain * np.clip((hu - low) / (high - low), 0, 1) + offset + noise
    return np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)


def lesion_mask(seed: int, label: int, *, size: int = 128) -> np.ndarray:
    """Marks the lesion of `phantom_slice`, cavity included, as bool [size, size].

    Args:
        seed: as for `phantom_slice`.
        label: as for `phantom_slice`; the class normal gives an empty mask.
        size: height and width in pixels, at least 16.

    Raises:
        ValueError: seed, label or size out of range.
    """
    return _scene(seed, label, size)[1] > 0.3  # share of a pixel; keeps spicules at 32 px


def split_sizes(n: int) -> dict[str, int]:
    """Divides n images into about 60/15/25 percent for train/valid/test, at least 4 each.

    Args:
        n: total number of images, at least 12.

    Raises:
        ValueError: n is below 12, which would leave a split without one of the classes.
    """
    if n < 12:
        raise ValueError(f"a phantom set needs at least 12 images, got {n}")
    valid, test = max(4, round(0.15 * n)), max(4, round(0.25 * n))  # 4: one image per class
    return {"train": n - valid - test, "valid": valid, "test": test}


def split_items(n: int, split: str) -> list[tuple[str, int, int]]:
    """Lists (file name, seed, label) for each slice of a split; no seed occurs in two splits.

    Args:
        n: total number of images, at least 12.
        split: train, valid or test.

    Raises:
        ValueError: n is below 12 or there is no such split.
    """
    sizes = split_sizes(n)
    offset = list(sizes).index(split)
    files = ((i, f"{split}/{CLASSES[i % 4]}/{i // 4 + 1:04d}.png") for i in range(sizes[split]))
    return [(file, i * len(sizes) + offset, i % 4) for i, file in files]


def _scene(seed: int, label: int, size: int, position: int | None = None) -> np.ndarray:
    """Draws HU and the share of the lesion in each pixel; float32 [2, size, size]."""
    if not 0 <= label < len(CLASSES) or size < 16 or seed < 0:
        raise ValueError(f"no phantom for seed {seed}, label {label}, size {size}")
    rng = np.random.default_rng((seed, 0))
    turn = complex(rng.uniform(0.92, 1.10) * np.exp(1j * rng.uniform(-0.25, 0.25)))  # zoom, radians
    shift = complex(rng.uniform(-0.12, 0.12), rng.uniform(-0.14, 0.14))
    flip = int(rng.choice((-1, 1)))  # exports differ in which side is left
    fold = -(-128 // size)  # small slices are drawn larger by this factor and averaged, to keep spicules
    axis = (np.arange(size * fold, dtype=np.float32) + 0.5) * (2 / size / fold) - 1
    grid = (axis + 1j * axis[:, None] - shift) / turn
    thicker = 0.0
    if position is not None:
        grid, thicker = _bent(np.random.default_rng((seed, 3)), grid, position), _THICKER
    x, y, px = flip * grid.real, grid.imag.copy(), 2 / size / fold / abs(turn)
    hu, chest, lung, radii = _anatomy(rng, x, y, px, thicker)
    _blend(hu, lung * _vessels(rng, x, y, px), -60)  # HU, lung averaged in
    lesion, content = _lesion(np.random.default_rng((seed, 1)), CLASSES[label], x, y, px, radii)
    _blend(hu, chest * lesion, content)
    return np.stack((hu, chest * lesion)).reshape(2, size, fold, size, fold).mean((2, 4))


def _bent(rng, grid, position):
    """Bends the plane of a slice: by build, which is its patient's own, and by what changes along the body."""
    bent = grid.copy()
    for waves, reach, length, turning in (_BUILD, _ALONG):
        for _ in range(waves):
            towards = 2 * np.pi / rng.uniform(*length) * np.exp(1j * rng.uniform(0, 6.28))
            phase = rng.uniform(0, 6.28) + position * rng.choice((-1, 1)) * rng.uniform(turning / 2, turning)
            move = reach * np.sqrt(2 / waves) * np.exp(1j * rng.uniform(0, 6.28))
            bent += (move * np.sin(grid.real * towards.real + grid.imag * towards.imag + phase)).astype(bent.dtype)
    return bent


def _cover(distance, soft):
    """Returns the share of a pixel inside a shape, from the signed distance (negative inside)."""
    return np.clip(0.5 - distance / soft, 0, 1)


def _blend(hu, share, value):
    """Moves HU towards a value, in place."""
    hu += share * (value - hu)


def _ellipse(x, y, cx, cy, rx, ry):
    """Returns an approximate signed distance to an ellipse; its sign is exact."""
    return (np.sqrt(np.square((x - cx) / rx) + np.square((y - cy) / ry)) - 1) * min(rx, ry)


def _anatomy(rng, x, y, px, thicker):
    """Draws a chest without vessels; returns HU, share of cavity and lung, cavity radii."""
    u = rng.uniform
    rx, ry, wall, fat = u(0.78, 0.90), u(0.62, 0.74), u(0.07, 0.12) + thicker, u(0.02, 0.06)
    xx, yy = np.square(x / rx), np.square(y / ry)
    outer = ry * (0.65 * np.sqrt(xx + yy) + 0.35 * np.sqrt(np.sqrt(xx * xx + yy * yy)) - 1)
    inner, wide, back = outer + wall, rx - wall * rx / ry, ry - wall
    table = np.abs(np.sqrt(np.square(x) + np.square(y + 2.2)) - (2.26 + ry)) - 0.012
    hu = _AIR + 700 * _cover(table, px)  # HU; a padded carbon shell
    _blend(hu, _cover(outer, px), _FAT)
    _blend(hu, _cover(outer + fat, px), _TISSUE)
    # Ribs cross the slice obliquely, so each appears as a short arc within the wall.
    ribs = u(0, 0.5) - np.cos(np.arctan2(y, x * (ry / rx)) * 14 + u(0, 6.28))
    _blend(hu, _cover(np.maximum(np.abs(inner - 0.035) - 0.02, 0.08 * ribs), px), _BONE)
    level = u(0, 0.1)  # 0: at the aortic arch, 0.1: at the ventricles, as the heart widens
    shapes = [
        (0.08 + level, -0.12, u(0.12, 0.2) + level, u(0.11, 0.2) + level),
        (0, 0.02, u(0.11, 0.17), 0.36),  # great vessels
        (0, -back, u(0.05, 0.16), 0.3),  # fat behind the sternum
        (0, back, u(0.14, 0.18), 0.24),  # tissue around the spine
        (0.13, 0.24, 0.07, 0.07),  # descending aorta
        # Hila of any size, so that a bright hilum does not reveal the class.
        *((sign * u(0.12, 0.24), 0.05, u(0.05, 0.12), u(0.05, 0.12)) for sign in (-1, 1)),
    ]
    middle = functools.reduce(np.minimum, (_ellipse(x, y, *shape) for shape in shapes))
    lung = _cover(np.maximum(inner, -middle), px)
    _blend(hu, lung, u(-890, -780) + u(0, 140) * y)  # HU; lungs are denser towards the back
    for _ in range(rng.integers(0, 4)):  # haze in any class, so that brightness does not reveal it
        at = float(rng.choice((-1, 1))) * u(0.3, 0.6), u(-0.35, 0.35), u(0.08, 0.24), u(0.08, 0.24)
        _blend(hu, lung * _cover(_ellipse(x, y, *at), 0.13) * u(0.3, 0.6), _TISSUE)
    _blend(hu, _cover(_ellipse(x, y, 0, back + 0.02, 0.10, 0.085), px), 230)  # HU, spongy bone
    _blend(hu, _cover(_ellipse(np.abs(x), y, max(0.0, level - 0.03), 0.06, 0.035, 0.04), px), _AIR)  # airways
    return hu, _cover(inner, px), lung, (wide, back)


def _vessels(rng, x, y, px):
    """Draws forking vessels that fan out from the hila, and nodules; returns their share."""
    u, shapes = rng.uniform, []
    for sign in (-1, 1):
        dx, dy = sign * x - 0.15, y - 0.05
        far, turn = np.sqrt(dx * dx + dy * dy), np.arctan2(dy, dx)
        uneven = np.cos(3 * turn + u(0, 6.28)) + np.cos(7 * turn + u(0, 6.28))
        count = u(4, 7)  # vessels per half turn
        beat = np.abs(np.sin(count * (turn + 0.1 * uneven + u(-1.5, 1.5) * far) + u(0, 6.28)))
        # A vessel lies where beat is 0, and beyond the fork on both sides of that.
        fork = np.maximum(far - 0.13 + 0.03 * uneven, 0) * u(1.5, 3.5)
        shapes.append(far * np.abs(beat - fork) / count - u(0.018, 0.026) * (1 - far / (0.36 + 0.06 * uneven)))
    for _ in range(rng.integers(4, 13)):
        cx, size = float(rng.choice((-1, 1))) * u(0.2, 0.65), 0.008 + 0.022 * u(0, 1) ** 3
        shapes.append(_ellipse(x, y, cx, u(-0.4, 0.4), size, size))
    return _cover(functools.reduce(np.minimum, shapes), px)


def _lesion(rng, kind, x, y, px, radii):
    """Draws the lesion; returns its share per pixel and the HU within."""
    if kind == "normal":
        return np.zeros_like(x), 0
    u, side = rng.uniform, float(rng.choice((-1, 1)))
    if kind == "squamous_cell":  # central, beside the hilum
        size, at = u(0.12, 0.18), complex(side * u(0.22, 0.36), u(-0.16, 0.18))
    else:  # peripheral, under the pleura
        size = u(0.16, 0.21) if kind == "large_cell" else u(0.09, 0.125)
        aim, depth = u(-1.0, 1.0), size * u(0.85, 1.4)  # radians off the lateral direction
        at = complex(side * (radii[0] - depth) * np.cos(aim), (radii[1] - depth) * np.sin(aim))
    dx, dy = x - at.real, y - at.imag
    far, turn = np.sqrt(dx * dx + dy * dy), np.arctan2(dy, dx)
    wavy = 0.07 * np.cos(2 * turn + u(0, 6.28)) + 0.05 * np.cos(3 * turn + u(0, 6.28))
    edge = far - size * (1 + wavy)
    if kind == "large_cell":  # smooth, with an enhancing rim around necrosis
        return _cover(edge, px), 200 - 220 * _cover(edge + 0.4 * size, 0.06)  # HU
    if kind == "squamous_cell":  # a thick ring around a ragged cavity
        return _cover(edge, px), 120 + (_AIR - 120) * _cover(far - size * u(0.5, 0.68) * (1 - 2 * wavy), px)  # HU
    # Adenocarcinoma: lobulated and spiculated, sometimes within ground glass of about -500 HU.
    spikes = np.abs(np.cos(int(rng.integers(7, 12)) / 2 * turn + u(0, 6.28))) ** 8 * (0.6 + 4 * wavy)
    core = _cover(far - size * (1 + 2 * wavy + spikes), px)
    return np.maximum(core, _cover(far - size * u(1.2, 1.6), 0.03) * (u() < 0.3)), -500 + core * (120 + 500)
