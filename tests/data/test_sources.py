"""What a zip or folder is taken for, and every fault of one told before an image is read."""

import io
import os
import random
import shutil
import zipfile
from collections import Counter

import pytest

from ctkeras.data import layout, located, sources
from ctkeras.data.phantom import DEFAULT_IMAGES
from ctkeras.errors import UserError

# No image is decoded here, so any bytes will do.
TREE = {
    f"{split}/{name}/{i}.png": f"{split} {name} {i}".encode()
    for split, count in (("train", 3), ("valid", 2), ("test", 1))
    for name in ("benign", "malignant")
    for i in range(count)
}


def write_folder(root, tree):
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path, tree, *, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in tree.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path


def either(tmp_path, form, tree):
    return str(write_folder(tmp_path / "set", tree) if form == "folder" else write_zip(tmp_path / "set.zip", tree))


def outcome(path):
    """The names of the files found, or the message that refuses the set."""
    try:
        return [entry.file for entry in sources.open_source(str(path)).entries]
    except UserError as error:
        return str(error)


def contents(source):
    return {entry.file: content for split in layout.SPLITS for entry, content in sources.read(source, split)}


both = pytest.mark.parametrize("form", ["folder", "zip"])


@both
def test_entries_are_read_back_whole(tmp_path, form):
    source = sources.open_source(either(tmp_path, form, TREE))
    assert source.class_names == ("benign", "malignant")
    assert (source.kind, source.images) == ("folder", len(TREE))
    assert contents(source) == TREE
    for entry, content in sources.read(source, "valid"):
        assert entry.file.split("/")[:2] == ["valid", entry.class_name]
        assert (entry.split, entry.size) == ("valid", len(content))


def test_a_folder_and_its_zips_have_one_fingerprint(tmp_path):
    folder = write_folder(tmp_path / "set", TREE)
    shuffled = list(TREE.items())
    random.Random(0).shuffle(shuffled)
    stored = write_zip(tmp_path / "stored.zip", dict(shuffled), method=zipfile.ZIP_STORED)
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    paths = (folder, moved, write_zip(tmp_path / "deflated.zip", TREE), stored)
    assert len({sources.open_source(str(path)).fingerprint for path in paths}) == 1
    assert len({sources.open_source(str(path)).entries for path in paths}) == 1


def test_names_that_sort_differently_by_part_and_by_letter_keep_one_fingerprint(tmp_path):
    # As paths, grade/ comes before "grade 2"/; as text, a blank comes before the slash.
    tree = {name.replace("benign", "grade").replace("malignant", "grade 2"): data for name, data in TREE.items()}
    folder, packed = write_folder(tmp_path / "set", tree), write_zip(tmp_path / "set.zip", tree)
    assert sources.open_source(str(folder)).fingerprint == sources.open_source(str(packed)).fingerprint


@both
@pytest.mark.parametrize("change", ["byte", "name", "class", "split", "more", "less"])
def test_any_change_of_the_images_changes_the_fingerprint(tmp_path, form, change):
    tree = {**TREE, "train/benign/extra.png": b"extra"}
    changed = dict(tree)
    if change == "byte":
        changed["train/benign/extra.png"] = b"extrb"  # of the same size
    elif change == "more":
        changed["train/benign/extra2.png"] = b"extra"
    else:
        content = changed.pop("train/benign/extra.png")
        other = {
            "name": "train/benign/other.png",
            "class": "train/malignant/extra.png",
            "split": "test/benign/extra.png",
        }
        changed |= {other[change]: content} if change in other else {}
    prints = []
    for name, content in (("a", tree), ("b", changed)):
        (tmp_path / name).mkdir()
        prints.append(sources.open_source(either(tmp_path / name, form, content)).fingerprint)
    assert prints[0] != prints[1]


def test_a_changed_byte_is_seen_even_when_size_and_date_are_kept(tmp_path):
    folder = write_folder(tmp_path, TREE)
    before = sources.open_source(str(folder)).fingerprint
    path = folder / "test/benign/0.png"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sources.open_source(str(folder)).fingerprint != before


