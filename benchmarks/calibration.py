"""Whether the mean of members that were tempered by their answers out of fold is calibrated, on images new to all of them.

    python benchmarks/calibration.py runs/<id>

The run's head must have been solved in folds. Train and valid are divided into five outer folds that part no group; for each,
members and temperature are made from the other four.
"""

import sys
from pathlib import Path

import numpy as np

from ctkeras.audit import groups
from ctkeras.data import sources
from ctkeras.evaluation import calibration
from ctkeras.evaluation.probabilities import cross_entropy, softmax
from ctkeras.runs.folder import read_config
from ctkeras.runtime import process
from ctkeras.training import folds, learning, solve
from ctkeras.training.folds import Folds
from ctkeras.training.inputs import load_data

FOLDS, DIVISIONS = 5, 2


def main(folder: Path) -> None:
    """Prints loss and calibration error of the mean, before and after tempering, for each division into outer folds."""
    config = read_config(folder)
    source = sources.open_source(config.data)
    process.configure()
    read = load_data(source, config)
    views, split = learning._features(config, read), read.train
    whose = folds.groups_of(split)
    for division in range(DIVISIONS):
        plain, tempered = np.zeros((2, len(split.labels), len(split.class_names)))
        outer = groups.folds(split.labels, whose, FOLDS, seed=100 + division)
        for number in range(FOLDS):
            seen = outer != number
            rest = split.select(seen)
            inner = Folds(
                groups.folds(rest.labels, whose[seen], FOLDS, seed=division), np.zeros(seen.sum(), bool), False
            )
            solved = solve.solve_folds(config, [view[seen] for view in views], rest, folds=inner)
            temperature = calibration.temperature(rest.labels, softmax(solved.valid_logits))
            rows = np.asarray(views[0][~seen], float)
            logits = np.stack(
                [rows @ kernel + bias for kernel, bias in zip(solved.kernels, solved.biases, strict=True)]
            )
            plain[~seen], tempered[~seen] = softmax(logits).mean(0), softmax(logits / temperature).mean(0)
        for name, answers in (("before", plain), ("after", tempered)):
            loss, error = cross_entropy(split.labels, answers), calibration.of(split.labels, answers)
            print(f"division {division}, {name}: loss {loss:.4f}, ECE {error:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
