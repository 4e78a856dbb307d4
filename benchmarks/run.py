"""Prints the tables of RESULTS.md: `nox -s bench`, or python benchmarks/run.py --torch-python PYTHON [PARTS…].

The two sides alternate, so that other load on the machine affects both. Parts: steps, inference, input, trial, phase1;
without any, all of them, which takes about half an hour on two cores. quick is inference, five minutes. gpu is steps on an
NVIDIA GPU, in bfloat16 against torch.compile; it has not been run on one yet.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
BACKBONES = ("resnet18", "resnet34", "efficientnet_b0", "mobilenet_v2")
BATCH, SIZE, ROUNDS = 32, 224, 5
EPOCHS = 30  # of a phase-1 run
IMAGES = 613 // BATCH * BATCH  # the public set's training images, in full batches


class Side:
    """One of the two measured processes."""

    def __init__(self, python: str, script: str, *words: str) -> None:
        command = [python, str(HERE / script), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.images = self.peak = 0
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{' '.join(command)} did not start")

    def measure(self, repeats: int = 1) -> None:
        """Runs some repeats and adds their seconds."""
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.seconds += answer["seconds"]
        self.images, self.peak = answer["images"], answer["peak_bytes"]

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def compared(torch_python: str, *words: str, repeats: int = 1) -> tuple[Side, Side]:
    """Both sides after ROUNDS alternating measurements of some repeats each."""
    sides = Side(sys.executable, "ours.py", *words), Side(torch_python, "pytorch.py", *words)
    for _ in range(ROUNDS):
        for side in sides:
            side.measure(repeats)
    for side in sides:
        side.close()
    return sides


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def steps(torch_python: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Prints the step of each backbone; returns the medians of both sides."""
    print(f"\n### One training step, batch {BATCH} at {SIZE} px, float32, seconds\n")
    print(
        "| backbone | trained | ctkeras | PyTorch + timm | ratio | peak memory, ratio |\n| --- | --- | --- | --- | --- | --- |"
    )
    medians = {}
    for name in BACKBONES:
        for trained in ("all", "frozen"):
            ours, theirs = compared(torch_python, "step", name, str(BATCH), str(SIZE), trained)
            medians[name, trained] = statistics.median(ours.seconds), statistics.median(theirs.seconds)
            ratio = medians[name, trained][0] / medians[name, trained][1]
            what = "everything" if trained == "all" else "head; the backbone runs in each step"
            row = f"| {name} | {what} | {spread(ours.seconds)} | {spread(theirs.seconds)} | {ratio:.2f} |"
            print(f"{row} {ours.peak / theirs.peak:.2f} |", flush=True)
    return medians


def gpu(torch_python: str) -> None:
    """Prints the bfloat16 step of the ResNets and EfficientNet-B0 on a GPU, against torch.compile."""
    print(f"\n### One training step on a GPU, batch {BATCH} at {SIZE} px, bfloat16, milliseconds\n")
    print("| backbone | ctkeras | torch.compile + timm | ratio |\n| --- | --- | --- | --- |")
    for name in BACKBONES[:3]:
        ours, theirs = compared(torch_python, "step", name, str(BATCH), str(SIZE), "all", "bfloat16", repeats=50)
        thousands = [[1000 * seconds for seconds in side.seconds] for side in (ours, theirs)]
        ratio = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
        print(f"| {name} | {spread(thousands[0])} | {spread(thousands[1])} | {ratio:.2f} |", flush=True)


