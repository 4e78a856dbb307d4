"""Tables as rows of text: CSV as programs and Excel write it, Excel's own .xlsx, and Parquet."""

import csv
import datetime
import io
import math
from pathlib import Path
from typing import Any

from ctkeras.errors import UserError

TEXT = (".csv", ".tsv")
ENDINGS = (*TEXT, ".xlsx", ".parquet")


def read(path: Path) -> list[list[str]]:
    """Reads a table with its header as the first row.

    Args:
        path: a .csv, .tsv, .xlsx or .parquet file.

    Raises:
        UserError: it cannot be read, or needs a package that is not installed.
    """
    ending = path.suffix.lower()
    if ending == ".xls":
        raise UserError(f"{path}: the old .xls format is not read; save it as .xlsx or CSV")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    readers = {".xlsx": _of_excel, ".parquet": _of_parquet}
    rows = readers[ending](content, path) if ending in readers else _of_text(content, path)
    return [[cell.strip() for cell in row] for row in rows]


def _of_text(content: bytes, path: Path) -> list[list[str]]:
    """Commas, semicolons or tabs; UTF-8 with or without BOM, UTF-16 with BOM, or else Windows-1252."""
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is not text; save the table as CSV")
    try:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")  # what Excel writes in Western Europe
    head = text.partition("\n")[0]
    delimiter = max("\t;,", key=head.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}); save it as CSV") from error


def _of_excel(content: bytes, path: Path) -> list[list[str]]:
    """The first sheet; cells as Excel stores them, formulas by their stored result."""
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(f'{path} needs openpyxl: pip install "ctkeras[tables]", or save it as CSV') from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        return [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # openpyxl raises many types
        raise UserError(f"{path} is a damaged Excel file ({type(error).__name__}); save it again") from error


def _of_parquet(content: bytes, path: Path) -> list[list[str]]:
    """All row groups."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f'{path} needs pyarrow: pip install "ctkeras[tables]", or save it as CSV') from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
        columns = [column.to_pylist() for column in table.columns]
    except Exception as error:  # pyarrow raises many types
        raise UserError(f"{path} is a damaged Parquet file ({type(error).__name__}); save it again") from error
    rows = [[_text(cell) for cell in row] for row in zip(*columns, strict=True)]
    return [list(table.column_names), *rows]


def _text(cell: Any) -> str:
    """A cell as a spreadsheet shows it: whole numbers without a point, empty for none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(sep=" ")
    return str(cell)
