"""The `data` verbs that write files, and the one that shows what a data set was understood as."""

import csv
import json
from collections import Counter
from pathlib import Path

import click

from ctkeras.cli.data import data, data_option, data_set, slices_option
from ctkeras.errors import UserError

_WIDTH = 32  # columns for the names of splits and classes


@data.command()
@data_option
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

    from ctkeras.data import division, layout, sources, splitting
    from ctkeras.runtime import cells
    from ctkeras.runtime.files import atomic

    root, entries, span = sources.listed(data_set(spec, columns))
    names = layout.in_label_order(entry.class_name for entry in entries)
    labels = np.array([names.index(entry.class_name) for entry in entries])
    groups, by_patient = division.groups_of(entries, lambda some: sources.thumbnails(root, some, span=span))
    parts = splitting.divide(labels, groups, fractions=_fractions(fractions), seed=seed)
    with atomic(out) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        by_slice = any(entry.slice >= 0 for entry in entries)
        writer.writerow(["file", "label", "patient", "split", *(["slice"] if by_slice else [])])
        for entry, group, part in zip(entries, groups, parts, strict=True):
            if entry.frame and entry.slice < 0:
                continue  # a volume has one row
            place = os.path.relpath(sources.location(root, entry), out.absolute().parent).replace("\\", "/")
            # A pseudonym: the group's number, never what the data calls the patient.
            row = [place, entry.class_name, f"group-{group + 1}", splitting.SPLITS[part]]
            row += [str(entry.slice) if entry.slice >= 0 else ""] if by_slice else []
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
@slices_option
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def describe(spec: str | None, columns: str, slices: str, as_json: bool) -> None:
    """Show how a data set is understood: a tree of splits and classes with counts, and every file left out."""
    from ctkeras.data import accounts, sources

    source = sources.open_source(data_set(spec, columns), slices=slices)
    patients = len({entry.patient for entry in source.entries if entry.patient})
    counts = Counter((entry.split, entry.class_name) for entry in source.entries)
    tree = {split: {name: counts[split, name] for name in source.class_names} for split in ("train", "valid", "test")}
    if as_json:
        account = accounts.as_json(source.images, source.left_out)
        facts = {"layout": source.layout, "classes": list(source.class_names), "patients": patients, "splits": tree}
        click.echo(json.dumps({"path": source.path, **facts, **account, "notes": list(source.notes)}))
        return
    known = f", {patients} patients" if patients else ""
    click.echo(f"{source.path}: {source.images:,} images, {len(source.class_names)} classes{known}")
    if not source.entries:
        click.echo("generated; no files are read")
        return
    click.echo(f"read as {source.layout}")
    for split, classes in tree.items():
        click.echo(f"  {split:<{_WIDTH}}{sum(classes.values()):>8,}")
        for name, number in classes.items():
            click.echo(f"    {accounts.shown(name):<{_WIDTH - 2}}{number:>8,}")
    for line in sources.sentences(source):
        click.echo(line)


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
