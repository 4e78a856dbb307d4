"""Which slices a generated data set holds: of unrelated patients, or of patients with several slices each."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ctkeras.data import phantom
from ctkeras.errors import UserError

EXAMPLES = "phantom:240, phantom:240:patients=40 or phantom:240:patients=40,leaking"
PATIENTS_VERSION = "1.0"  # raise it when the drawing or the splits of sets with patients change
MOST = 999_999  # images; more would take over a day to draw


class Recipe(NamedTuple):
    """A generated set, as `--data` names it."""

    images: int
    patients: int = 0  # each with about the same number of slices; 0: every slice is of another patient
    # The faults of the public set: splits share patients, and only test slices show the air around the body.
    leaking: bool = False


class Item(NamedTuple):
    """One slice of a set; see phantom.phantom_slice."""

    file: str
    seed: int
    label: int
    position: int | None = None
    patient: str = ""  # '' in a set without patients


def parse(spec: str) -> Recipe:
    """Reads the name of a generated set.

    Args:
        spec: phantom, phantom:<images>, phantom:<images>:patients=<patients> or the same with ,leaking.

    Raises:
        UserError: it is named otherwise, or there are too few images or patients.

    Example:
        >>> parse("phantom:240:patients=40")
        Recipe(images=240, patients=40, leaking=False)
    """
    _, _, rest = spec.partition(":")
    text, _, words = rest.partition(":")
    images = _whole(text, spec) if ":" in spec else phantom.DEFAULT_IMAGES
    options = words.split(",") if words else []
    leaking = "leaking" in options
    options = [option for option in options if option != "leaking"]
    name, _, value = options.pop(0).partition("=") if options else ("patients", "", "0")
    if options or name != "patients" or rest.endswith(":"):
        raise UserError(f"a generated set is named as in {EXAMPLES}; got {spec!r}")
    recipe = Recipe(images, _whole(value, spec), leaking)
    _check(recipe, spec)
    return recipe


def _whole(text: str, spec: str) -> int:
    """A number of images or patients."""
    if not text.isascii() or not text.isdigit():
        raise UserError(f"a generated set takes a whole number of images or patients, as in {EXAMPLES}; got {spec!r}")
    if len(text) > len(str(MOST)):
        raise UserError(f"{spec} would take over a day to draw; phantom takes up to {MOST} images")
    return int(text)


def _check(recipe: Recipe, spec: str) -> None:
    """Refuses a set in which a split would lack a class, or a patient would have too few slices for three splits."""
    try:
        phantom.split_sizes(recipe.images)
    except ValueError as error:
        raise UserError(f"{spec}: {error}") from error
    if recipe == Recipe(recipe.images):
        return
    if not 12 <= recipe.patients <= recipe.images // 4:
        raise UserError(
            f"{spec} needs 12 patients or more, and four images for each; got {recipe.patients} patients for "
            f"{recipe.images} images, as in {EXAMPLES}"
        )


def fingerprint(recipe: Recipe) -> str:
    """Returns what a set's bytes depend on: its recipe and the version of what is drawn."""
    if not recipe.patients:
        return f"phantom-{recipe.images}-{phantom.VERSION}"
    leaking = "l" if recipe.leaking else "p"
    return f"{leaking}{recipe.images}-{recipe.patients}-{PATIENTS_VERSION}"


def count(recipe: Recipe, split: str) -> int:
    """Returns the number of images in a split."""
    return phantom.split_sizes(recipe.images)[split] if not recipe.patients else sum(1 for _ in items(recipe, split))


def items(recipe: Recipe, split: str) -> Iterator[Item]:
    """Yields the slices of a split.

    Patients take turns in having the classes and about 60, 15 and 25 percent of them are in train, valid and test. In a
    leaking set, 60, 15 and 25 percent of each patient's slices are.

    Args:
        recipe: the set.
        split: train, valid or test.
    """
    if not recipe.patients:
        yield from (Item(*row) for row in phantom.split_items(recipe.images, split))
        return
    sizes = phantom.split_sizes(recipe.patients)
    bounds = {"train": 0, "valid": sizes["train"], "test": sizes["train"] + sizes["valid"]}
    for patient in range(recipe.patients):
        slices = recipe.images // recipe.patients + (patient < recipe.images % recipe.patients)
        inside = bounds[split] <= patient < bounds[split] + sizes[split]
        for position in range(slices):
            if _dealt(patient, position, slices) == split if recipe.leaking else inside:
                label = patient % len(phantom.CLASSES)
                file = f"{split}/{phantom.CLASSES[label]}/p{patient + 1:03d}-{position + 1:02d}.png"
                yield Item(file, patient, label, position, f"p{patient + 1:03d}")


def _dealt(patient: int, position: int, slices: int) -> str:
    """The split of one of a patient's slices where splits share patients: neighbours go to different splits."""
    step = next(step for step in (7, 5, 3, 11, 1) if math.gcd(step, slices) == 1)
    place = (position * step % slices + patient * 0.37 % 1) / slices
    return "train" if place < 0.6 else "valid" if place < 0.75 else "test"
