"""What one writes with PyTorch, timm and scikit-learn for the jobs of commands.py. Needs neither ctkeras nor JAX.

    python benchmarks/pytorch_commands.py save NETWORK WEIGHTS
    python benchmarks/pytorch_commands.py predict NETWORK WEIGHTS IMAGE
    python benchmarks/pytorch_commands.py evaluate NETWORK WEIGHTS ZIP
    python benchmarks/pytorch_commands.py head NETWORK WEIGHTS ZIP EPOCHS
    python benchmarks/pytorch_commands.py finetune NETWORK WEIGHTS ZIP BATCH

Images are decoded each time, as nothing is cached between processes. The last line is JSON; finetune trains an epoch for
each line of standard input, and prints its seconds.
"""

import io
import json
import sys
import time
import zipfile

import numpy as np
import timm
import torch
from PIL import Image

SIZE, CLASSES, BATCH, RESAMPLES = 224, ("adenocarcinoma", "large", "normal", "squamous"), 32, 2000
MEAN, SD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
NAMES = {"mobilenet_v2": "mobilenetv2_100"}  # where timm has another name


def network(name: str, weights: str = "") -> torch.nn.Module:
    """A backbone with a head for the classes, channels last."""
    made = timm.create_model(NAMES.get(name, name), num_classes=len(CLASSES))
    if weights:
        made.load_state_dict(torch.load(weights, weights_only=True))
    return made.to(memory_format=torch.channels_last)


def picture(content: bytes) -> np.ndarray:
    """One image: uint8 [SIZE, SIZE, 3]."""
    image = Image.open(io.BytesIO(content)).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(image)[..., None], 3, -1)


def split(place: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 [N, SIZE, SIZE, 3], and classes, int [N], of a split of the zip."""
    images, labels = [], []
    with zipfile.ZipFile(place) as archive:
        for name in archive.namelist():
            if f"/{part}/" in name and name.lower().endswith((".png", ".jpg")):
                images.append(picture(archive.read(name)))
                folder = name.split("/")[-2].lower()
                labels.append(next(number for number, label in enumerate(CLASSES) if label in folder))
    return np.stack(images), np.array(labels)


def tensor(images: np.ndarray) -> torch.Tensor:
    """Normalised as timm's models want it."""
    scaled = (images.astype(np.float32) / 255 - MEAN) / SD
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def outputs(model, images: np.ndarray) -> np.ndarray:
    """What a function of batches gives for all images."""
    return np.concatenate([model(tensor(images[at : at + BATCH])).numpy() for at in range(0, len(images), BATCH)])


def metrics(labels: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Accuracy with a bootstrap interval, balanced accuracy, F1, AUC."""
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

    right = answers.argmax(-1) == labels
    means = np.random.default_rng(0).choice(right, (RESAMPLES, len(right))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    chosen = answers.argmax(-1)
    return {
        "accuracy": float(right.mean()),
        "low": float(low),
        "high": float(high),
        "balanced": float(balanced_accuracy_score(labels, chosen)),
        "f1": float(f1_score(labels, chosen, average="macro")),
        "auc": float(roc_auc_score(labels, answers, multi_class="ovr")),
    }


def save(name: str, weights: str) -> dict:
    """Writes weights for the other jobs."""
    torch.save(network(name).state_dict(), weights)
    return {}


def predict(name: str, weights: str, image: str) -> dict:
    """Classifies one image."""
    model = network(name, weights).eval()
    with open(image, "rb") as file:
        images = picture(file.read())[None]
    return {"answer": torch.from_numpy(outputs(model, images)).softmax(-1).tolist()}


def evaluate(name: str, weights: str, place: str) -> dict:
    """Metrics of the test split."""
    images, labels = split(place, "test")
    logits = outputs(network(name, weights).eval(), images)
    return metrics(labels, torch.from_numpy(logits).softmax(-1).numpy())


def head(name: str, weights: str, place: str, epochs: str) -> dict:
    """A head on a frozen backbone whose features are computed once, which few people do; batch 16, AdamW, 30 epochs."""
    model = network(name, weights).eval()
    (images, labels), (others, truth) = (split(place, part) for part in ("train", "valid"))
    features, seen = (
        outputs(lambda batch: model.forward_head(model.forward_features(batch), pre_logits=True), part)
        for part in (images, others)
    )
    classifier = model.get_classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3)
    rows, targets = torch.from_numpy(features), torch.from_numpy(labels)
    for _ in range(int(epochs)):
        for chosen in torch.randperm(len(rows)).split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(classifier(rows[chosen]), targets[chosen]).backward()
            optimizer.step()
        with torch.inference_mode():
            accuracy = (classifier(torch.from_numpy(seen)).argmax(-1).numpy() == truth).mean()
    torch.save(model.state_dict(), weights + ".trained")
    return {"val_acc": float(accuracy)}


class Augmented(torch.utils.data.Dataset):
    """Decoded images with augmentations like those of ctkeras, by albumentations."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        import albumentations

        self.images, self.labels = images, labels
        self.augment = albumentations.Compose(
            [
                albumentations.Affine(rotate=(-10, 10), translate_percent=(-0.05, 0.05), scale=(0.9, 1.1), p=1.0),
                albumentations.RandomBrightnessContrast(0.1, 0.15, p=1.0),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        return tensor(self.augment(image=self.images[at])["image"][None])[0], int(self.labels[at])


def finetune(name: str, weights: str, place: str, batch: str) -> dict:
    """Prints the seconds of each epoch of fine-tuning, with its validation."""
    model = network(name, weights)
    (images, labels), (others, truth) = (split(place, part) for part in ("train", "valid"))
    loader = torch.utils.data.DataLoader(
        Augmented(images, labels), int(batch), shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in sys.stdin:
        begun = time.perf_counter()
        model.train()
        for fed, targets in loader:
            optimizer.zero_grad()
            fed = fed.contiguous(memory_format=torch.channels_last)
            torch.nn.functional.cross_entropy(model(fed), targets).backward()
            optimizer.step()
        accuracy = (outputs(model.eval(), others).argmax(-1) == truth).mean()
        print(time.perf_counter() - begun, flush=True)
    return {"val_acc": float(accuracy)}


if __name__ == "__main__":
    jobs = {"save": save, "predict": predict, "evaluate": evaluate, "head": head, "finetune": finetune}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))
