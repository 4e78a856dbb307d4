"""The train verb's last lines."""

import pytest

from ctkeras.cli import train
from ctkeras.training.train import RunResult


@pytest.mark.parametrize("best_epoch", [0, 3])
def test_an_interrupted_run_says_where_it_is_and_how_to_resume_it(tmp_path, capsys, best_epoch):
    metrics = {"best_epoch": best_epoch, "epochs": 3, "val_acc": 0.5, "val_loss": 1.0, "seconds_total": 9.0}
    folder = tmp_path / "a run"
    for stopped_by in ("sigint", "sigterm", "epochs"):
        train._print_result(RunResult(folder, {**metrics, "stopped_by": stopped_by}))
        said = capsys.readouterr().err
        assert (f"python -m ctkeras train --resume '{folder}'" in said) == (stopped_by != "epochs")
