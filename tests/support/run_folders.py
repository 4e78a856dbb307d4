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


TEST = {
    "n": 315, "n_distinct": 288, "acc": 0.822, "acc_low": 0.766, "acc_high": 0.876, "group_n": 201, "grouped_by": "similarity",
    "acc_group_low": 0.75, "acc_group_high": 0.89, "lookup_acc": 0.921, "lookup_acc_low": 0.88, "lookup_acc_high": 0.95,
    "lookup_chance": 0.381, "novel_n": 40, "novel_acc": 0.75, "novel_acc_low": 0.6, "novel_acc_high": 0.875,
    "novel_group_n": 31, "novel_lookup_acc": 0.6, "class_names": list(CLASSES), "openings": 1,
    "confusion_matrix": [[100, 5, 0, 5], [3, 90, 0, 2], [1, 1, 2, 0], [4, 2, 0, 100]],
    "by_similarity": [
        {"from": 0.97, "to": None, "n": 90, "acc": 1.0, "low": 0.96, "high": 1.0, "lookup_acc": 1.0},
        {"from": 0.92, "to": 0.97, "n": 150, "acc": 0.84, "low": 0.77, "high": 0.9, "lookup_acc": 0.95},
        {"from": 0.85, "to": 0.92, "n": 75, "acc": 0.73, "low": 0.62, "high": 0.83, "lookup_acc": 0.7},
        {"from": None, "to": 0.85, "n": 0, "acc": None, "low": None, "high": None, "lookup_acc": None},
    ],
}  # fmt: skip
VALID = {"lookup_acc": 0.6, "lookup_acc_low": 0.5, "lookup_acc_high": 0.7}


def measured(folder):
    """Writes into a run folder what evaluate, its robustness and label checks, and training's learning curve write."""
    changes = {"noise": ("gray levels", 5.0), "blur": ("px", 0.5), "rotation": ("degrees", 3.0)}
    rows = [
        {"change": name, "strength": unit * i, "unit": words, "acc": 0.82 - 0.02 * i * i / unit**0.2}
        for name, (words, unit) in changes.items()
        for i in range(1, 6)
    ]
    rows = [row | {"low": row["acc"] - 0.06, "high": row["acc"] + 0.05} for row in rows]
    doubtful = [
        ("train/large_cell/a.png", "large_cell", "squamous_cell"),
        ("valid/normal/b.png", "normal", "large_cell"),
    ]
    names = ("file", "label", "suggested", "p_label", "p_suggested")
    files = {
        "metrics_test.json": TEST,
        "metrics_valid.json": VALID,
        "robustness.json": {
            "split": "valid",
            "n": 72,
            "acc": 0.82,
            "rows": rows,
            "worst": "Worst case: blur of 2.5 px.",
        },
        "labels.json": {"by": "folds", "rows": [dict(zip(names, (*row, 0.02, 0.95), strict=True)) for row in doubtful]},
        "learning.json": {
            "folds": 5,
            "rows": [
                {
                    "share": s,
                    "groups": int(180 * s),
                    "images": int(540 * s),
                    "acc": a,
                    "low": a - 0.08,
                    "high": a + 0.07,
                }
                for s, a in ((0.2, 0.6), (0.4, 0.68), (0.6, 0.72), (0.8, 0.75), (1.0, 0.77))
            ],
            "sentence": "Twice the groups would bring about 3 points.",
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    return folder
