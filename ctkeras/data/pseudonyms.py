"""Patients by pseudonym: a keyed hash, so that no identifier is written and none can be guessed from what is."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from ctkeras.errors import UserError
from ctkeras.runtime import locks, stored
from ctkeras.runtime.files import atomic, cache_dir

_BYTES = 32  # of the salt
# Names that scanners and converters give to files, alone or with a short number; longer numbers may be a patient's.
_GENERIC = re.compile(
    r"(?:ct|dcm|dicom(?:dir)?|dose|file|i|im|ima|image|img|localis?z?er|report|s|scan|scout|se|series|slice|sr|st|study)?"
    r"[-_ ]?\d{0,5}",
    re.IGNORECASE,
)


def pseudonyms(patients: Sequence[str]) -> list[str]:
    """Replaces patient identifiers by pseudonyms, which are the same on this machine every time; '' stays ''.

    Args:
        patients: identifiers, as a table or a file gives them.

    Returns:
        16 hexadecimal digits of HMAC-SHA256 (RFC 2104) per patient.

    Raises:
        UserError: the salt cannot be read or written.
    """
    if not any(patients):
        return [""] * len(patients)
    salt = _salt()
    return [hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:16] if name else "" for name in patients]


def nameless(path: str, known: Collection[str]) -> str:
    """A path in which only what names no patient is left; other parts become "…", as folders may bear a person's name.

    Args:
        path: inside a data set, with /.
        known: folders that are not a patient's, such as classes and splits.

    Example:
        >>> nameless("train/normal/Smith John/IM-0003.dcm", {"train", "normal"})
        'train/normal/…/IM-0003.dcm'
        >>> nameless("normal/7734120.dcm", {"normal"})
        'normal/….dcm'
    """
    *folders, last = PurePosixPath(path).parts
    stem, dot, ending = last.rpartition(".")
    if not dot or ending.isdigit() or len(ending) > 5:  # a UID, or no ending
        stem, dot, ending = last, "", ""
    file = f"{stem if _GENERIC.fullmatch(stem) else '…'}{dot}{ending}"
    return "/".join([part if part in known or _GENERIC.fullmatch(part) else "…" for part in folders] + [file])


def _salt() -> bytes:
    """Returns this machine's random key, created on first use and readable only by its owner.

    It cannot be made again, so there are two copies, each with a checksum; a damaged one is replaced by the other.
    """
    places = [Path(cache_dir("patients")) / name for name in ("salt", "salt.copy")]
    try:
        with locks.hold(places[0].with_suffix(".lock")):
            contents = [_content(path) for path in places]
            salt = next((content for content in contents if content), b"") or secrets.token_bytes(_BYTES)
            for path, content in zip(places, contents, strict=True):
                if content is None:
                    with atomic(path) as partial:
                        partial.touch(0o600)
                        partial.write_bytes(stored.sealed(salt))
            return salt
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot use {places[0]}, which keeps patients' pseudonyms: {reason}") from error


def _content(path: Path) -> bytes | None:
    """The key in a file, with a checksum or, from versions before there was one, without; None if there is none."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(whole) == _BYTES and path.suffix == "":
        return whole
    try:
        return stored.unsealed(whole)
    except ValueError as error:
        stored.quarantine(stored.Damaged(path, str(error)))
        return None