@both
@pytest.mark.parametrize("root", ["Data", "a/b c/Data"])
def test_a_root_inside_is_found(tmp_path, form, root):
    source = sources.open_source(either(tmp_path, form, {f"{root}/{name}": data for name, data in TREE.items()}))
    assert Counter((e.split, e.class_name) for e in source.entries) == Counter(
        tuple(name.split("/")[:2]) for name in TREE
    )
    assert contents(source) == {f"{root}/{name}": data for name, data in TREE.items()}


@both
def test_what_systems_drop_and_what_is_no_image_is_left_out(tmp_path, form):
    droppings = {
        "__MACOSX/train/benign/._0.png": b"x",
        "__MACOSX/Data/train/benign/0.png": b"x",
        "train/benign/._0.png": b"x",
        "train/.hidden/0.png": b"x",
        ".git/train/benign/0.png": b"x",
        "train/.DS_Store": b"x",
        "train/benign/Thumbs.db": b"x",
        "train/benign/notes.txt": b"x",
        "train/benign/png": b"x",
        "train/0.png": b"x",
        "0.png": b"x",
        "README.md": b"x",
    }
    clean = sources.open_source(str(write_folder(tmp_path / "clean", TREE)))
    source = sources.open_source(either(tmp_path, form, TREE | droppings))
    assert source.entries == clean.entries
    assert source.fingerprint == clean.fingerprint


def test_the_public_sets_folder_names_become_four_classes(tmp_path):
    long = (
        "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib",
        "large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa",
        "normal",
        "squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa",
    )
    short = ("adenocarcinoma", "large.cell.carcinoma", "normal", "squamous.cell.carcinoma")
    names = {"train": long, "valid": long, "test": short}
    tree = {f"Data/{split}/{folder}/1.png": folder.encode() for split in names for folder in names[split]}
    source = sources.open_source(str(write_zip(tmp_path / "set.zip", tree)))
    assert source.kind == "chest_ct"
    assert source.class_names == ("adenocarcinoma", "large_cell", "normal", "squamous_cell")
    for entry in source.entries:
        assert tree[entry.file].decode().replace(".", "_").startswith(entry.class_name)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Squamous Cell", "Squamous Cell"),
        ("NORMAL", "NORMAL"),
        ("normal_variant", "normal_variant"),
        ("abnormal", "abnormal"),
        ("small.cell.carcinoma", "small.cell.carcinoma"),
        ("Größe 3", "Größe 3"),
        ("a, b", "a, b"),
    ],
)
def test_own_class_names_are_kept(tmp_path, folder, name):
    tree = {f"{split}/{each}/1.png": b"x" for split in layout.SPLITS for each in (folder, "zz")}
    assert set(sources.open_source(str(write_folder(tmp_path, tree))).class_names) == {name, "zz"}


@both
def test_two_folders_of_one_split_are_two_classes(tmp_path, form):
    names = ("adenocarcinoma_in_situ", "adenocarcinoma_invasive", "normal")
    tree = {f"{split}/{name}/1.png": b"x" for split in layout.SPLITS for name in names}
    assert len(sources.open_source(either(tmp_path, form, tree)).class_names) == len(names)


@both
@pytest.mark.parametrize("names", [("Training", "Val", "TESTING"), ("train", "validation", "test")])
def test_splits_go_by_their_usual_names(tmp_path, form, names):
    usual = dict(zip(layout.SPLITS, names, strict=True))
    tree = {f"{usual[name.split('/')[0]]}/{name.partition('/')[2]}": data for name, data in TREE.items()}
    source = sources.open_source(either(tmp_path, form, tree))
    assert Counter(entry.split for entry in source.entries) == {"train": 6, "valid": 4, "test": 2}


def without(*beginnings):
    return {name: data for name, data in TREE.items() if not name.startswith(beginnings)}


FAULTY = {
    "no train": (without("train/"), "no images in train/"),
    "an empty class": (without("test/benign/"), "'benign' is empty in test/"),
    "a class of valid alone": (
        TREE | {"valid/other/1.png": b"x"},
        "valid/ has the class 'other', which train/ does not",
    ),
    "a class of test alone": (TREE | {"test/other/1.png": b"x"}, "test/ has the class 'other', which train/ does not"),
    "one class": (without(*(f"{split}/benign" for split in layout.SPLITS)), "one class, 'malignant'"),
    "two roots": ({f"{root}/{name}": b"x" for root in "ab" for name in TREE}, "more than one data set, in a, b;"),
    "a root in a root": (TREE | {f"copy/{name}": b"x" for name in TREE}, "more than one data set, in ., copy;"),
    "nothing": ({}, "contains no images in the layout"),
    "no layout": ({"a.png": b"x", "b/c.png": b"x", "train/d.png": b"x"}, "contains no images in the layout"),
    "no images": ({f"{name}.txt": data for name, data in TREE.items()}, "contains no images in the layout"),
}


