"""A trial as the process that has claimed it sees it."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Job:
    """A trial that this process has claimed."""

    number: int
    trial_id: int
    run_id: str
    config: dict[str, Any]
    tries: int = 0
    resumed: bool = False  # another process had begun it
    metrics: dict[str, Any] | None = None  # its run folder shows that it had finished already
    failure: str = ""  # why it cannot be run

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config["output_dir"]) / self.run_id