def inference(torch_python: str) -> None:
    """Prints the images per second of an exported model, as `evaluate` and `predict` run it, one by one and 32 at once."""
    print(f"\n### Classifying images at {SIZE} px, float32, images per second\n")
    print(f"Load of the machine at the start: {os.getloadavg()[0]:.1f}.\n")
    print("| backbone | batch | ctkeras | PyTorch + timm | time, ratio |\n| --- | --- | --- | --- | --- |")
    for name in BACKBONES:
        for batch in (1, 32):
            ours, theirs = compared(torch_python, "infer", name, str(batch), str(SIZE))
            speeds = [[side.images / seconds for seconds in side.seconds] for side in (ours, theirs)]
            ratio = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
            print(f"| {name} | {batch} | {spread(speeds[0])} | {spread(speeds[1])} | {ratio:.2f} |", flush=True)


def feeding(torch_python: str) -> None:
    """Prints images per second of the training input."""
    ours, theirs = compared(torch_python, "input", str(BATCH), str(SIZE))
    rates = [sorted(side.images / s for s in side.seconds) for side in (ours, theirs)]
    print(f"\n### Cached, augmented input at {SIZE} px, images per second\n")
    print("| ctkeras (tf.data, keras-cv) | PyTorch (2 workers, albumentations) | ratio |\n| --- | --- | --- |")
    print(
        f"| {spread(rates[0])} | {spread(rates[1])} | {statistics.median(rates[0]) / statistics.median(rates[1]):.2f} |"
    )


def run_train(folder: pathlib.Path, env: dict[str, str], *flags: str) -> tuple[float, dict]:
    """Seconds of a `ctkeras train` process, and its metrics."""
    place = folder / str(time.monotonic_ns())
    command = [sys.executable, "-m", "ctkeras", "train", "--output_dir", str(place), *flags]
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    seconds = time.perf_counter() - start
    return seconds, json.loads(next(place.glob("*/metrics.json")).read_text())


