"""A YAML file with the line of each key."""

import dataclasses
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError


@dataclasses.dataclass(frozen=True)
class Yaml:
    """The content of a YAML file, and the line (from 1) of each key by its path."""

    content: Any
    lines: dict[tuple[str, ...], int]
    repeated: tuple[tuple[str, ...], ...]  # keys that occur twice; YAML silently uses the last


def read_yaml(path: str | Path) -> Yaml:
    """Reads a YAML file.

    Raises:
        UserError: the file cannot be read or is not YAML.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        content, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # an impossible date raises ValueError
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    lines: dict[tuple[str, ...], int] = {}
    repeated: list[tuple[str, ...]] = []
    _locate(root, (), lines, repeated, set())
    return Yaml(content, lines, tuple(repeated))


def _locate(node: Any, path: tuple[str, ...], lines: dict, repeated: list, seen: set[int]) -> None:
    """Records the line of every key below a YAML node. An alias may contain itself, so each node is visited once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if node.id == "mapping":
        for key, value in node.value:
            place = (*path, str(key.value))
            if place in lines:
                repeated.append(place)
            lines[place] = key.start_mark.line + 1
            _locate(value, place, lines, repeated, seen)
    elif node.id == "sequence":
        for number, item in enumerate(node.value):
            _locate(item, (*path, str(number)), lines, repeated, seen)
