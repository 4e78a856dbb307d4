"""Patients by pseudonym: a keyed hash, so that no identifier is written and none can be guessed from what is."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from ctkeras.errors import UserError
from ctkeras.runtime.files import cache_dir, lock

_BYTES = 32  # of the salt


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


def _salt() -> bytes:
    """Returns this machine's random key, created on first use and readable only by its owner."""
    path = Path(cache_dir("patients")) / "salt"
    try:
        with lock(path.with_suffix(".lock")):
            if not path.exists():
                partial = path.with_suffix(f".{os.getpid()}")
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(secrets.token_bytes(_BYTES))
                os.replace(partial, path)
            return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot use {path}, which keeps patients' pseudonyms: {error.strerror or error}") from error
