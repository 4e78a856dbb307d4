"""Versions of installed packages."""

import importlib.metadata
import importlib.util


def version(package: str) -> str:
    """The installed version of a package; '' if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
