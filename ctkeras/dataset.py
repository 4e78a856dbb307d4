"""tensorflow-datasets builders for chest_ct and for any split/class/image layout, and the one call that prepares them."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from ctkeras import images, phantom, runtime, sources
from ctkeras.config import UserError

runtime.lend_importlib_resources()

import tensorflow_datasets as tfds  # noqa: E402


class ImageSplits(tfds.core.GeneratorBasedBuilder):
    """Images of any classes in the layout split/class/image, brought to gray."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: sources.Source, data_dir: str) -> None:
        self.source = source
        # Named by its content, so that a changed source is prepared anew.
        config = tfds.core.BuilderConfig(name=source.fingerprint[:16], description=source.kind)
        super().__init__(config=config, data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(self.source.class_names)),
            "file": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in sources.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        bar = runtime.Bar(f"reading {split}", sources.count(self.source, split))
        rows = images.in_threads(self._row, sources.read(self.source, split))
        for done, row in enumerate(rows, start=1):
            bar.update(done)
            yield row
        bar.close()

    def _row(self, item: tuple[sources.Entry, bytes]) -> tuple[str, dict[str, Any]]:
        """One image's key and features; encoded here, as TensorFlow's encoder takes five times as long."""
        entry, content = item
        gray = images.decode_gray(content, name=f"{entry.file} in {self.source.path}")
        return entry.file, {"image": io.BytesIO(images.encode_png(gray)), "label": entry.class_name, "file": entry.file}


class ChestCT(ImageSplits):
    """The Kaggle set mohamedhanyyy/chest-ctscan-images: 1,000 slices; adenocarcinoma, large_cell, normal, squamous_cell."""

    name = "chest_ct"


def prepare(source: sources.Source) -> Any:
    """Prepares a source with tensorflow-datasets under the cache folder; a source already prepared is only opened.

    Args:
        source: what open_source returned.

    Returns:
        The prepared tfds builder, with splits train, valid and test.

    Raises:
        UserError: an image that can't be read, or the disk is full; nothing half-prepared stays.
    """
    runtime.configure_tensorflow()
    data_dir = str(runtime.cache_dir("data"))
    with runtime.lock(runtime.cache_dir("data") / f"{source.fingerprint[:16]}.lock"):
        # Made under the lock: a builder made before another process has prepared the data doesn't see them.
        if source.kind == "phantom":
            builder = phantom.builder(source.images, data_dir)
        else:
            builder = (ChestCT if source.kind == "chest_ct" else ImageSplits)(source=source, data_dir=data_dir)
        if builder.data_path.exists():
            return builder
        tfds.disable_progress_bar()
        with runtime.waiting(f"Preparing {source.images:,} images from {source.path}"):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # tfds prints of a download that there isn't
                    builder.download_and_prepare()
            except OSError as error:
                raise UserError(
                    f"{source.path} can't be prepared under {data_dir}: {error.strerror or error}"
                ) from error
    return builder


def class_counts(builder: Any) -> dict[str, dict[str, int]]:
    """Images of each class in each split of a prepared builder, without decoding any."""
    names = builder.info.features["label"].names
    counts = {}
    for split in sources.SPLITS:
        rows = builder.as_dataset(split=split, decoders=undecoded()).as_numpy_iterator()
        numbers = np.bincount([row["label"] for row in rows], minlength=len(names))
        counts[split] = dict(zip(names, numbers.tolist(), strict=True))
    return counts


def undecoded() -> dict[str, Any]:
    """tfds decoders that leave images as PNG bytes, for images.decode_gray."""
    return {"image": tfds.decode.SkipDecoding()}
