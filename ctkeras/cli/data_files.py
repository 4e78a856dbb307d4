"""The `data` verbs that write files, and the one that shows what a data set was understood as."""

import csv
from collections import Counter
from pathlib import Path

import click

from ctkeras.cli.data import data, data_option, data_set
from ctkeras.errors import UserError


@data.command()
@data_option
@click.option("--columns", default="", help="the table's own column names, as in label=diagnosis,patient=PatientID")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="the CSV to write")
@click.option("--fractions", default="0.7,0.15,0.15", show_default=True, help="share of train, valid and test")
@click.option("--seed", type=int, default=0, show_default=True, help="the same seed gives the same split")
@click.option("--report", is_flag=True, help="print images and groups per class and split")
def split(spec: str | None, columns: str, out: Path, fractions: str, seed: int, report: bool) -> None:
    """Divide a data set into train, valid and test by patient, or by similarity where no patient is known.

    Splits that the data has are replaced. Train on the result with --data OUT.
    """
    import os

    import numpy as np

    from ctkeras.audit import groups as audit_groups
    from ctkeras.data import sources, splitting
    from ctkeras.runtime import cells
    from ctkeras.runtime.files import atomic

    path = data_set(spec) + (f":{columns}" if columns else "")
    root, entries = sources.listed(path)
    names = tuple(sorted({entry.class_name for entry in entries}))
    labels = np.array([names.index(entry.class_name) for entry in entries])
    by_patient = all(entry.patient for entry in entries)
    if by_patient:
        groups = np.unique([entry.patient for entry in entries], return_inverse=True)[1]
    else:
        groups = audit_groups.clusters(sources.thumbnails(root, entries))
    parts = splitting.divide(labels, groups, fractions=_fractions(fractions), seed=seed)
    with atomic(out) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "patient", "split"])
        for entry, group, part in zip(entries, groups, parts, strict=True):
            if entry.frame:
                continue  # a volume has one row
            place = os.path.relpath(sources.location(root, entry), out.absolute().parent).replace("\\", "/")
            # A pseudonym: the group's number, never what the data calls the patient.
            row = [place, entry.class_name, f"group-{group + 1}", splitting.SPLITS[part]]
            writer.writerow(map(cells.quoted, row))
    kind = "patients" if by_patient else "groups of similar images"
    click.echo(f"{len(entries)} images of {groups.max() + 1} {kind} divided, seed {seed}: {out}")
    for line in splitting.missing(labels, groups, parts, names):
        click.echo(line)
    if report:
        for label, name in enumerate(names):
            own = [(labels == label) & (parts == i) for i in range(3)]
            counts = [
                f"{s} {o.sum()} ({len(set(groups[o]))} groups)" for s, o in zip(splitting.SPLITS, own, strict=True)
            ]
            click.echo(f"  {name}: {', '.join(counts)}")


def _fractions(text: str) -> tuple[float, float, float]:
    """Reads three numbers parted by commas."""
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions takes three numbers, as in 0.7,0.15,0.15; got {text!r}") from error
    return train, valid, test


@data.command()
@data_option
@click.option("--columns", default="", help="the table's own column names, as in label=diagnosis,patient=PatientID")
def describe(spec: str | None, columns: str) -> None:
    """Show how a data set is understood: splits and classes with counts. Decodes nothing."""
    from ctkeras.data import sources

    source = sources.open_source(data_set(spec) + (f":{columns}" if columns else ""))
    patients = {entry.patient for entry in source.entries if entry.patient}
    known = f", {len(patients)} patients" if patients else ""
    click.echo(f"{source.path}: {source.images:,} images, {len(source.class_names)} classes{known}")
    if not source.entries:
        click.echo("generated; no files are read")
    counts = Counter((entry.split, entry.class_name) for entry in source.entries)
    for name in ("train", "valid", "test"):
        if total := sum(number for (split_name, _), number in counts.items() if split_name == name):
            click.echo(f"  {name}  {total:,}")
            for class_name in source.class_names:
                click.echo(f"    {class_name}  {counts[name, class_name]:,}")


@data.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--as", "form", type=click.Choice(["png", "csv", "dicom", "nifti"]), default="png", show_default=True)
@click.option("--images", default=240, show_default=True, help="number of slices")
@click.option("--patients", type=click.IntRange(0), default=0, help="number of patients with several slices each")
def phantom(out: Path, form: str, images: int, patients: int) -> None:
    """Write generated slices as files: folders by split and class, one folder with a table, or DICOM or NIfTI."""
    from ctkeras.data import layout, phantom_scans, sources

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name a new folder")
    spec = f"phantom:{images}" + (f":patients={patients}" if patients else "")
    source = sources.open_source(spec)
    if form in ("dicom", "nifti"):
        click.echo(f"{phantom_scans.write(out, form, spec)} slices in {out}")
        return
    rows = []
    for name in layout.SPLITS:
        for entry, content in sources.read(source, name):
            path = out / (entry.file if form == "png" else f"images/{entry.file.replace('/', '-')}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            rows.append([path.relative_to(out).as_posix(), entry.class_name, entry.split])
    if form == "csv":
        with open(out / "table.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["file", "label", "split"], *rows])
    click.echo(f"{len(rows)} images in {out}")
