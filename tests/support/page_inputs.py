"""The data sets that docs/data.md names, small, of generated slices: one of each kind."""

import csv
import io
import zipfile

from PIL import Image

from ctkeras.data import phantom, phantom_scans

IMAGES = 24  # of each set
CLASSES = ("benign", "malignant")


def write(folder):
    """Writes scans.zip, classes, two zips, two tables, a folder of patients and volumes into a folder."""
    pictures = [Image.fromarray(phantom.phantom_slice(i, i % 2, size=48)) for i in range(IMAGES)]
    content = [_png(picture) for picture in pictures]
    splits = ["train"] * 16 + ["valid"] * 4 + ["test"] * 4
    _zip(folder / "scans.zip", {f"{splits[i]}/{CLASSES[i % 2]}/{i}.png": content[i] for i in range(IMAGES)})
    for label, name in enumerate(CLASSES):
        _zip(folder / f"{name}.zip", {f"{i}.png": content[i] for i in range(label, IMAGES, 2)})
    _files(folder / "classes", {f"{CLASSES[i % 2]}/{i}.png": content[i] for i in range(IMAGES)})
    _files(folder / "images", {f"{i}.png": content[i] for i in range(IMAGES)})
    rows = [[f"images/{i}.png", CLASSES[i % 2], f"patient {i // 2 % 6}{i % 2}"] for i in range(IMAGES)]
    _table(folder / "table.csv", [["file", "diagnosis", "PatientID"], *rows])
    _files(folder / "patients", {f"P{i % 8}/{i}.png": content[i] for i in range(IMAGES)})
    _table(folder / "patients/labels.csv", [["patient", "label"], *([f"P{i}", CLASSES[i % 2]] for i in range(8))])
    for i in range(8):
        pages = [picture.copy() for picture in pictures[i::8]]
        pages[0].save(folder / f"volume{i}.tif", save_all=True, append_images=[*pages[1:], pages[0]])
    rows = [[f"volume{i}.tif", page, CLASSES[i % 2]] for i in range(8) for page in range(3)]
    _table(folder / "slices.csv", [["file", "slice", "label"], *rows])
    phantom_scans.write(folder / "volumes", "nifti", "phantom:48:patients=12")


def _png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _files(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
