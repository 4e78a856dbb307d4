"""Measures ctkeras. Each line of standard input is a number of repeats; the answer is their seconds, as JSON.

Of fine-tuning each line is one epoch, and the answer its seconds with validation.
"""

import json
import resource
import sys
import tempfile
import time

import numpy as np

from ctkeras.runtime import process

process.configure()

import jax  # noqa: E402

from ctkeras.config import RunConfig  # noqa: E402
from ctkeras.cpu import layers  # noqa: E402
from ctkeras.data import batches, decoded  # noqa: E402
from ctkeras.models import classifier, export, fast  # noqa: E402
from ctkeras.training import train  # noqa: E402
from ctkeras.training.programs import programs_at  # noqa: E402
from ctkeras.training.steps import Hyper  # noqa: E402

CLASSES, WARM_UP = 4, 3


def step(name: str, batch: int, size: int, *, frozen: bool, precision: str = "float32"):
    """A function that runs one optimizer step and returns the number of images."""
    if precision == "bfloat16" and jax.default_backend() == "cpu":
        raise SystemExit("JAX has no GPU here: install ctkeras with [cuda12]")
    with process.without("tensorflow", "tensorflow_text"):  # as a run does it
        built = classifier.build(name, size, classes=CLASSES, precision=precision)
    classifier.initialise(built, seed=0, dropout=0.3)
    programs = programs_at(built, cut="head" if frozen else "input", on_features=False, optimizer="adamw")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)]
    fed = programs.place_batch(batches.Batch(images, labels, np.ones(batch, np.float32)))
    frozen_variables = programs.place(programs.frozen_variables())
    numbers = Hyper(*(np.float32(value) for value in (1e-3, 1e-4, 0.0)))
    state = [programs.start()]

    def run() -> int:
        state[0] = programs.train_step(state[0], frozen_variables, fed, numbers)
        jax.block_until_ready(state[0].totals)
        return batch

    return run


def infer(name: str, batch: int, size: int):
    """A function that classifies 32 images by an exported model, as `evaluate` and `predict` do, and returns their number."""
    with process.without("tensorflow", "tensorflow_text"):
        built = classifier.build(name, size, classes=CLASSES)
        classifier.initialise(built, seed=0, dropout=0.0)
        answer = fast.program(export.core_model(built.model, CLASSES, layers.core))
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.float32)

    def run() -> int:
        for _ in range(32 // batch):
            answer(images)
        return 32 // batch * batch

    return run


def feed(batch: int, size: int):
    """A function that reads one epoch of cached, augmented images and returns their number."""
    rng = np.random.default_rng(0)
    count = 640
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    pixels = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
    split = decoded.Split(pixels, labels, tuple(map(str, range(count))), tuple("abcd"))
    recipe = batches.Recipe(batch, seed=0, class_weighting="loss", augmentation=1.0)
    epoch = [0]

    def run() -> int:
        epoch[0] += 1
        return sum(len(fed.labels) for fed in batches.train_batches(split, recipe, epoch[0]))

    return run


def finetune(name: str, batch: int, data: str, epochs: int) -> None:
    """Trains as `train` does, on the images that pytorch_commands.py trains on, which has duplicates left in."""

    def after_epoch(row: dict) -> None:
        print(row["epoch_seconds"], flush=True)
        sys.stdin.readline()

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            data=data,
            output_dir=folder,
            model_name=name,
            pretrained=False,
            freeze_backbone=False,
            batch_size=batch,
            max_epochs=epochs,
            folds="0",
            leaks="keep",
        )
        sys.stdin.readline()
        train.train(config, after_epoch=after_epoch, export=False)


def main() -> None:
    """Arguments: step NAME BATCH SIZE FROZEN [PRECISION], infer NAME BATCH SIZE, input BATCH SIZE, or finetune, see there."""
    kind, *words = sys.argv[1:]
    if kind == "finetune":
        finetune(words[0], int(words[1]), words[2], int(words[3]))
        return
    name, numbers = words[0], [int(word) for word in words[1:3]]
    if kind == "step":
        run = step(name, *numbers, frozen=words[3] == "frozen", precision=(words[4:] or ["float32"])[0])
    else:
        run = infer(name, *numbers) if kind == "infer" else feed(*map(int, words))
    for _ in range(WARM_UP):  # the first compiles
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, done = [], 0
        for _ in range(int(line)):
            start = time.perf_counter()
            done = run()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        print(json.dumps({"seconds": seconds, "images": done, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
