"""The record of every opening of a test split: in the run folder, in the folder of runs, and beside the cache."""

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError
from ctkeras.runs.folder import read_json, write_json
from ctkeras.runtime import console, locks
from ctkeras.runtime import stored as files
from ctkeras.runtime.files import cache_dir

CHECKSUM = "xxh3_128"  # of the openings, in the shared logs
OPENED = "test_opened.json"  # in the run folder, for its models; in the folder of runs, for all of them


def stored(folder: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """The numbers of an earlier opening of the test split with this data and model; None if there was no such opening.

    Args:
        folder: the run folder.
        identity: model_sha256 and data_fingerprint.
    """
    earlier = [opening for opening in read(folder / OPENED) if identity.items() <= opening.items()]
    path = folder / "metrics_test.json"
    if not earlier or not path.exists() or not identity.items() <= (values := read_json(path)).items():
        return None
    console.note(
        f"The test split was opened for this model on {earlier[0]['opened']}; these are the numbers stored then. "
        "--again evaluates it once more and records that too."
    )
    return values


def record(folder: Path, opening: Mapping[str, Any]) -> dict[str, Any]:
    """Records an opening of the test split, and prints which came before it.

    Args:
        folder: the run folder.
        opening: model_sha256, data_fingerprint, data, again.

    Returns:
        opened, its time; openings, its number among those of this run; models_before, how many other models have been
        evaluated on this test set, as far as the two shared logs know.
    """
    earlier = read(folder / OPENED)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(folder / OPENED, {"openings": [*earlier, {"opened": now, **opening}]})
    if earlier:
        same = any(opening["model_sha256"] == each["model_sha256"] for each in earlier)
        console.note(
            f"Note: the test split was opened {len(earlier)} {'time' if len(earlier) == 1 else 'times'} before, first on "
            f"{earlier[0]['opened']}, for {'this model' if same else 'another model of this run'}; this opening is recorded. "
            "If anything was chosen by test numbers, use another test set."
        )
    names = ("model_sha256", "data_fingerprint")
    own = {"opened": now, "run": folder.resolve().name} | {name: opening[name] for name in names}
    before = [each for path in _shared(folder, own["data_fingerprint"]) for each in _appended(path, own)]
    models = {each["model_sha256"] for each in before} - {own["model_sha256"]}
    if models:
        console.note(models_text(len(models)))
    return {"opened": now, "openings": len(earlier) + 1, "models_before": len(models)}


def models_text(count: int) -> str:
    """How many models were evaluated on a test set before, and what that means, in words."""
    many = f"{count} other models have" if count > 1 else "Another model has"
    return f"{many} been evaluated on this test set before; the best of several test numbers is too high by chance."


def read(path: Path) -> list[dict[str, Any]]:
    """The openings in a log, first to last; [] where there is none.

    Raises:
        UserError: the file is not a JSON object.
    """
    return list(read_json(path).get("openings", [])) if path.exists() else []


def _shared(folder: Path, fingerprint: str) -> tuple[Path, Path]:
    """The logs of a test set that runs share: beside the cache, and in the folder of runs."""
    key = hashlib.sha256(fingerprint.encode()).hexdigest()[:20]
    return cache_dir("openings") / f"{key}.json", folder.resolve().parent / OPENED


def _appended(path: Path, opening: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adds an opening to a shared log; returns the earlier ones of the same data set.

    A log that cannot be written, in a folder of someone else's, must not keep anyone from evaluating: a note says so.
    """
    try:
        with locks.hold(path.with_name(f".{path.stem}.lock")):
            earlier = _read_shared(path)
            every = [*earlier, dict(opening)]
            write_json(path, {"openings": every, CHECKSUM: files.checksum(every)})
    except OSError as error:
        console.note(f"Note: this opening cannot be recorded in {path} ({error.strerror}).")
        return []
    return [each for each in earlier if each["data_fingerprint"] == opening["data_fingerprint"]]


def _read_shared(path: Path) -> list[dict[str, Any]]:
    """The openings in a shared log; a damaged log moves to quarantine, so that it keeps nobody from evaluating."""
    try:
        values = read_json(path) if path.exists() else {}
        openings = list(values.get("openings", []))
        if CHECKSUM in values and values[CHECKSUM] != files.checksum(openings):
            raise UserError("wrong checksum")
    except UserError as error:
        files.quarantine(files.Damaged(path, str(error)))
        return []
    return [each for each in openings if isinstance(each, dict) and {"model_sha256", "data_fingerprint"} <= each.keys()]
