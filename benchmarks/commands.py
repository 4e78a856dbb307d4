"""Times what a user waits for, command against command: ctkeras, and the same job with PyTorch and timm.

    python benchmarks/commands.py --torch-python PYTHON --data ZIP [--weights_dir FOLDER] [PARTS…]

Parts: predict, evaluate, head, finetune; without any, all of them. Both sides are whole processes and alternate.
"""

import argparse
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
ROUNDS, EPOCHS = 5, 30
NETWORK = "mobilenet_v2"
FINE_TUNED = ("resnet18", "efficientnet_b0", "mobilenet_v2")
HEADER = "| job | ctkeras, seconds | PyTorch + timm, seconds | ratio | CPU seconds |\n| --- | --- | --- | --- | --- |"


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and what it printed."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, done.stdout.strip()


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def row(name: str, ours: list[float], theirs: list[float], cpu: str = "") -> None:
    """Prints a row of the table."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"| {name} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} | {cpu} |", flush=True)


class Bench:
    """The commands of both sides."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        """Args: the command line's, and an empty folder."""
        self.options, self.folder = options, folder
        self.env = {"CTKERAS_CACHE_DIR": str(folder / "cache"), "WANDB_MODE": "disabled"}
        self.weights = ["--weights_dir", options.weights_dir] if options.weights_dir else []

    def ours(self, *words: str, cache: str = "cache") -> tuple[float, float, str]:
        """A ctkeras command."""
        env = self.env | {"CTKERAS_CACHE_DIR": str(self.folder / cache)}
        return timed([sys.executable, "-m", "ctkeras", *words], env)

    def train(self, *words: str, name: str = NETWORK, cache: str = "cache") -> tuple[float, float, str]:
        """A training run; the last value is its folder."""
        weights = self.weights if name == NETWORK else ["--pretrained", "false"]
        place = ["--data", self.options.data, "--output_dir", str(self.folder / "runs"), "--model_name", name]
        seconds, cpu, said = self.ours("train", *place, *weights, *words, cache=cache)
        return seconds, cpu, str(pathlib.Path(said.splitlines()[-1]).parent)

    def theirs(self, job: str, *words: str, name: str = NETWORK) -> tuple[float, float, str]:
        """The same job with PyTorch."""
        weights = str(self.folder / f"{name}.pt")
        if job != "save" and not pathlib.Path(weights).exists():
            self.theirs("save", name=name)
        script = str(HERE / "pytorch_commands.py")
        return timed([self.options.torch_python, script, job, name, weights, *words], {})

    def alternated(
        self, name: str, ours: Callable[[], tuple], theirs: Callable[[], tuple], rounds: int = ROUNDS
    ) -> None:
        """Prints the row of two whole commands."""
        sides = [[], []]
        for _ in range(rounds):
            for side, run in zip(sides, (ours, theirs), strict=True):
                side.append(run()[:2])
        walls, cpus = zip(*([list(column) for column in zip(*side, strict=True)] for side in sides), strict=True)
        row(name, *walls, " / ".join(f"{statistics.median(cpu):.1f}" for cpu in cpus))

    def answering(self, parts: set[str]) -> None:
        """Prints the rows of one image and of the test split, each command once before it is timed."""
        run = self.train()[2]
        if "predict" in parts:
            image = self.folder / "image.png"
            with zipfile.ZipFile(self.options.data) as archive:
                image.write_bytes(archive.read(next(n for n in archive.namelist() if "/test/" in n and "png" in n)))
            self.ours("predict", run, str(image))
            self.alternated(
                "predict one image",
                lambda: self.ours("predict", run, str(image)),
                lambda: self.theirs("predict", str(image)),
            )
        if "evaluate" in parts:
            copies = (self.folder / f"run-{number}" for number in range(1000))

            def evaluate() -> tuple[float, float, str]:
                fresh = shutil.copytree(run, next(copies))  # a run that was evaluated before answers from its files
                return self.ours("evaluate", str(fresh), "--split", "test")

            evaluate()
            self.alternated(
                "evaluate the 315 test images, with metrics",
                evaluate,
                lambda: self.theirs("evaluate", self.options.data),
            )

    def heads(self) -> None:
        """Prints the rows of a frozen run, from an empty cache and again."""
        epochs = ("--optimizer", "adamw", "--max_epochs", str(EPOCHS), "--batch_size", "16", "--early_stopping", "0")
        peer = lambda: self.theirs("head", self.options.data, str(EPOCHS))  # noqa: E731
        fresh = (f"cache-{number}" for number in range(1000))
        rows = {
            "frozen run of 30 epochs, from an empty cache": lambda: self.train(
                *epochs, "--folds", "0", cache=next(fresh)
            ),
            "the same, again": lambda: self.train(*epochs, "--folds", "0"),
            "`train`, all defaults (five solved heads), from an empty cache": lambda: self.train(cache=next(fresh)),
            "the same, again ": self.train,
        }
        for name, ours in rows.items():
            if name.startswith("the same"):
                ours()
            self.alternated(name, ours, peer)

    def epochs(self) -> None:
        """Prints the rows of one epoch of fine-tuning with its validation; the first of each process is not counted."""
        for name in FINE_TUNED:
            for batch in ("16", "32"):
                sides = [self.finetuned(name, batch), self.finetuned(name, batch, ours=False)]
                seconds: tuple[list[float], list[float]] = [], []
                for _ in range(self.options.epoch_rounds + 1):
                    for side, taken in zip(sides, seconds, strict=True):
                        taken.append(side())
                row(f"one epoch of fine-tuning {name}, batch {batch}", *(taken[1:] for taken in seconds))

    def finetuned(self, name: str, batch: str, *, ours: bool = True) -> Callable[[], float]:
        """Starts a process that fine-tunes; each call of the result is one epoch, and gives its seconds."""
        data, epochs, weights = self.options.data, str(self.options.epoch_rounds + 1), str(self.folder / f"{name}.pt")
        if ours:
            command = [sys.executable, str(HERE / "ours.py"), "finetune", name, batch, data, epochs]
        else:
            self.theirs("save", name=name)
            script = str(HERE / "pytorch_commands.py")
            command = [self.options.torch_python, script, "finetune", name, weights, data, batch]
        running = subprocess.Popen(
            command,
            env=os.environ | self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        left = iter(range(self.options.epoch_rounds, -1, -1))

        def epoch() -> float:
            running.stdin.write("\n")
            running.stdin.flush()
            seconds = float(running.stdout.readline())
            if not next(left):
                running.stdin.close()
                running.wait()
            return seconds

        return epoch


def main() -> None:
    """Measures the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python", required=True, help="an interpreter with torch, timm, albumentations, sklearn"
    )
    parser.add_argument("--data", required=True, help="the public set's zip")
    parser.add_argument("--weights_dir", default="", help="folder of weight files, for MobileNetV2")
    parser.add_argument("--epoch-rounds", type=int, default=ROUNDS, help="repeats of an epoch of fine-tuning")
    parser.add_argument("parts", nargs="*", help="predict, evaluate, head, finetune")
    options = parser.parse_args()
    parts = set(options.parts) or {"predict", "evaluate", "head", "finetune"}
    print(f"Load of the machine at the start: {os.getloadavg()[0]:.1f}.\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, pathlib.Path(name))
        if parts & {"predict", "evaluate"}:
            bench.answering(parts)
        if "head" in parts:
            bench.heads()
        if "finetune" in parts:
            bench.epochs()
    print(f"\nLoad of the machine at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
