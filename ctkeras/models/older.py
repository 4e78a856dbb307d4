"""A .keras file that older versions of Keras open too: settings at their defaults that those do not know are left out."""

import json
import zipfile
from pathlib import Path
from typing import Any

from ctkeras.runtime import files

OLDEST = "3.6.0"  # the oldest Keras in which exported files were opened; tests/models/test_older.py
CONFIG = "config.json"  # inside the file
# Settings that came after OLDEST, with the default under which a layer computes as it did before there was a choice. From the
# signatures of keras 3.6.0 and 3.15.1.
SINCE: dict[str, Any] = {
    "ragged": False,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    "quantization_config": None,
    "lora_alpha": None,
}


def rewrite(path: Path) -> None:
    """Leaves the settings of SINCE out of a .keras file where they are at their defaults.

    Args:
        path: the file, which is replaced.
    """
    with files.atomic(path) as partial, zipfile.ZipFile(path) as source, zipfile.ZipFile(partial, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename == CONFIG:
                content = json.dumps(without_new(json.loads(content))).encode()
            target.writestr(member, content)


def without_new(value: Any) -> Any:
    """A model's configuration without the settings of SINCE that are at their defaults."""
    if isinstance(value, list):
        return [without_new(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: without_new(item) for key, item in value.items() if not (key in SINCE and item == SINCE[key])}
