"""A timm-format ResNet checkpoint and its features in PyTorch, without any Keras."""

import json
import pathlib

import numpy as np

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
NUM_CLASSES = 1000
BATCH_NORM_EPSILON = 1e-5


def write_timm_checkpoint(folder, *, model_name, seed):
    """Writes config.json and model.safetensors as a timm repo on the Hub has them.

    Args:
        folder: Path of the folder, made if missing.
        model_name: "resnet18" or "resnet34".
        seed: Int, seed of the random weights.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(model_name), indent=2))
    state = _random_state(model_name, np.random.default_rng(seed))
    # timm's own files carry this metadata, and some readers ask for it.
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def reference_features(folder, images):
    """Returns the globally averaged last feature map, in eval mode.

    Args:
        folder: Path that `write_timm_checkpoint` has filled.
        images: Float32 array [B, H, W, 3], raw RGB values from 0 to 255.

    Returns:
        Float32 array [B, 512].
    """
    import torch
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    # float64 leaves the port's rounding as the only rounding in a comparison.
    state = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
    x = torch.tensor(np.asarray(images), dtype=torch.float64)
    mean, std = (x.new_tensor(config["pretrained_cfg"][k]) for k in ("mean", "std"))
    x = ((x / 255.0 - mean) / std).permute(0, 3, 1, 2)
    x = _forward(state, x, BLOCKS[config["architecture"]])
    return x.mean(dim=(2, 3)).numpy().astype(np.float32)


def _config(model_name):
    """Returns the config.json of the model's a1_in1k weights."""
    return {
        "architecture": model_name,
        "num_classes": NUM_CLASSES,
        "num_features": WIDTHS[-1],
        "pretrained_cfg": {
            "tag": "a1_in1k",
            "custom_load": False,
            "input_size": [3, 224, 224],
            "test_input_size": [3, 288, 288],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "test_crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": NUM_CLASSES,
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "apache-2.0",
            "origin_url": "https://github.com/huggingface/pytorch-image-models",
            "paper_ids": "arXiv:2110.00476",
        },
    }


def _random_state(model_name, rng):
    """Returns the state dict: name -> array, convolutions as [out, in, k, k]."""
    state = _random_conv_bn(rng, "conv1", "bn1", 3, WIDTHS[0], kernel=7)
    inputs = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(BLOCKS[model_name][stage - 1]):
            at = f"layer{stage}.{block}."
            state |= _random_conv_bn(rng, at + "conv1", at + "bn1", inputs, width, 3)
            state |= _random_conv_bn(rng, at + "conv2", at + "bn2", width, width, 3)
            if inputs != width:
                conv, norm = at + "downsample.0", at + "downsample.1"
                state |= _random_conv_bn(rng, conv, norm, inputs, width, kernel=1)
            inputs = width
    state["fc.weight"] = _normal(rng, (NUM_CLASSES, inputs), inputs**-0.5)
    state["fc.bias"] = _normal(rng, (NUM_CLASSES,), 0.1)
    return state


def _random_conv_bn(rng, conv, norm, inputs, outputs, kernel):
    """Returns one convolution and its batch norm, none of them near a default."""
    he_scale = (2.0 / (inputs * kernel**2)) ** 0.5
    return {
        f"{conv}.weight": _normal(rng, (outputs, inputs, kernel, kernel), he_scale),
        f"{norm}.weight": rng.uniform(0.5, 1.5, outputs).astype(np.float32),
        f"{norm}.bias": _normal(rng, (outputs,), 0.3),
        f"{norm}.running_mean": _normal(rng, (outputs,), 0.3),
        f"{norm}.running_var": rng.uniform(0.5, 2.0, outputs).astype(np.float32),
        # timm saves PyTorch's step counter too; a port has to pass over it.
        f"{norm}.num_batches_tracked": np.array(1, np.int64),
    }


def _normal(rng, shape, scale):
    """Returns a float32 array of the shape, normal around 0 with this scale."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def _forward(state, x, blocks):
    """Maps images [B, 3, H, W] to the last feature map [B, 512, H/32, W/32]."""
    from torch.nn import functional as F

    x = F.relu(_conv_bn(state, "conv1", "bn1", x, stride=2))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            at = f"layer{stage}.{block}."
            y = F.relu(_conv_bn(state, at + "conv1", at + "bn1", x, stride))
            y = _conv_bn(state, at + "conv2", at + "bn2", y, stride=1)
            if at + "downsample.0.weight" in state:
                x = _conv_bn(state, at + "downsample.0", at + "downsample.1", x, stride)
            x = F.relu(x + y)
    return x


def _conv_bn(state, conv, norm, x, stride):
    """Convolves and normalises: [B, C, H, W] -> [B, D, H/stride, W/stride]."""
    from torch.nn import functional as F

    kernel = state[f"{conv}.weight"]
    # PyTorch pads both sides alike; Keras's "same" pads the end more at stride 2.
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    names = ("running_mean", "running_var", "weight", "bias")
    arrays = [state[f"{norm}.{name}"] for name in names]
    return F.batch_norm(x, *arrays, training=False, eps=BATCH_NORM_EPSILON)
