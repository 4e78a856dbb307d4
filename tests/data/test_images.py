"""The same gray whatever the file's mode, format or name; damage is told, never shown as pixels."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ctkeras.data import crop
from ctkeras.data.images import EXTENSIONS, as_rgb, decode, decode_gray, read_rgb
from ctkeras.data.threads import in_threads
from ctkeras.errors import UserError

GRAY = np.random.default_rng(0).integers(0, 256, (24, 20), dtype=np.uint8)
GRAY[0, :2] = 0, 255  # the whole range is there


def encoded(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def transparent(mode):
    image = Image.fromarray(GRAY).convert(mode)
    image.putalpha(Image.fromarray(GRAY[::-1].copy()))
    return image


def forms():
    plain = Image.fromarray(GRAY)
    palette, lossless = plain.convert("P"), {"lossless": True}
    deep = GRAY.astype(np.uint16) * 257
    return {
        "L": encoded(plain, "PNG"),
        "RGB": encoded(plain.convert("RGB"), "PNG"),
        "RGBA": encoded(plain.convert("RGBA"), "PNG"),
        "RGBA see-through": encoded(transparent("RGB"), "PNG"),
        "LA see-through": encoded(transparent("L"), "PNG"),
        "L with a transparent gray": encoded(plain, "PNG", transparency=5),
        "P": encoded(palette, "PNG"),
        "P with one transparent colour": encoded(palette, "PNG", transparency=5),
        "P with an alpha each": encoded(palette, "PNG", transparency=bytes(range(256))),
        "16 bits PNG": encoded(Image.fromarray(deep), "PNG"),
        "16 bits TIFF": encoded(Image.fromarray(deep), "TIFF"),
        "32 bits": encoded(Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF"),
        "float": encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"),
        "BMP": encoded(plain, "BMP"),
        "GIF": encoded(plain, "GIF"),
        "TIFF LZW": encoded(plain, "TIFF", compression="tiff_lzw"),
        "WebP": encoded(plain.convert("RGB"), "WEBP", **lossless),
        "WebP see-through": encoded(transparent("RGB"), "WEBP", exact=True, **lossless),
    }


FORMS = forms()


@pytest.mark.parametrize("form", FORMS)
def test_every_mode_gives_the_same_gray(form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those, the test below
        gray = decode_gray(FORMS[form], name=form)
    assert gray.dtype == np.uint8
    np.testing.assert_array_equal(gray, GRAY)


@pytest.mark.parametrize("form", FORMS)
def test_the_header_is_what_the_file_says(form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gray, header = decode(FORMS[form], name=form)
        with Image.open(io.BytesIO(FORMS[form])) as image:  # not yet read
            assert header == (image.format, image.mode, image.width, image.height)
    np.testing.assert_array_equal(gray, GRAY)


def test_one_bit_is_black_and_white():
    bits = GRAY > 127
    gray = decode_gray(encoded(Image.fromarray(bits), "PNG"), name="bits")
    np.testing.assert_array_equal(gray, np.where(bits, 255, 0))


def test_colour_becomes_luma():
    red, green, blue = (
        decode_gray(encoded(Image.new("RGB", (2, 2), c), "PNG"), name=c) for c in ("red", "lime", "blue")
    )
    assert blue.max() < red.min() < green.min()  # BT.601


def test_a_16_bit_gray_does_not_depend_on_the_brightest_pixel():
    # By the range of its bits, here 12: a dark slice stays dark, whether or not something in it is bright.
    dark = GRAY.astype(np.uint16)
    dark_alone = decode_gray(encoded(Image.fromarray(dark), "PNG"), name="dark")
    dark[0, 0] = 4095
    beside_bright = decode_gray(encoded(Image.fromarray(dark), "PNG"), name="bright")
    np.testing.assert_array_equal(dark_alone[1:], beside_bright[1:])


def test_values_that_are_no_numbers_or_out_of_range_are_clipped():
    values = np.array([[np.nan, np.inf, -np.inf], [-5, 0, 65535]], np.float32)
    gray = decode_gray(encoded(Image.fromarray(values), "TIFF"), name="float")
    np.testing.assert_array_equal(gray, [[0, 255, 0], [0, 0, 255]])


@pytest.mark.parametrize("ending", [*EXTENSIONS, ".PNG", ""])
def test_the_ending_of_the_name_does_not_matter(tmp_path, ending):
    pixels = []
    for form in ("L", "BMP"):
        path = tmp_path / f"slice{ending}"
        path.write_bytes(FORMS[form])
        pixels.append(read_rgb(path, 16, crop.WHOLE))
    np.testing.assert_array_equal(*pixels)


def outcome(content, *, name):
    """The pixels, or the message that refuses them."""
    try:
        return decode_gray(content, name=name)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_named_or_whole_but_never_other_pixels(form):
    content = encoded(Image.fromarray(GRAY).convert("RGB" if form == "WEBP" else "L"), form)
    whole = decode_gray(content, name="whole")
    refused = 0
    for length in range(0, len(content), 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = outcome(content[:length], name="scan 7.png")
        if isinstance(found, str):
            refused += 1
            assert "scan 7.png" in found
            assert "\n" not in found
        else:
            np.testing.assert_array_equal(found, whole)
    assert refused > 0.9 * len(range(0, len(content), 7))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\0" * 1000,
        b"<svg/>",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.4",
        b"P5 3 3 255\n1",
        b"\xff\xd8\xff",
    ],
)
def test_garbage_is_named(content):
    with pytest.raises(UserError, match=r"scan 7\.png"):
        decode_gray(content, name="scan 7.png")


def header_of(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# At 64 million pixels we refuse, at 89 Pillow warns, at 179 it raises.
@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (30_000, 30_000), (64_000_001, 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_unread(width, height):
    with pytest.raises(UserError, match=r"bomb\.png .*pixels"):
        decode_gray(header_of(width, height), name="bomb.png")


def test_an_image_of_the_largest_size_is_read():
    with pytest.raises(UserError, match="damaged image"):  # not for its size: this one has no pixels
        decode_gray(header_of(8000, 8000), name="large.png")


@pytest.mark.parametrize(("brightest", "gray"), [(255, 255), (256, 16), (4096, 16), (65535, 255)])
def test_a_float_image_beyond_255_has_the_range_of_12_or_16_bits(brightest, gray):
    pixels = np.full((2, 2), brightest, np.float32)
    assert set(decode_gray(encoded(Image.fromarray(pixels), "TIFF"), name="float").ravel()) == {gray}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(header_of(10_000, 10_000), id="large"),
        pytest.param(FORMS["P with an alpha each"], id="palette with alpha"),
        pytest.param(FORMS["TIFF LZW"][:300], id="truncated TIFF"),
    ],
)
def test_pillow_warns_nobody(content):
    # A warning is two lines of a library's source on the user's terminal, beside our one.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome(content, name="scan")
    assert [str(warning.message) for warning in caught] == []


def test_resizing_to_the_same_size_changes_nothing():
    square = GRAY[:20, :20]
    np.testing.assert_array_equal(crop.prepare(square, 20, crop.WHOLE), square)


@pytest.mark.parametrize("size", [8, 20, 33])
@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_a_constant_image_stays_constant(size, value):
    resized = crop.prepare(np.full((24, 20), value, np.uint8), size, crop.WHOLE)
    assert resized.shape == (size, size)
    assert resized.dtype == np.uint8
    assert set(resized.ravel()) == {value}


@pytest.mark.parametrize("size", [8, 20, 33])
def test_resizing_invents_no_gray_and_keeps_the_mean(size):
    source = GRAY // 4 + 60
    resized = crop.prepare(source, size, crop.WHOLE)
    assert source.min() <= resized.min() <= resized.max() <= source.max()
    assert abs(float(resized.mean()) - float(source.mean())) < 2  # gray levels


def test_resizing_down_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert (
        np.ptp(crop.prepare(stripes, 16, crop.WHOLE)[:, 2:-2]) <= 2
    )  # gray levels; without a filter the stripes would beat


def test_rgb_is_gray_three_times(tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(FORMS["RGBA see-through"])
    pixels = read_rgb(path, 16, crop.WHOLE)
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], crop.prepare(GRAY, 16, crop.WHOLE))
    batch = np.stack([GRAY, GRAY[::-1]])
    np.testing.assert_array_equal(as_rgb(batch)[1], as_rgb(GRAY[::-1]))


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_an_unreadable_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match="cannot read") as caught:
        read_rgb(tmp_path / name, 16, crop.WHOLE)
    assert str(tmp_path / name) in str(caught.value)


# Threads


def test_results_come_in_the_order_of_the_items():
    rng = np.random.default_rng(0)
    waits = rng.uniform(0, 0.01, 60)

    def work(i):
        time.sleep(waits[i])
        return i

    assert list(in_threads(work, range(60))) == list(range(60))
    assert list(in_threads(work, [])) == []


def test_items_are_taken_as_they_are_worked_on():
    taken = []
    results = in_threads(lambda i: i, (taken.append(i) or i for i in range(10_000)))
    assert next(results) == 0
    assert len(taken) < 1000
    results.close()
    assert len(taken) < 1000


@pytest.mark.parametrize("which", [0, 7, 59])
def test_a_failure_comes_out_in_its_place_and_ends_the_work(which):
    def work(i):
        if i == which:
            raise UserError(f"number {i}")
        return i

    got = []
    with pytest.raises(UserError, match=f"number {which}"):
        got.extend(in_threads(work, range(60)))
    assert got == list(range(which))


def test_threads_leave_warnings_as_they_were():
    contents = [FORMS["P with an alpha each"], FORMS["TIFF LZW"], header_of(10_000, 10_000), FORMS["L"]] * 30
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(in_threads(lambda content: outcome(content, name="scan"), contents))
        assert caught == []
        warnings.warn("mine", UserWarning, stacklevel=1)
        assert [str(warning.message) for warning in caught] == ["mine"]


def test_files_are_decoded_from_python_as_training_does(tmp_path):
    """Orientation is applied: a mirrored chest is a finding."""
    import ctkeras

    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[274] = 2  # mirrored
    content = encoded(Image.fromarray(picture), "PNG", exif=exif)
    assert (ctkeras.images.decode_gray(content, name="x.png") == picture[:, ::-1]).all()
