"""Ids and times as W&B writes them."""

import base64
import datetime


def now():
    """Returns the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def global_id(kind, key):
    """Returns an opaque id; the client decodes some of them, so they must be base64.

    Args:
        kind: Str, the type's name.
        key: Str or int, unique within the type.
    """
    return base64.b64encode(f"{kind}:{key}".encode()).decode()
