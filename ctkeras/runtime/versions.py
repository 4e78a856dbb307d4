"""Versions of installed packages."""

import functools
import importlib.metadata


@functools.cache  # each trial of a search asks for a dozen
def version(package: str) -> str:
    """The installed version of a package; '' if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
