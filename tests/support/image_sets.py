"""Small data sets of generated slices in which every copy, leak and conflict is known."""

import io
import itertools
import pathlib

import numpy as np
from PIL import Image

from ctkeras.data import phantom, sources

SIZE = 128  # pixels


def picture(number):
    """Slices of different patients."""
    return phantom.phantom_slice(number, number % 4, size=SIZE)


def write_set(root, files):
    """Writes name -> picture number, (picture number, PIL mode), or bytes."""
    for name, what in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            number, mode = what if isinstance(what, tuple) else (what, "L")
            Image.fromarray(picture(number)).convert(mode).save(path)
    return sources.open_source(str(root))


def clean_set(**more):
    """Different pictures in every place: three a class in train, one elsewhere; and what is given."""
    numbers = itertools.count()
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(3)]
    names += [f"{split}/{c}/0.png" for split in ("valid", "test") for c in "ab"]
    return {name: next(numbers) for name in names} | {name.replace("__", "/") + ".png": n for name, n in more.items()}


def as_jpeg(number, **options):
    content = io.BytesIO()
    Image.fromarray(picture(number)).save(content, "JPEG", quality=60, **options)
    return content.getvalue()


def write_images(root: pathlib.Path, *, classes: tuple[str, ...], counts: dict[str, int], size: int = 40):
    """Writes gray PNGs under root/split/class/; each class has its own bright band, on noise."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (size, size), dtype=np.uint8)
                pixels[:, label * size // len(classes) : (label + 1) * size // len(classes)] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root
