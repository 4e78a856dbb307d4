"""What is wrong with a data set: unreadable, doubled, leaking or doubly labelled images; and what training leaves out."""

import dataclasses

from ctkeras.decoded import Split
from ctkeras.sources import Source

VERSION = "1"  # of the stored list; a new one for any change in what counts as the same image


@dataclasses.dataclass(frozen=True)
class Image:
    """One readable image. Files with equal `exact` hold the same picture; with equal `near`, the same or a near one."""

    file: str
    split: str
    class_name: str
    exact: int  # number of the distinct image
    near: int  # number of its near group; groups of near hold whole groups of exact
    format: str  # of the bytes, as Pillow names it: PNG, JPEG, …
    mode: str  # as Pillow names it: RGBA, L, …
    width: int  # pixels
    height: int  # pixels


@dataclasses.dataclass(frozen=True)
class Audit:
    """The list made once for a data set; `images` are in the order of their names."""

    images: tuple[Image, ...]
    unreadable: dict[str, str]  # file to reason

    def twins(self, *, near: bool = False) -> dict[str, int]:
        """File to the number of the distinct image it holds, of every split; `near` also joins near-duplicates."""
        return {image.file: image.near if near else image.exact for image in self.images}

    def leaked(self, split: str, into: tuple[str, ...], *, near: bool = True) -> set[str]:
        """Files of `split` whose image stands in one of the splits `into`, exact or, unless `near` is false, near."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What was taken out of training, for the run's record."""

    leaks: str  # drop or keep
    train_images: int  # left to train on
    train_images_dropped: int  # that stand in validation or test, exact or near
    conflicts_dropped: int  # further ones: the same image in training under two labels


def load(source: Source) -> Audit:
    """Returns a data set's audit, made the first time only and kept under the cache folder.

    Raises:
        UserError: an image that can't be read.
    """
    raise NotImplementedError


def clean(train: Split, source: Source, *, leaks: str) -> tuple[Split, Cleaned]:
    """Leaves out of training what stands in validation or test, and what has two labels; needs the stored list alone.

    Args:
        train: the training split.
        source: where it is from.
        leaks: drop, or keep to leave training as it is.

    Returns:
        The split, the same object when nothing is left out, and what was left out.

    Raises:
        UserError: a class would be left without images.
    """
    raise NotImplementedError
