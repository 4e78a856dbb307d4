"""Measures PyTorch and timm, channels last, as ours.py measures ctkeras. Needs neither ctkeras nor JAX."""

import json
import os
import resource
import sys
import time

import timm
import torch

CLASSES, WARM_UP = 4, 3
NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
}  # where timm has another name


def step(name: str, batch: int, size: int, *, frozen: bool, precision: str = "float32"):
    """A function that runs one optimizer step and returns the number of images; with bfloat16, on a GPU and compiled."""
    mixed = precision == "bfloat16"
    device = "cuda" if mixed else "cpu"
    network = timm.create_model(NAMES.get(name, name), num_classes=CLASSES).to(memory_format=torch.channels_last)
    network.train()
    if frozen:
        network.eval()  # BatchNorm as ImageNet left it
        for parameter in network.parameters():
            parameter.requires_grad = False
        for parameter in network.get_classifier().parameters():
            parameter.requires_grad = True
    network = torch.compile(network.to(device)) if mixed else network
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=1e-4)
    images = torch.rand(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def run() -> int:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        return batch

    return run


def infer(name: str, batch: int, size: int):
    """A function that classifies 32 images with PyTorch's default threads and returns their number."""
    network = timm.create_model(NAMES.get(name, name), num_classes=CLASSES).to(memory_format=torch.channels_last).eval()
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)

    def run() -> int:
        with torch.inference_mode():
            for _ in range(32 // batch):
                torch.softmax(network(images), -1).numpy()
        return 32 // batch * batch

    return run


class Cached(torch.utils.data.Dataset):
    """Decoded images in memory, with ctkeras's augmentations from albumentations: rotation, shift, zoom, contrast."""

    def __init__(self, count: int, size: int) -> None:
        import albumentations
        import numpy as np

        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.labels = rng.integers(0, CLASSES, count)
        self.augment = albumentations.Compose(
            [
                albumentations.Affine(rotate=(-10, 10), translate_percent=(-0.05, 0.05), scale=(0.9, 1.1), p=1.0),
                albumentations.RandomBrightnessContrast(0.1, 0.15, p=1.0),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        image = self.augment(image=self.images[index])["image"]
        return torch.from_numpy(image).permute(2, 0, 1).float(), int(self.labels[index])


def feed(batch: int, size: int):
    """A function that reads one epoch of cached, augmented images with two workers and returns their number."""
    loader = torch.utils.data.DataLoader(
        Cached(640, size), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    return lambda: sum(len(labels) for _, labels in loader)


def main() -> None:
    """Arguments: step NAME BATCH SIZE FROZEN [PRECISION], infer NAME BATCH SIZE, or input BATCH SIZE."""
    kind, *words = sys.argv[1:]
    if kind != "infer":
        torch.set_num_threads(os.cpu_count() or 1)
    name, numbers = words[0], [int(word) for word in words[1:3]]
    if kind == "step":
        run = step(name, *numbers, frozen=words[3] == "frozen", precision=(words[4:] or ["float32"])[0])
    else:
        run = infer(name, *numbers) if kind == "infer" else feed(*map(int, words))
    for _ in range(WARM_UP):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, done = [], 0
        for _ in range(int(line)):
            start = time.perf_counter()
            done = run()
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "images": done, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
