"""Makes the example reports in docs/examples: `nox -s examples`, about 5 minutes on two cores.

Three pages from generated slices, so that they hold no image of a patient: a single run, a study, and the runs of two
sweeps in one folder. Runs are made in a temporary folder; pages name only paths relative to it.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

DATA = "phantom:480:patients=80,leaking"  # six slices each, of patients whom the splits share
COMMON = ["--data", DATA, "--image_size=64", "--batch_size=16", "--augmentation=0", "--mixup_alpha=0"]
SMALL = ["--model_name=small_cnn", "--pretrained=false", "--freeze_backbone=false", "--lr=0.003"]
MOST_BYTES = 300_000  # of a page
SWEEP = """name: example-{optimizer}
method: random
run_cap: 4
metric: {{name: val_acc, goal: maximize}}
command: ["${{env}}", python, -m, ctkeras, train]
parameters:
  model_name: {{value: small_cnn}}
  freeze_backbone: {{value: false}}
  pretrained: {{value: false}}
  data: {{value: "{data}"}}
  image_size: {{value: 64}}
  batch_size: {{value: 16}}
  augmentation: {{value: 0}}
  mixup_alpha: {{value: 0}}
  max_epochs: {{value: 6}}
  optimizer: {{value: {optimizer}}}
  lr: {{distribution: log_uniform_values, min: 0.0003, max: 0.01}}
"""


def ctkeras(*words: str, work: pathlib.Path) -> str:
    """Runs a verb in the folder; returns the last line that it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    env = os.environ | {"WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "ctkeras", *words]
    done = subprocess.run(command, cwd=work, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.splitlines() or [""])[-1]


def single(work: pathlib.Path) -> str:
    """One run, evaluated on validation and, once, on test; returns the folder to report."""
    ctkeras("train", *COMMON, *SMALL, "--max_epochs=8", "--output_dir=single", work=work)
    (run,) = [path.name for path in (work / "single").iterdir() if (path / "model.keras").exists()]
    for split in ("valid", "test"):
        ctkeras("evaluate", f"single/{run}", "--split", split, work=work)
    return f"single/{run}"


def study(work: pathlib.Path) -> str:
    """A small study of three phases."""
    options = [*COMMON, "--models=small_cnn", "--trials=3,2,4", "--max_epochs=6", "--lr=0.003", "--output_dir=study"]
    ctkeras("study", *options, work=work)
    return next(f"study/{path.parent.name}" for path in (work / "study").glob("*/study.json"))


def sweeps(work: pathlib.Path) -> str:
    """Two sweeps, each with one optimizer, whose runs lie in one folder."""
    for optimizer in ("adamw", "sgd"):
        (work / f"{optimizer}.yaml").write_text(SWEEP.format(optimizer=optimizer, data=DATA))
        ctkeras("sweep", "run", f"{optimizer}.yaml", "--output_dir=sweeps", work=work)
    return "sweeps"


EXAMPLES = {"single": (single, ["--checklist", "claim"]), "study": (study, []), "sweeps": (sweeps, [])}


def main() -> None:
    """Writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs", "examples"))
    parser.add_argument("--only", choices=EXAMPLES, action="append")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        for name in options.only or EXAMPLES:
            make, more = EXAMPLES[name]
            folder = make(work)
            target = options.out.resolve() / f"report-{name}.html"
            ctkeras("report", folder, "--out", str(target), *more, work=work)
            assert target.stat().st_size < MOST_BYTES, f"{target} has {target.stat().st_size:,} bytes"
            assert place not in target.read_text(encoding="utf-8"), f"{target} names a path of this machine"
            print(options.out / target.name)


if __name__ == "__main__":
    main()