def trial() -> None:
    """Prints the seconds of a trial by stage: in a first process, in a second one, and in a warm worker."""
    print(f"\n### Seconds of a {EPOCHS}-epoch trial of frozen MobileNetV2 on phantom:1000, random weights\n")
    parts = ("start-up", "data", "model", "features", "compile", "epochs", "export")
    print("| | whole process | " + " | ".join(parts) + " |\n| --- |" + " --- |" * (len(parts) + 1))
    flags = ("--data=phantom:1000", "--model_name=mobilenet_v2", "--pretrained=false", f"--max_epochs={EPOCHS}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        env = {"CTKERAS_CACHE_DIR": str(folder / "cache"), "WANDB_MODE": "disabled"}
        for what in ("empty cache", "full cache"):
            print(trial_row(what, *run_train(folder, env, *flags)), flush=True)
        code = (
            "import sys, time, ctkeras\n"
            "for lr in (0.01, 0.02):\n"
            "    values = dict(word[2:].split('=') for word in sys.argv[1:])\n"
            "    start = time.perf_counter(); result = ctkeras.train(ctkeras.RunConfig.from_mapping(values | {'lr': lr}))\n"
            "    print(time.perf_counter() - start, result.folder)"
        )
        words = [*flags, f"--output_dir={folder / 'warm'}"]
        env_now = os.environ | env
        done = subprocess.run([sys.executable, "-c", code, *words], env=env_now, capture_output=True, text=True)
        seconds, place = done.stdout.splitlines()[-1].split(maxsplit=1)
        print(
            trial_row(
                "second in a warm worker", float(seconds), json.loads(pathlib.Path(place, "metrics.json").read_text())
            )
        )


def trial_row(what: str, seconds: float, metrics: dict) -> str:
    """One row of the trial table; compiling is subtracted from the stages in which it happens."""
    named = {part: metrics[f"seconds_{part}"] for part in ("data", "model", "features", "epochs", "export")}
    named["compile"] = metrics["seconds_compile"]
    named["epochs"] = max(0.0, named["epochs"] - named["compile"])
    named["start-up"] = max(0.0, seconds - sum(named.values()))
    order = ("start-up", "data", "model", "features", "compile", "epochs", "export")
    return f"| {what} | {seconds:.1f} | " + " | ".join(f"{named[part]:.1f}" for part in order) + " |"


def phase1(medians: dict[tuple[str, str], tuple[float, float]]) -> None:
    """Prints the programs compiled in a 45-trial phase 1 with tiny images, twice, and an estimate of the real one."""
    import yaml

    sweep = yaml.safe_load((HERE.parent / "sweep_yaml" / "phase1.yaml").read_text())
    tiny = {"data": "phantom:96", "image_size": 32, "pretrained": False, "max_epochs": 2}
    sweep["parameters"] |= {name: {"value": value} for name, value in tiny.items()}
    sweep.pop("early_terminate")
    print("\n### Programs compiled over a 45-trial phase 1 (3 backbones, frozen or not, 3 batch sizes; tiny images)\n")
    print("| | train programs compiled | minutes |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "phase1.yaml").write_text(yaml.safe_dump(sweep))
        env = os.environ | {"CTKERAS_CACHE_DIR": str(folder / "cache"), "WANDB_MODE": "disabled"}
        for what in ("first run", "second run, fresh study"):
            out = folder / what.split()[0]
            command = [sys.executable, "-m", "ctkeras", "sweep", "run", "phase1.yaml", f"--output_dir={out}"]
            start = time.perf_counter()
            done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            minutes = (time.perf_counter() - start) / 60
            trials = [json.loads(path.read_text()) for path in out.glob("*/metrics.json")]
            compiled = sum(metrics["train_programs_compiled"] for metrics in trials)
            print(f"| {what}: {len(trials)} trials | {compiled} | {minutes:.1f} |", flush=True)
    if medians:
        estimate(medians)


def estimate(medians: dict[tuple[str, str], tuple[float, float]]) -> None:
    """Prints the hours of the real phase 1, from the measured steps only: 45 trials, half of them frozen, no early stopping."""
    steps_a_run = EPOCHS * IMAGES // BATCH
    chosen = ("resnet18", "resnet34", "efficientnet_b0")
    full = [sum(medians[name, "all"][side] for name in chosen) / len(chosen) for side in (0, 1)]
    frozen = [sum(medians[name, "frozen"][side] for name in chosen) / len(chosen) for side in (0, 1)]
    theirs = 22.5 * steps_a_run * (full[1] + frozen[1]) / 3600
    once = len(chosen) * IMAGES / BATCH * frozen[0]  # features of each backbone, once
    ours = (22.5 * steps_a_run * full[0] + once) / 3600
    print(
        f"\nThe real phase 1 ({SIZE} px, {EPOCHS} epochs, no early stopping), estimated from the steps above: ", end=""
    )
    print(f"ctkeras {ours:.0f} hours, PyTorch + timm {theirs:.0f} hours.")


def main() -> None:
    """Measures the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="an interpreter with torch, timm and albumentations")
    parser.add_argument("parts", nargs="*", default=["steps", "inference", "input", "trial", "phase1"])
    options = parser.parse_args()
    names = ("ctkeras", "jax", "keras", "onednn-cpu-gomp", "tensorflow")
    installed = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in names if name in installed)
    asked = "import torch, timm; print('torch', torch.__version__ + ',', 'timm', timm.__version__)"
    theirs = subprocess.run([options.torch_python, "-c", asked], capture_output=True, text=True).stdout.strip()
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if pathlib.Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    print(f"{datetime.date.today()}; {os.cpu_count()} cores, {model or platform.processor()}; {versions}; {theirs}.")
    print(f"Median (range) of {ROUNDS}, alternated.")
    medians = steps(options.torch_python) if "steps" in options.parts else {}
    if {"inference", "quick"} & set(options.parts):
        inference(options.torch_python)
    if "gpu" in options.parts:
        gpu(options.torch_python)
    if "input" in options.parts:
        feeding(options.torch_python)
    if "trial" in options.parts:
        trial()
    if "phase1" in options.parts:
        phase1(medians)


if __name__ == "__main__":
    main()
