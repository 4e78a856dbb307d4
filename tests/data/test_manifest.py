"""Tables as data sets: what is read, what is refused and how, and that no patient is parted or named."""

import csv
import io
import os
import sys
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from ctkeras.cli.main import cli
from ctkeras.data import images, pseudonyms, sources, splitting
from ctkeras.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))


def table(tmp_path, *, patients=12, each=2, header=("file", "label", "patient"), separator=",", encoding="utf-8"):
    rows = [header]
    for i in range(patients * each):
        name = f"{i}.png"
        (tmp_path / name).write_bytes(b"image %d" % i)
        rows.append((name, "ab"[i // each % 2], f"Müller {i // each}"))
    path = tmp_path / "table.csv"
    path.write_bytes("\r\n".join(separator.join(row) for row in rows).encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_table_is_the_same_set_however_it_was_saved(tmp_path, separator, encoding):
    plain = sources.open_source(str(table(tmp_path)))
    other = sources.open_source(str(table(tmp_path, separator=separator, encoding=encoding)))
    assert other.entries == plain.entries
    assert {entry.split for entry in plain.entries} == {"train", "valid", "test"}


def test_own_column_names_are_mapped(tmp_path):
    path = table(tmp_path, header=(" File ", "diagnosis", "PatientID"))
    with pytest.raises(UserError, match=r"no column 'label'.*--columns label=NAME"):
        sources.open_source(str(path))
    assert sources.open_source(f"{path}:label=diagnosis,patient=PatientID").class_names == ("a", "b")


def test_a_patient_is_in_one_split_and_named_nowhere(tmp_path):
    source = sources.open_source(str(table(tmp_path)))
    splits = {}
    for entry in source.entries:
        splits.setdefault(entry.patient, set()).add(entry.split)
    assert len(splits) == 12
    assert all(len(own) == 1 for own in splits.values())
    assert "Müller" not in repr(source)
    salt = tmp_path / "cache/patients/salt"
    assert os.stat(salt).st_mode & 0o777 == 0o600
    salt.write_bytes(b"another machine's")
    assert sources.open_source(str(tmp_path / "table.csv")).fingerprint == source.fingerprint
    assert pseudonyms.pseudonyms(["", "x"])[0] == ""


def test_errors_come_in_one_list(tmp_path):
    path = table(tmp_path)
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n0.PNG,a,x\n0.png,b,x\n1.png,a;b,x\n,a,x\n" + "none.png,a,x\nnone2.png,,x\n" * 5)
    with pytest.raises(UserError) as caught:
        sources.open_source(str(path))
    text = str(caught.value)
    assert "14 errors" in text
    assert "and 4 more" in text
    assert "row 26: cannot read 0.PNG: no such file (there is 0.png" in text
    assert "row 27: 0.png is also in row 2, with the label 'a'" in text
    assert "row 28: the label 'a;b' names several classes" in text


def test_a_patient_in_two_splits_is_warned_of(tmp_path):
    path = tmp_path / "table.csv"
    rows = ["file,label,patient,split"]
    for i, part in enumerate(("train", "val", "Testing")):
        for label in "ab":
            (tmp_path / f"{i}{label}.png").write_bytes(b"x")
            rows.append(f"{i}{label}.png,{label},P{label},{part}")
    path.write_text("\n".join(rows))
    printed = " ".join(sources.sentences(sources.open_source(str(path))))
    assert "2 of 2 patients" in printed
    assert "Pa" not in printed.replace("Patients", "")


def test_a_zip_beside_the_table_is_read(tmp_path):
    path = table(tmp_path)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for i in range(24):
            archive.write(tmp_path / f"{i}.png", f"in/{i}.png")
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join("scans.zip\\in\\" + line if line[0].isdigit() else line for line in text.splitlines()))
    source = sources.open_source(str(path))
    assert {content for _, content in sources.read(source, "train")} <= {b"image %d" % i for i in range(24)}


def test_without_splits_and_patients_similar_images_stay_together(tmp_path):
    path = table(tmp_path, header=("file", "label", "other"))
    source = sources.open_source(str(path))
    assert {entry.split for entry in source.entries} == {"train", "valid", "test"}
    assert "The data has no splits" in " ".join(source.notes)
    assert "ctkeras data split" in " ".join(source.notes)


def test_a_thousand_random_sets_part_no_group():
    rng = np.random.default_rng(0)
    for seed in range(1000):
        number = int(rng.integers(1, 60))
        labels, groups = rng.integers(0, rng.integers(1, 5), number), rng.integers(0, rng.integers(1, 30), number)
        parts = splitting.divide(labels, groups, seed=seed)
        assert all(len(set(parts[groups == group])) == 1 for group in set(groups))
        assert (parts == splitting.divide(labels, groups, seed=seed)).all()
        names = tuple("abcde"[: labels.max() + 1])
        lines = splitting.missing(labels, groups, parts, names)
        for label in set(labels):
            alone = all(len(set(labels[groups == g])) == 1 for g in set(groups[labels == label]))
            if alone and len(set(groups[labels == label])) >= 3:
                assert set(parts[labels == label]) == {0, 1, 2}
        assert len(lines) == sum(set(parts[labels == i]) != {0, 1, 2} for i in range(len(names)))


def test_fractions_are_followed():
    labels, groups = np.arange(1000) % 2, np.arange(1000) // 5
    counts = np.bincount(splitting.divide(labels, groups, fractions=(0.5, 0.2, 0.3)))
    assert np.abs(counts / 1000 - (0.5, 0.2, 0.3)).max() < 0.02
    with pytest.raises(UserError, match="add up to 1"):
        splitting.divide(labels, groups, fractions=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("form", ["png", "csv"])
def test_written_phantoms_are_split_described_and_opened(tmp_path, form):
    run = CliRunner().invoke
    out, made = tmp_path / "scans", tmp_path / "split.csv"
    assert run(cli, ["data", "phantom", str(out), "--as", form, "--images", "40"]).exit_code == 0
    spec = str(out if form == "png" else out / "table.csv")
    result = run(cli, ["data", "split", "--data", spec, "--out", str(made), "--report"])
    assert result.exit_code == 0, result.output
    assert "groups of similar images" in result.output
    assert sources.open_source(str(made)).images == 40
    assert {row["split"] for row in csv.DictReader(made.open())} == {"train", "valid", "test"}
    described = run(cli, ["data", "describe", "--data", str(made)])
    assert "40 images, 4 classes" in described.output


def test_orientation_is_followed():
    from PIL import Image

    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored, EXIF 2.3
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG", exif=exif)
    assert (images.decode_gray(file.getvalue(), name="x") == gray[:, ::-1]).all()


def written(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_table_is_the_same_set_in_every_format(tmp_path):
    openpyxl, parquet = pytest.importorskip("openpyxl"), pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = table(tmp_path)
    with open(path, encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(tmp_path / "table.xlsx")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    plain = sources.open_source(str(path))
    for ending in ("xlsx", "parquet"):
        assert sources.open_source(str(tmp_path / f"table.{ending}")).entries == plain.entries


@pytest.mark.parametrize(("ending", "package"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, ending, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"table.{ending}").write_bytes(b"x")
    with pytest.raises(UserError, match=rf'needs {package}: pip install "ctkeras\[tables\]"'):
        sources.open_source(str(tmp_path / f"table.{ending}"))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "0"], ("0", "1")),
        (["1.0", "0.0"], ("0", "1")),
        (["10", "9"], ("9", "10")),
        (["B ", "b", "b", "a"], ("a", "b")),
    ],
)
def test_labels_may_be_numbers_and_have_one_spelling(tmp_path, labels, names):
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(b"%d" % i)
    rows = [(f"{i}.png", labels[i % len(labels)], f"p{i}") for i in range(12)]
    found = sources.open_source(str(written(tmp_path / "t.csv", ("file", "label", "patient"), rows)))
    assert tuple(name.lower() for name in found.class_names) == names


def test_measurements_and_several_labels_are_refused(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    path = written(tmp_path / "t.csv", ("file", "label"), [(f"{i}.png", i * 0.37) for i in range(30)])
    with pytest.raises(UserError, match="a label names a class"):
        sources.open_source(str(path))
    path = written(tmp_path / "t.csv", ("file", "label"), [("0.png", "a"), ("1.png", "b"), ("2.png", "a, b")])
    with pytest.raises(UserError, match="row 4: the label 'a, b' names several classes"):
        sources.open_source(str(path))
    with pytest.raises(UserError, match="one column per class is not supported"):
        sources.open_source(str(written(tmp_path / "t.csv", ("file", "a", "b"), [("0.png", 1, 0)])))


def test_a_window_of_a_row_holds_for_its_image_alone(tmp_path):
    from PIL import Image

    from ctkeras.data import crop, decoded

    values = np.full((32, 32), 40, np.int32)
    values[0, 0] = -1000
    rows = []
    for i, (split, label) in enumerate((split, label) for split in ("train", "valid", "test") for label in "ab"):
        Image.fromarray(values).save(tmp_path / f"{i}.tif")
        rows.append((f"{i}.tif", label, split, "40/40" if label == "a" else ""))
    path = written(tmp_path / "t.csv", ("file", "label", "split", "window"), rows)
    train = decoded.load_split(sources.open_source(str(path)), "train", 32, crop.WHOLE)
    assert [int(picture[9, 9]) for picture in train.images] == [128, 236]  # lung: (40 + 1350) / 1500 of white
    with pytest.raises(UserError, match="row 2: window must be one of"):
        sources.open_source(str(written(path, ("file", "label", "window"), [("0.tif", "a", "brain")])))


def test_files_in_a_zip_beside_the_table_need_no_more_than_their_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for i in range(12):
            archive.writestr(f"in\\{i}.png", b"%d" % i)
    rows = [(f"in/{i}.png", "ab"[i % 2], f"p{i}") for i in range(12)]
    source = sources.open_source(str(written(tmp_path / "t.csv", ("file", "label", "patient"), rows)))
    assert {content for _, content in sources.read(source, "train")} <= {b"%d" % i for i in range(12)}
    assert source.entries[0].file.startswith("in/")


def test_images_that_no_row_names_are_counted(tmp_path):
    path = table(tmp_path)
    (tmp_path / "other.png").write_bytes(b"x")
    (row,) = sources.open_source(str(path)).left_out
    assert row == ("that no row of the table names", 1, "other.png")


def test_columns_are_an_option_a_hyperparameter_and_part_of_data(tmp_path):
    from ctkeras.config import RunConfig

    path = table(tmp_path, header=("file", "diagnosis", "PatientID"))
    columns = "label=diagnosis,patient=PatientID"
    spec = f"{path}:{columns}"
    assert RunConfig(data=str(path), columns=columns).data == RunConfig(data=spec).data == spec
    assert RunConfig.from_mapping({"data": spec, "columns": columns}).data == spec
    for verb in (["describe"], ["split", "--out", str(tmp_path / "split.csv")]):
        result = CliRunner().invoke(cli, ["data", *verb, "--data", str(path), "--columns", columns])
        assert result.exit_code == 0, result.output
    with pytest.raises(UserError, match=r"columns are those of a table"):
        sources.open_source(f"{tmp_path}:{columns}")