@both
@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_layout_is_told(tmp_path, form, fault):
    tree, message = FAULTY[fault]
    path = tmp_path / ("set.zip" if form == "zip" else "set")
    if form == "folder":
        path.mkdir()
    with pytest.raises(UserError) as caught:
        sources.open_source(either(tmp_path, form, tree))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../out.png", "train/benign/../../../out.png", "/etc/out.png", "C:\\x\\out.png", "..\\out.png"]
)
def test_a_zip_that_climbs_out_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "set.zip", TREE | {name: b"x"})
    with pytest.raises(UserError, match="points outside its folder") as caught:
        sources.open_source(str(path))
    assert repr(name) in str(caught.value)


def patched(path, signature, offset, value, *, which=0):
    """Overwrites one byte of the zip's `which`-th record that starts with `signature`."""
    content = bytearray(path.read_bytes())
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    content[at + offset] = value
    path.write_bytes(content)
    return str(path)


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def test_an_encrypted_zip_is_refused(tmp_path):
    path = patched(write_zip(tmp_path / "set.zip", TREE), CENTRAL, 8, 1)  # bit 0 of the flags
    with pytest.raises(UserError, match="is encrypted; unpack the zip"):
        sources.open_source(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06", b"\x1f\x8b\x08" + bytes(40)])
def test_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"set\.zip is not a zip file"):
        sources.open_source(str(path))


def test_a_truncated_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "set.zip", TREE)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"set\.zip is not a zip file"):
        sources.open_source(str(path))


def test_a_member_without_a_name_is_no_crash(tmp_path):
    path = patched(write_zip(tmp_path / "set.zip", TREE), CENTRAL, 46, 0)  # a name ends at its first zero
    found = outcome(path)
    assert "set.zip" in found if isinstance(found, str) else len(found) == len(TREE) - 1


def test_a_name_held_twice_does_not_count_twice(tmp_path):
    path = write_zip(tmp_path / "set.zip", TREE)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train/benign/0.png", b"again")
    found = outcome(path)  # refusing it by name is as good
    assert "train/benign/0.png" in found if isinstance(found, str) else len(found) == len(set(found))


@both
def test_a_file_beyond_any_slices_size_is_refused_unread(tmp_path, form, monkeypatch):
    monkeypatch.setattr(located, "MAX_FILE_BYTES", 2**20)
    path = either(tmp_path, form, TREE | {"train/benign/bomb.png": bytes(2**20 + 1)})
    limit = {"folder": "is larger than 1 MB", "zip": "unpacks to more than 1 MB"}[form]
    with pytest.raises(UserError, match=rf"bomb\.png.* {limit}"):
        sources.open_source(path)


@both
def test_a_file_as_large_as_allowed_is_read(tmp_path, form, monkeypatch):
    assert located.MAX_FILE_BYTES == 256 * 1024 * 1024
    monkeypatch.setattr(located, "MAX_FILE_BYTES", 2**20)
    path = either(tmp_path, form, TREE | {"train/benign/large.png": bytes(2**20)})
    assert sources.open_source(path).images == len(TREE) + 1


@pytest.mark.parametrize(
    ("signature", "offset", "value"),
    [
        pytest.param(LOCAL, 38, 0x55, id="a byte of the data"),
        pytest.param(CENTRAL, 16, 0x55, id="the checksum"),
        pytest.param(CENTRAL, 10, 99, id="an unknown compression"),
        pytest.param(CENTRAL, 10, 12, id="another compression"),
        pytest.param(LOCAL, 0, 0x51, id="the local signature"),
        pytest.param(LOCAL, 30, ord("x"), id="the local name"),
        pytest.param(LOCAL, 7, 8, id="the local name's encoding"),
    ],
)
def test_a_damaged_member_is_named(tmp_path, signature, offset, value):
    path = write_zip(tmp_path / "set.zip", TREE)
    if offset == 7:  # claims UTF-8, and is none
        patched(path, signature, 30, 0xC0)
    source = sources.open_source(patched(path, signature, offset, value))
    with pytest.raises(UserError, match=r"train/benign/0\.png in .*set\.zip is damaged"):
        list(sources.read(source, "train"))


