"""A split's images, decoded and resized once for all trials, kept on disk and memory-mapped."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from ctkeras import images, runtime
from ctkeras.sources import Source

CACHE_BYTES = 20 * 2**30  # bytes; 1,000 slices at 224 take 50 MB


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Split:
    """One split in the order of its file names."""

    images: np.ndarray  # uint8 [N, S, S]
    labels: np.ndarray  # int32 [N]
    files: tuple[str, ...]
    class_names: tuple[str, ...]


def load_split(source: Source, split: str, image_size: int) -> Split:
    """Returns a split's images, decoding them the first time only. No other split is opened.

    Args:
        source: what open_source returned.
        split: train, valid or test.
        image_size: pixels of a side.

    Raises:
        UserError: preparing the data failed.
    """
    folder = runtime.cache_dir("decoded") / f"{source.fingerprint[:16]}-{image_size}"
    if not (folder / f"{split}.json").exists():
        with runtime.lock(folder.with_suffix(".lock")):
            if not (folder / f"{split}.json").exists():
                _decode(source, split, image_size=image_size, folder=folder)
        runtime.bound(folder.parent, CACHE_BYTES, keep=folder)
    table = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / f"{split}.npy", mmap_mode="r")
    os.utime(folder)
    return Split(pixels, np.array(table["labels"], np.int32), tuple(table["files"]), tuple(table["class_names"]))


def _decode(source: Source, split: str, *, image_size: int, folder: Path) -> None:
    """Writes a split's arrays; the table goes last, so that its presence means all is there."""
    from ctkeras import dataset

    builder = dataset.prepare(source)
    with runtime.waiting(f"Decoding {split} at {image_size} px"):
        rows = []
        for row in builder.as_dataset(split=split, decoders=dataset.undecoded()).as_numpy_iterator():
            gray = images.decode_gray(row["image"], name=row["file"].decode())
            rows.append((row["file"].decode(), int(row["label"]), images.resize(gray, image_size)))
    rows.sort(key=lambda row: row[0])
    files, labels, pixels = zip(*rows, strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    with runtime.atomic(folder / f"{split}.npy") as path, open(path, "wb") as file:
        np.save(file, np.stack(pixels))
    table = {"files": files, "labels": labels, "class_names": source.class_names}
    with runtime.atomic(folder / f"{split}.json") as path:
        path.write_text(json.dumps(table), encoding="utf-8")
