"""tensorflow-datasets builders of every data set that `--data` takes, for code of your own; ctkeras itself reads the files.

Importing this module registers two builders that differ only in name, image_splits and chest_ct (the Kaggle set):

    splits, info = tfds.load("image_splits", builder_kwargs={"data": "chest-ctscan-images.zip"}, with_info=True)
    train = tfds.load("image_splits", split="train", builder_kwargs={"data": "phantom:200"}, as_supervised=True)

The splits are train, valid and test; an example has image (uint8 [H, W, 1], gray, at its own size), label and file.
"""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ctkeras.data import images, layout, sources, threads


def lend_importlib_resources() -> None:
    """Provides the standard library's importlib.resources as the backport that TFDS imports without declaring it."""
    import importlib.resources.abc

    sys.modules.setdefault("importlib_resources", importlib.resources)


lend_importlib_resources()


class ImageSplits(tfds.core.GeneratorBasedBuilder):
    """Images in the layout split/class/image, or generated ones, in gray."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data: str, data_dir: str | None = None) -> None:
        """Finds and checks a data set.

        Args:
            data: a zip file, a folder, `phantom`, `phantom:<images>` or `kaggle`.
            data_dir: where TFDS stores what it prepares; None for its own default.

        Raises:
            UserError: as sources.open_source.
        """
        self.source = sources.open_source(data)
        # The config is named by the content, so that a changed data set is prepared again.
        config = tfds.core.BuilderConfig(name=self.source.key, description=self.source.kind)
        super().__init__(config=config, data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(self.source.class_names)),
            "file": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in layout.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return threads.in_threads(self._example, sources.read(self.source, split))

    def _example(self, item: tuple[layout.Entry, bytes]) -> tuple[str, dict[str, Any]]:
        """Returns an image's key and features; encodes it here because TensorFlow's encoder takes five times as long."""
        entry, content = item
        gray = images.decode_gray(
            content, name=f"{entry.file} in {self.source.path}", frame=entry.frame, span=self.source.span
        )
        return entry.file, {"image": io.BytesIO(images.encode_png(gray)), "label": entry.class_name, "file": entry.file}


class ChestCT(ImageSplits):
    """The Kaggle set mohamedhanyyy/chest-ctscan-images: 1,000 slices; adenocarcinoma, large_cell, normal, squamous_cell."""

    name = "chest_ct"