def test_a_zip_with_flipped_bytes_is_read_or_refused(tmp_path):
    path = write_zip(tmp_path / "set.zip", TREE)
    good, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(good)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            contents(sources.open_source(str(path)))
        except UserError:
            refused += 1
    assert refused > 100


def test_a_file_that_goes_before_it_is_read_is_named(tmp_path):
    source = sources.open_source(str(write_folder(tmp_path, TREE)))
    (tmp_path / "valid/benign/1.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*valid/benign/1\.png"):
        list(sources.read(source, "valid"))
    assert len(list(sources.read(source, "train"))) == 6


@both
def test_what_can_not_be_read_is_told_in_its_place_and_the_rest_is_read(tmp_path, form):
    place = either(tmp_path, form, TREE)
    source = sources.open_source(place)
    if form == "zip":
        patched(tmp_path / "set.zip", LOCAL, 38, 0x55)  # the first member's data
    else:
        (tmp_path / "set/train/benign/0.png").unlink()
    found = {entry.file: content for entry, content in sources.contents(source, "train")}
    assert isinstance(found["train/benign/0.png"], UserError)
    assert {name: content for name, content in found.items() if isinstance(content, bytes)} == {
        name: content for name, content in TREE.items() if name.startswith("train/") and name != "train/benign/0.png"
    }


@both
def test_only_the_files_wanted_are_read(tmp_path, form):
    source = sources.open_source(either(tmp_path, form, TREE))
    wanted = {"train/malignant/2.png", "valid/benign/0.png"}
    assert [entry.file for entry, _ in sources.contents(source, "train", only=wanted)] == ["train/malignant/2.png"]


def test_generated_images_are_read_like_files():
    source = sources.open_source("phantom:12")
    found = {entry.file: (entry, content) for split in layout.SPLITS for entry, content in sources.read(source, split)}
    assert len(found) == 12
    for file, (entry, content) in found.items():
        assert file.split("/")[:2] == [entry.split, entry.class_name]
        assert len(content) == entry.size
        assert content.startswith(b"\x89PNG")
    one = next(iter(found))
    ((_, again),) = sources.contents(source, one.split("/")[0], only={one})
    assert again == found[one][1]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = write_folder(tmp_path, TREE) / "valid/benign/1.png"
    path.chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*valid/benign/1\.png"):
        sources.open_source(str(tmp_path))


def test_linked_images_and_classes_are_found(tmp_path):
    folder = write_folder(tmp_path / "set", TREE)
    before = sources.open_source(str(folder)).fingerprint
    (folder / "train/benign/0.png").rename(tmp_path / "kept.png")
    (folder / "train/benign/0.png").symlink_to(tmp_path / "kept.png")
    assert sources.open_source(str(folder)).fingerprint == before
    (folder / "train/malignant").rename(tmp_path / "kept")
    (folder / "train/malignant").symlink_to(tmp_path / "kept", target_is_directory=True)
    assert sources.open_source(str(folder)).fingerprint == before


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    folder = write_folder(tmp_path / "set", TREE)
    before = sources.open_source(str(folder)).fingerprint
    (folder / "again").symlink_to(folder, target_is_directory=True)  # two such links would be walked 2^40 times
    assert sources.open_source(str(folder)).fingerprint == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no data given"),
        ("no/such/place", "no/such/place is not a file or folder"),
        ("phantoms", "phantoms is not a file or folder"),
        ("phantom:", "takes a whole number"),
        ("phantom:x", "takes a whole number of images or patients, as in phantom:240"),
        ("phantom:-5", "takes a whole number"),
        ("phantom:1.5", "takes a whole number"),
        ("phantom:²", "takes a whole number"),
        ("phantom:3", "phantom:3: a phantom set needs at least"),
        ("phantom:" + "9" * 5000, "phantom:9"),
        pytest.param("x" * 300, "x" * 300, id="a name too long for a file"),
        ("a\0b", "is not a file or folder"),
    ],
)
def test_a_bad_spec_is_told(spec, message):
    with pytest.raises(UserError) as caught:
        sources.open_source(spec)
    assert message in str(caught.value)


