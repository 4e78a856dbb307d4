"""Zips as other systems write them: one name for one file, and nothing that leads outside."""

import struct
import unicodedata
import zipfile

import pytest

from ctkeras.data import sources
from ctkeras.data.layout import SPLITS
from ctkeras.errors import UserError

NAMES = [f"{split}/{name}/{i}.png" for split in SPLITS for name in ("bénin", "malin") for i in range(2)]


def write(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo("x")
            member.filename = member.orig_filename = name
            archive.writestr(member, name.encode())
    return path


def without_utf8_flag(path):
    """As the Finder writes a zip: names in UTF-8, and no flag that says so."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            flags = struct.unpack_from("<H", content, at + offset)[0]
            struct.pack_into("<H", content, at + offset, flags & ~0x800)
    path.write_bytes(content)
    return path


def decomposed(name):
    return unicodedata.normalize("NFD", name)


FORMS = {
    "backslashes": lambda path: write(path, ["Data\\" + name.replace("/", "\\") for name in NAMES]),
    "UTF-8 without the flag": lambda path: without_utf8_flag(write(path, NAMES)),
    "accents as letters": lambda path: write(path, map(decomposed, NAMES)),
    "accents in both forms": lambda path: write(path, [decomposed(n) if "train" in n else n for n in NAMES]),
    "a split in itself": lambda path: write(path, [f"{name.split('/')[0]}/{name}" for name in NAMES]),
    "a root called test": lambda path: write(path, [f"test/{name}" for name in NAMES]),
    "roots in roots": lambda path: write(path, [f"a/b c/{name}" for name in NAMES]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_zip_is_understood_whoever_wrote_it(tmp_path, form):
    source = sources.open_source(str(FORMS[form](tmp_path / "set.zip")))
    assert source.class_names == ("bénin", "malin")
    assert (source.images, source.left_out) == (12, ())
    assert [entry.split for entry in source.entries].count("train") == 4
    for split in SPLITS:
        assert all(content for _, content in sources.read(source, split))


def test_names_on_disk_may_have_either_form_of_accent(tmp_path):
    for name in NAMES:
        path = tmp_path / "set" / (decomposed(name) if "train" in name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    source = sources.open_source(str(tmp_path / "set"))
    assert source.class_names == ("bénin", "malin")
    assert len(list(sources.read(source, "train"))) == 4


def test_a_link_in_a_zip_is_counted_and_not_followed(tmp_path):
    path = write(tmp_path / "set.zip", NAMES)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("train/malin/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    source = sources.open_source(str(path))
    assert [(row.reason, row.files) for row in source.left_out] == [("links inside a zip", 1)]
    assert source.images == 12


@pytest.mark.parametrize("together", ["commas", "a folder"])
@pytest.mark.parametrize("cut", ["by split", "by number"])
def test_several_zips_are_one_set(tmp_path, together, cut):
    parts = {}
    for name in NAMES:
        if cut == "by split":
            parts.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
        else:
            parts.setdefault(f"part{name[-5]}", []).append(name)
    paths = [write(tmp_path / f"{part}.zip", names) for part, names in parts.items()]
    source = sources.open_source(",".join(map(str, paths)) if together == "commas" else str(tmp_path))
    assert (source.images, source.class_names) == (12, ("bénin", "malin"))
    assert len(list(sources.read(source, "valid"))) == 4


def test_one_of_several_zips_that_is_missing_is_named(tmp_path):
    first = write(tmp_path / "a.zip", NAMES)
    with pytest.raises(UserError, match=r"b\.zip is not a file or folder"):
        sources.open_source(f"{first},{tmp_path / 'b.zip'}")
