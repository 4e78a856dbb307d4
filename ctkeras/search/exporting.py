"""The best trial's model, written by a worker when a search ends."""

from pathlib import Path

from ctkeras.runs.checkpoint import TRAINED
from ctkeras.search.pool import Pool
from ctkeras.search.progress import Progress
from ctkeras.training.stopping import Stop


def export_best(progress: Progress, pool: Pool, stop: Stop) -> None:
    """Lets a worker export the best trial's model, if its trained weights are on this machine and nobody has yet.

    A failure is reported, but does not fail the search: `ctkeras export` can be called once its cause is removed.
    """
    folder = Path(progress.best.user_attrs["folder"]) if progress.best is not None else None
    if folder is None or not (folder / TRAINED).exists() or (folder / "model.keras").exists():
        return
    progress.say(f"exporting the best trial, {folder.name}")
    worker, reason = pool.get(0), ""
    worker.send(export=str(folder))
    while not stop.reason:
        pool.wait(1.0)
        for message in worker.messages():
            if message.get("exported") == "":
                return
            reason = message.get("exported", reason)
        if reason := reason or worker.death() or worker.hang():
            pool.drop(0)
            progress.say(f"it was not exported ({reason}); later: python -m ctkeras export {folder}")
            return
