"""Whether the audit's lookup, shift and groups are right on generated sets that nothing was tuned on.

Each draw is a set of new patients, once divided by patient and once with the faults of the public set (see
`phantom_sets.Recipe.leaking`), each with its patients known and unknown. Prints one line per set, and the errors.

    python benchmarks/splits.py FIRST LAST      # draws FIRST to LAST - 1, below 1,000; about 25 s each on one core
"""

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from ctkeras.audit import audit, lookup, shift
from ctkeras.data import crop, images, phantom, phantom_sets, sources

_STRIDE = 10_000  # patients of one draw; below it are those of `--data phantom`


def recipe(draw: int) -> phantom_sets.Recipe:
    """A size of 96 to 600 images and 4 to 15 slices per patient, by the number of the draw."""
    rng = np.random.default_rng((draw, 7))
    count = int(rng.integers(96, 601))
    return phantom_sets.Recipe(count, int(rng.integers(max(12, count // 15), count // 4 + 1)))


def write(folder: Path, draw: int, *, leaking: bool) -> dict[str, str]:
    """Writes a set with two tables, known.csv and unknown.csv; returns the patient of each file."""
    rows, whose, own = [], {}, recipe(draw)._replace(leaking=leaking)
    for split in ("train", "valid", "test"):
        for item in phantom_sets.items(own, split):
            gray = phantom.phantom_slice(_STRIDE * (draw + 1) + item.seed, item.label, position=item.position)
            if leaking and split != "test":
                gray = crop.cropped(gray, crop.Preparation())
            name = item.file.replace("/", "-")
            (folder / name).write_bytes(images.encode_png(gray))
            rows.append([name, phantom.CLASSES[item.label], split, item.patient])
            whose[name] = item.patient
    for table, columns in (("known.csv", 4), ("unknown.csv", 3)):
        with open(folder / table, "w", newline="") as file:
            csv.writer(file).writerows(row[:columns] for row in [["file", "label", "split", "patient"], *rows])
    return whose


def measure(table: Path, whose: dict[str, str], *, leaking: bool) -> tuple[str, list[str]]:
    """What the audit of one set says in a line, and in which points it is wrong."""
    from sklearn.metrics import adjusted_rand_score

    audited = audit.check(sources.open_source(str(table)))
    wrong, words = [], []
    known = table.stem == "known"
    index = (
        0.0
        if known
        else adjusted_rand_score(
            [whose[image.file] for image in audited.images], [image.group for image in audited.images]
        )
    )
    words.append("groups given " if known else f"ARI {index:.3f}    ")
    if not known and index <= 0.9:
        wrong.append("groups")
    for split in ("valid", "test"):
        found = lookup.lookup(audited, split)
        before, after = (shift.shift(audited, split, prepared=prepared) for prepared in (False, True))
        words.append(
            f"{split}: lookup {found.acc:.2f}{'!' * found.speaks} of {found.chance:.2f}, shift "
            + " then ".join(f"{row.auc:.2f} (p {row.p:.4f}){'!' * row.speaks}" for row in (before, after))
        )
        expected = {"lookup": leaking, "shift": leaking and split == "test", "shift after the crop": False}
        said = {"lookup": found.speaks, "shift": before.speaks, "shift after the crop": after.speaks}
        wrong += [f"{name} of {split}" for name in expected if expected[name] != said[name]]
    return ", ".join(words), wrong


def main() -> None:
    """Runs the draws of the command line."""
    errors: list[str] = []
    first, last = map(int, sys.argv[1:])
    for draw in range(first, last):
        for leaking in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                whose = write(Path(folder), draw, leaking=leaking)
                for name in ("known", "unknown"):
                    line, wrong = measure(Path(folder) / f"{name}.csv", whose, leaking=leaking)
                    set_name = f"draw {draw} {recipe(draw).images:3d}/{recipe(draw).patients:<3d} " + (
                        "leaking" if leaking else "clean"
                    )
                    print(f"{set_name:<24} {line}" + (f"  WRONG: {', '.join(wrong)}" if wrong else ""), flush=True)
                    errors += [f"{set_name} {name}: {one}" for one in wrong]
    print(f"{len(errors)} wrong of {(last - first) * 4 * 6} answers")


if __name__ == "__main__":
    main()