def test_phantoms_are_known_by_their_number():
    small, again, large = (sources.open_source(spec) for spec in ("phantom:12", "phantom:012", "phantom:16"))
    assert small.fingerprint == again.fingerprint != large.fingerprint
    assert (small.images, large.images) == (12, 16)
    assert sources.open_source("phantom").images == DEFAULT_IMAGES
    assert small.class_names == ("adenocarcinoma", "large_cell", "normal", "squamous_cell")


@pytest.fixture
def keyless(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_kaggle_without_a_key_says_where_to_put_one(keyless):
    pytest.importorskip("kagglehub")
    with pytest.raises(UserError, match=r"needs a Kaggle key: put kaggle\.json in ~/\.kaggle"):
        sources.open_source("kaggle")


@pytest.mark.parametrize("failure", [OSError("no route\nto host"), RuntimeError("403"), KeyError("path")])
def test_kaggle_out_of_reach_is_told(keyless, monkeypatch, failure):
    kagglehub = pytest.importorskip("kagglehub")

    def download(handle):
        raise failure

    monkeypatch.setattr(kagglehub, "dataset_download", download)
    (keyless / ".kaggle").mkdir()
    (keyless / ".kaggle/kaggle.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot download .*; pass a downloaded zip instead") as caught:
        sources.open_source("kaggle")
    assert "\n" not in str(caught.value)


def test_a_download_from_kaggle_is_opened_like_a_folder(keyless, monkeypatch, tmp_path):
    kagglehub = pytest.importorskip("kagglehub")
    folder = write_folder(tmp_path / "downloaded", TREE)
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(folder))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "x")
    assert sources.open_source("kaggle") == sources.open_source(str(folder))


def test_the_real_set(real_data):
    source = sources.open_source(real_data)
    assert source.kind == "chest_ct"
    assert source.class_names == ("adenocarcinoma", "large_cell", "normal", "squamous_cell")
    assert Counter(entry.split for entry in source.entries) == {"train": 613, "valid": 72, "test": 315}
    assert source.images == 1000
    entry, content = next(sources.read(source, "valid"))
    assert len(content) == entry.size
    assert io.BytesIO(content).read(4) in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_class_folder_without_images_is_refused_even_when_it_is_empty_in_every_split(image_folder, tmp_path, zipped):
    for split in ("train", "valid", "test"):
        (image_folder / split / "third").mkdir()
    place = image_folder
    if zipped:
        place = shutil.make_archive(str(tmp_path / "zipped"), "zip", image_folder)
    with pytest.raises(UserError, match=r"third.*empty"):
        sources.open_source(str(place))


def test_an_empty_folder_that_is_no_class_is_let_be(image_folder):
    (image_folder / "notes").mkdir()
    (image_folder / "train" / ".hidden").mkdir()
    (image_folder / "train" / "left" / "more").mkdir()
    assert sources.open_source(str(image_folder)).class_names == ("left", "right")


def test_more_phantoms_than_can_be_drawn_are_refused():
    for count in ("1000000", "99999999999"):
        with pytest.raises(UserError, match="up to 999999"):
            sources.open_source(f"phantom:{count}")
    assert sources.open_source("phantom:999999").images == 999_999


def test_a_zip_that_was_written_again_is_read_again(tmp_path):
    place = tmp_path / "set.zip"

    def write(count):
        with zipfile.ZipFile(place, "w") as archive:
            for split in ("train", "valid", "test"):
                for name in ("a", "b"):
                    for number in range(count):
                        archive.writestr(f"{split}/{name}/{number}.png", bytes([number]))

    write(2)
    first = sources.open_source(str(place))
    assert sources.open_source(str(place)) is first
    write(3)
    assert sources.open_source(str(place)).images == 18
    place.unlink()
    with pytest.raises(UserError, match="is not a file or folder"):
        sources.open_source(str(place))
