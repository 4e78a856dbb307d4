"""Images of more than 8 bits: one scale for a whole data set, nothing clipped; and every page of a file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ctkeras.data import deep, images, sources
from ctkeras.data.crop import WHOLE
from ctkeras.data.decoded import load_split
from ctkeras.data.deep import Range
from ctkeras.errors import UserError

GRAY = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
GRAY[0, :2] = 0, 255


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))


def encoded(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def png_16(array):
    """A PNG of 16 bits, which Pillow reads but does not write; array uint16 [H, W, 2] with alpha, or [H, W, 3]."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[array.shape[2]], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("ranges", "span"),
    [
        ([], ""),
        ([Range(0, 200, "int"), Range(0, 4095, "int")], "0/4095"),
        ([Range(0, 255, "int")], "0/255"),
        ([Range(3, 5000, "int")], "0/8191"),
        ([Range(0, 70_000, "int")], "0/70000"),
        ([Range(-1024, 3071, "int"), Range(-40, 60, "int")], "HU"),
        ([Range(0.1, 0.4, "float"), Range(0, 1, "float")], "0/1"),
        ([Range(-0.9, 1, "float")], "-1/1"),
        ([Range(-20, 900, "int")], "-20/1023"),
    ],
)
def test_a_span_holds_every_value_of_the_set(ranges, span):
    assert deep.span_of(ranges) == span


def write_set(root, pictures, encode, ending):
    """Two dark images and a bright one per class and split."""
    for split in ("train", "valid", "test"):
        for name in "ab":
            for i, picture in enumerate(pictures):
                path = root / split / name / f"{i}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode(np.roll(picture, ord(name) + len(split), 1)))
    return sources.open_source(str(root))


DEEP = {
    "12 bits": (lambda a: encoded(Image.fromarray(a.astype(np.uint16) * 16), "PNG"), "png", "12 bits: 0 to 4095"),
    "16 bits": (lambda a: encoded(Image.fromarray(a.astype(np.uint16) * 257), "PNG"), "png", "16 bits: 0 to 65535"),
    "floats": (lambda a: encoded(Image.fromarray((a / 255).astype(np.float32)), "TIFF"), "tif", "numbers: 0 to 1"),
    "colour": (lambda a: png_16(np.repeat(a[..., None].astype(np.uint16) * 16, 3, -1)), "png", "12 bits: 0 to 4095"),
    "alpha": (lambda a: png_16(np.stack([a.astype(np.uint16) * 16, a * 0 + 9], -1)), "png", "12 bits: 0 to 4095"),
    "numpy": (lambda a: npy(a.astype(np.int16) * 16), "npy", "12 bits: 0 to 4095"),
    "JPEG 2000": (
        lambda a: encoded(Image.fromarray(a.astype(np.uint16) * 257), "JPEG2000"),
        "jp2",
        "16 bits: 0 to 65535",
    ),
}


