"""Run folders made without training, with realistic numbers: a search over architectures that hyperband stops early."""

import csv
import json
import math

import numpy as np

from ctkeras.config import EPOCH_METRICS, RunConfig

CLASSES = ("adenocarcinoma", "large_cell", "normal", "squamous_cell")
SKILL = {"resnet18": 0.80, "efficientnet_b0": 0.83, "resnet34": 0.79, "mobilenet_v2": 0.76, "densenet121": 0.81}
PARAMETERS = {
    "resnet18": 11.2e6,
    "efficientnet_b0": 4.05e6,
    "resnet34": 21.3e6,
    "mobilenet_v2": 2.26e6,
    "densenet121": 7e6,
}


def write(
    folder, *, runs=12, images=72, seed=0, classes=CLASSES, models=("resnet18", "efficientnet_b0"), bands=(5, 15)
):
    """Writes run folders run-0000, …; returns their paths."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(classes), size=images)
    difficulty = rng.random(images)
    return [_run(folder / f"run-{i:04d}", i, rng, labels, difficulty, classes, models, bands) for i in range(runs)]


def _run(folder, number, rng, labels, difficulty, classes, models, bands):
    model = str(rng.choice(models))
    lr = float(10 ** rng.uniform(-5, -2))
    config = RunConfig(
        data="phantom:24",
        model_name=model,
        lr=lr,
        weight_decay=float(10 ** rng.uniform(-6, -3)),
        batch_size=int(rng.choice([16, 32, 64])),
        dropout=float(rng.choice([0.2, 0.3, 0.4])),
        freeze_backbone=bool(rng.random() < 0.5),
        seed=number,
    )
    skill = SKILL[model] - 0.09 * abs(math.log10(lr) + 3.2) + rng.normal(0, 0.02)
    epochs = config.max_epochs if skill > 0.72 or not bands else int(rng.choice(bands))
    shape = 1 - np.exp(-np.arange(1, epochs + 1) / 4)
    val = np.clip(skill * shape + rng.normal(0, 0.012, epochs), 0, 1)
    best = int(val.argmax())
    right = difficulty + rng.normal(0, 0.06, len(labels)) < val[best]
    wrong = (labels + rng.integers(1, len(classes), len(labels))) % len(classes)
    predicted = np.where(right, labels, wrong)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    rows = []
    for i in range(epochs):
        row = (i + 1, min(1, 1.08 * val[i]), 1.4 - shape[i], val[i], 1.5 - val[i], lr, 2.0, 8e8)
        rows.append(dict(zip(EPOCH_METRICS, row, strict=True)))
    write_csv(folder / "history.csv", rows)
    metrics = {
        "val_acc": float(right.mean()),
        "val_loss": 1.5 - float(val[best]),
        "best_epoch": best + 1,
        "epochs": epochs,
        "stopped_by": "max_epochs" if epochs == config.max_epochs else "hyperband",
        "params_total": PARAMETERS[model],
        "params_trainable": 5124 if config.freeze_backbone else PARAMETERS[model],
        "seconds_total": 2.0 * epochs + (40 if number < len(models) else 3),
        "seconds_compile": 12.0 if number < len(models) else 0.5,
        "memory_bytes": 8e8 + 4 * PARAMETERS[model],
        "data_fingerprint": "phantom-24-1.0.0",
        "versions": "ctkeras 0.1.0, keras 3.15.1, jax 0.10.2",
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_csv(folder / "predictions.csv", [_answer(rng, i, labels, predicted, classes) for i in range(len(labels))])
    contract = {
        "class_names": list(classes),
        "input_shape": [224, 224, 3],
        "intended_use": "Research. Not for diagnosis.",
    }
    (folder / "contract.json").write_text(json.dumps(contract))
    return folder


def _answer(rng, i, labels, predicted, classes):
    """One row of predictions.csv."""
    top = rng.uniform(0.4, 0.99)
    chances = np.full(len(classes), (1 - top) / (len(classes) - 1))
    chances[predicted[i]] = top
    names = {"file": f"valid/{classes[labels[i]]}/{i:03d}.png", "split": "valid", "label": classes[labels[i]]}
    names["predicted"] = classes[predicted[i]]
    return names | {f"p_{name}": f"{chance:.6f}" for name, chance in zip(classes, chances, strict=True)}


def answering(folder, right_counts, images=72):
    """Writes run folders of two architectures in turn that have the first so many images right; returns the folder."""
    paths = write(folder, runs=len(right_counts), images=images, bands=())
    for number, (path, count) in enumerate(zip(paths, right_counts, strict=True)):
        edit(path / "config.json", model_name=("resnet18", "efficientnet_b0")[number % 2])
        edit(path / "metrics.json", val_acc=count / images)
        with open(path / "predictions.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for i, row in enumerate(rows):
            other = next(name for name in CLASSES if name != row["label"])
            row["predicted"] = row["label"] if i < count else other
            for name in CLASSES:
                row[f"p_{name}"] = "0.7" if name == row["predicted"] else "0.1"
        write_csv(path / "predictions.csv", rows)
    return folder


def edit(path, **changes):
    """Changes values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_csv(path, rows):
    """Writes rows as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
