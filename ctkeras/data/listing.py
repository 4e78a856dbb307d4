"""The image files that paths on a command line name."""

import os
from collections.abc import Iterable
from pathlib import Path

from ctkeras.data import dicom
from ctkeras.data.catalog import SCANS, why_not
from ctkeras.data.images import EXTENSIONS
from ctkeras.errors import UserError


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files that paths name, in order.

    Args:
        paths: files, which are taken as they are, and folders, which are searched with their subfolders.

    Raises:
        UserError: a path does not exist, or there are no images.
    """
    paths, files = list(paths), []
    for path in paths:
        if os.path.isdir(path):
            files += sorted(p for p in path.rglob("*") if _is_image(p, p.relative_to(path).as_posix()))
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UserError(f"{path} does not exist")
    if not files:
        raise UserError(
            f"no images in {', '.join(map(str, paths))}; image files end in {' '.join((*EXTENSIONS, *SCANS))}"
        )
    return files


def _is_image(path: Path, name: str) -> bool:
    """Whether a file of a folder is an image by its name inside it; one without an ending must begin as DICOM does."""
    if why_not(name) or not path.is_file():
        return False
    if name.lower().endswith((*EXTENSIONS, *SCANS)):
        return True
    with open(path, "rb") as file:
        return dicom.is_dicom(file.read(132))
