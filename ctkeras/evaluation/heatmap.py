"""Pictures of heat maps: a palette, an image under its heat, and both side by side with a legend. Pillow only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# From black through violet and orange to pale yellow. Lightness grows evenly, so the order is visible in gray and with
# colour blindness: the CIE L* of the anchors is about 0, 18, 36, 54, 72, 90.
_ANCHORS = np.array([(0, 0, 0), (62, 22, 96), (140, 34, 112), (214, 72, 80), (242, 150, 62), (252, 230, 150)], float)
_OPACITY = 0.7  # of the maximum heat; anatomy stays visible under it
SIDE = 384  # px; longer side of an image in a picture, large enough to see a lesion
_MARGIN, _BAR = 16, 18  # px
_INK, _PAPER = (25, 25, 30), (255, 255, 255)


def colours(values: np.ndarray) -> np.ndarray:
    """The palette colours of values: float [...] in 0..1 to uint8 [..., 3]."""
    places = np.linspace(0, 1, len(_ANCHORS))
    channels = [np.interp(values, places, channel) for channel in _ANCHORS.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def fitted(gray: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Resizes an image to `side` pixels on its longer side, with its aspect ratio: uint8 [H, W] to uint8 [h, w]."""
    from PIL import Image

    height, width = gray.shape
    size = max(1, round(width * side / max(gray.shape))), max(1, round(height * side / max(gray.shape)))
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR))


def stretched(heat: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates a heat map bilinearly to the shape of an image: float [h, w] to float32 [H, W]."""
    from PIL import Image

    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def overlay(gray: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draws heat over an image: colour and opacity grow with the heat; without heat the image is unchanged.

    Args:
        gray: uint8 [H, W].
        heat: float [h, w], not negative; stretched to the shape of the image and scaled by its maximum.

    Returns:
        uint8 [H, W, 3].
    """
    top = float(heat.max())
    level = np.clip(stretched(heat / top if top > 0 else heat, gray.shape), 0, 1)
    share = _OPACITY * level[..., None]
    return np.rint((1 - share) * gray[..., None] + share * colours(level)).astype(np.uint8)


def side_by_side(
    gray: np.ndarray, heat: np.ndarray, *, title: str, under_image: str, under_heat: str, foot: str
) -> "Image.Image":
    """Draws an image, the image under its heat, and a colour bar, with text around them.

    Args:
        gray: uint8 [H, W], drawn at this size.
        heat: float [h, w], as for `overlay`.
        title: line above both.
        under_image: line below the image.
        under_heat: line below the heat.
        foot: line at the bottom.

    Returns:
        An RGB PIL.Image.
    """
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(size=18), ImageFont.load_default(size=13)  # px
    height, width = gray.shape
    panel = max(width, SIDE * 2 // 3)  # px; a narrow image still leaves room for text
    left, top = (_MARGIN, 2 * _MARGIN + panel), 2 * _MARGIN + 22  # px; x of both panels, y of both
    bar = left[1] + panel + _MARGIN
    canvas = Image.new("RGB", (bar + _BAR + 56, top + height + 74), _PAPER)
    draw = ImageDraw.Draw(canvas)
    canvas.paste(Image.fromarray(gray), (left[0], top))
    canvas.paste(Image.fromarray(overlay(gray, heat)), (left[1], top))
    ramp = colours(np.linspace(1, 0, height)[:, None].repeat(_BAR, 1))
    canvas.paste(Image.fromarray(ramp), (bar, top))
    draw.rectangle((bar - 1, top - 1, bar + _BAR, top + height), outline=_INK)
    for text, y in (("most", top), ("none", top + height - 16)):
        draw.text((bar + _BAR + 6, y), text, _INK, small)
    lines = (
        (title, left[0], _MARGIN, canvas.width - 2 * _MARGIN, large),
        (under_image, left[0], top + height + 8, panel, small),
        (under_heat, left[1], top + height + 8, panel, small),
        (foot, left[0], top + height + 40, canvas.width - 2 * _MARGIN, small),
    )
    for text, x, y, room, font in lines:
        draw.text((x, y), _shortened(text, room, font), _INK, font)
    return canvas


def _shortened(text: str, room: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """A text on one line; its middle is replaced by … if it is wider than `room` pixels."""
    text = " ".join(text.split())
    length, line = len(text), text
    while font.getlength(line) > room and length > 2:
        length -= 1
        line = f"{text[: length - length // 2]}…{text[len(text) - length // 2 :]}"
    return line