def test_jpeg_2000_in_colour_of_more_than_8_bits_is_refused_and_of_8_bits_read():
    content = bytearray(encoded(Image.fromarray(np.repeat(GRAY[..., None], 3, -1)), "JPEG2000"))
    assert (images.pixels(bytes(content), name="x")[0] == GRAY).all()
    depths = content.find(b"\xff\x4f\xff\x51") + 42  # of three channels, three bytes each
    for channel in range(3):
        content[depths + 3 * channel] = 15
    with pytest.raises(UserError, match="more than 8 bits"):
        images.pixels(bytes(content), name="x")


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("form", DEEP)
def test_a_dark_image_is_as_dark_as_its_set_makes_it(tmp_path, form):
    encode, ending, words = DEEP[form]
    pictures = [GRAY // 16, GRAY]  # the first alone looks like one of 8 bits
    source = write_set(tmp_path / "set", pictures, encode, ending)
    assert any(words in note for note in source.notes)
    read = load_split(source, "train", 24, WHOLE)
    dark = read.images[read.files.index(f"train/a/0.{ending}")]
    bright = read.images[read.files.index(f"train/a/1.{ending}")]
    assert abs(int(dark.max()) - 15) <= 1
    assert bright.max() >= 240


def test_values_below_air_are_hounsfield_units_in_every_file(tmp_path):
    source = write_set(
        tmp_path / "set",
        [GRAY, GRAY // 8],
        lambda a: encoded(Image.fromarray(a.astype(np.int32) * 6 - (1000 if a.max() > 99 else 0)), "TIFF"),
        "tif",
    )
    assert source.span == "HU"
    read = load_split(source, "train", 24, WHOLE)  # of 0 to 186 HU in the lung window
    soft = read.images[read.files.index("train/a/1.tif")]
    assert soft.min() >= 225


def test_few_values_that_stand_out_decide_no_scale(tmp_path):
    large = np.zeros((80, 60), np.uint16)
    large[::2] = 200 * 16
    large[0, 0] = 65535
    source = write_set(tmp_path / "set", [large], lambda a: encoded(Image.fromarray(a), "PNG"), "png")
    assert source.span == "0/4095"
    assert "a few pixels above, up to 65535, became white" in source.notes[0]
    assert abs(int(np.median(load_split(source, "train", 24, WHOLE).images[0])) - 100) < 60
    for count, span in ((4, "0/1023"), (5, "0/65535")):  # of 4,800 values
        assert deep.span_of([deep.range_of(np.where(np.arange(4800) < count, 60_000, 900))]) == span


def test_the_second_picture_of_a_jpeg_is_counted(tmp_path):
    exif = Image.Exif()
    exif[271] = "maker " * 1500  # before the index of pictures, which is then beyond the file's first bytes
    second = Image.fromarray(GRAY[::-1])
    content = encoded(Image.fromarray(GRAY), "MPO", save_all=True, append_images=[second], exif=exif)
    source = write_set(tmp_path / "set", [GRAY], lambda a: content, "jpg")
    assert [(row.files, row.reason[:16]) for row in source.left_out] == [(6, "further pictures")]
    assert source.images == 6


def test_pages_are_slices_that_stay_together(tmp_path):
    pages = [Image.fromarray(np.roll(GRAY, k, 0)) for k in range(4)]
    other = Image.fromarray(GRAY[:8, :8])
    for split in ("train", "valid", "test"):
        for name in "ab":
            path = tmp_path / "set" / split / name / "volume.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pages[0].save(path, save_all=True, append_images=[*pages[1:], other])
    source = sources.open_source(str(tmp_path / "set"))
    assert source.images == 24
    assert {(row.reason, row.files) for row in source.left_out} == {
        ("further pictures of a file that are not slices (of another size, or of a JPEG)", 6)
    }
    patients = {}
    for entry in source.entries:
        patients.setdefault(entry.path, set()).add(entry.patient)
    assert all(len(own) == 1 for own in patients.values())
    assert len(set.union(*patients.values())) == 6
    read = load_split(source, "train", 24, WHOLE)
    assert len({picture.tobytes() for picture in read.images[:4]}) == 4


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animations_have_pages_too(form):
    frames = [Image.fromarray(np.roll(GRAY, k, 0)) for k in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert images.frames(content, name="x") == 3
    last = images.decode_gray(content, name="x", frame=2)
    assert np.abs(last.astype(int) - np.roll(GRAY, 2, 0)).max() <= 3


def test_only_the_decoders_that_are_meant_ever_run(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    content = encoded(Image.fromarray(GRAY).convert("RGB"), "EPS")
    with pytest.raises(UserError, match=r"x\.png is not in an image format that is read"):
        images.decode_gray(content, name="x.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (npy(np.array([{}], object)), "damaged .npy file"),
        (npy(np.zeros((2, 3, 4, 5))), "holds float64 of shape"),
    ],
)
def test_what_holds_no_image_is_named(content, words):
    with pytest.raises(UserError, match=words) as caught:
        images.decode_gray(content, name="x.png")
    assert "\n" not in str(caught.value)
