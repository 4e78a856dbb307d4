"""The report's page as text: everything is escaped unless it is Html, which only this module and the charts make."""

import base64
import html
import io
import shlex
import string
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any, NamedTuple

from ctkeras.report.html.charts import NARROW, WIDE

COMMAND_WIDTH = 84  # letters per line of a command whose values have at most 20; a desktop's column holds 88


class Html(str):
    """Text that is HTML already; `safe` returns it unchanged."""

    __slots__ = ()


def safe(value: Any) -> Html:
    """A value as HTML: text is escaped, Html stays as it is, None becomes a dash."""
    return value if isinstance(value, Html) else Html("–" if value is None else html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Parts one after the other, each made safe."""
    return Html(between.join(safe(part) for part in parts))


def tag(name: str, *parts: Any, **attributes: Any) -> Html:
    """An element around parts; class_ means class, x_y means x-y, None is omitted, True is an attribute without a value."""
    shown = ""
    for key, value in attributes.items():
        if value is not None:
            given = key.rstrip("_").replace("_", "-")
            shown += f" {given}" if value is True else f' {given}="{html.escape(str(value))}"'
    return Html(f"<{name}{shown}>{join(parts)}</{name}>")


def p(*parts: Any, class_: str | None = None) -> Html:
    """A paragraph."""
    return tag("p", *parts, class_=class_)


class Section(NamedTuple):
    """A section of the page, with its name in the table of contents."""

    ident: str
    short: str
    content: Html


def section(ident: str, heading: str, *parts: Any, files: Sequence[str] = (), short: str = "") -> Section:
    """A section that names the files its numbers are from.

    Args:
        ident: its id on the page.
        heading: its heading.
        parts: its content; None is omitted.
        files: where its numbers come from.
        short: its name in the table of contents; '' for the heading.
    """
    body = [part for part in parts if part is not None]
    source = []
    if files:
        named = join((tag("code", file) for file in files), ", ")
        source = [p("Numbers from ", named, class_="source")]
    title = tag("h2", heading, id=f"{ident}-heading")
    content = tag("section", title, *body, *source, id=ident, aria_labelledby=f"{ident}-heading")
    return Section(ident, short or heading, content)


def table(
    columns: Sequence[Any],
    data: Iterable[Sequence[Any]],
    *,
    caption: str,
    numbers: Sequence[int] = (),
    marked: int | None = None,
    hidden_caption: bool = False,
) -> Html:
    """A table that scrolls sideways when the page is too narrow; the first cell of each row is its heading.

    Args:
        columns: headings.
        data: rows of cells.
        caption: what the table shows.
        numbers: columns that are aligned right.
        marked: the row to highlight.
        hidden_caption: show the caption to screen readers only, where the text nearby says the same.
    """

    def align(column: int) -> str | None:
        return "number" if column in numbers else None

    head = tag("tr", *(tag("th", name, scope="col", class_=align(i)) for i, name in enumerate(columns)))
    body = []
    for number, row in enumerate(data):
        first = tag("th", row[0], scope="row", class_=align(0))
        rest = (tag("td", cell, class_=align(i)) for i, cell in enumerate(row[1:], 1))
        body.append(tag("tr", first, *rest, class_="marked" if number == marked else None))
    words = tag("caption", caption, class_="hidden" if hidden_caption else None)
    content = tag("table", words, tag("thead", head), tag("tbody", *body))
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *parts: Any) -> Html:
    """Content that is hidden until the reader opens it."""
    return tag("details", tag("summary", summary), *parts)


def figure(draw: Callable[..., str], ident: str, caption: Any, data: Html | None = None) -> Html:
    """A chart drawn twice, for a desktop and for a phone, of which the page shows one, with its numbers as a table below.

    Args:
        draw: makes the SVG from width and ident.
        ident: unique on the page.
        caption: what it shows.
        data: the same numbers as a table.
    """
    wide = tag("div", Html(draw(width=WIDE, ident=f"{ident}-wide")), class_="wide")
    narrow = tag("div", Html(draw(width=NARROW, ident=f"{ident}-narrow")), class_="narrow")
    return _figure(caption, data, wide, narrow)


def small_figure(drawn: str, caption: Any, data: Html | None = None) -> Html:
    """A chart that is narrow enough for a phone."""
    return _figure(caption, data, Html(drawn))


def _figure(caption: Any, data: Html | None, *drawn: Html) -> Html:
    table_below = [details("The same numbers as a table", data)] if data is not None else []
    return tag("figure", tag("figcaption", caption), *drawn, *table_below)


def command(text: str) -> Html:
    """A command to copy; a long one is broken before its options, in a way that a shell accepts."""
    try:
        words = [shlex.quote(word) for word in shlex.split(text)]
    except ValueError:  # an unbalanced quote, which none of our commands has
        words = [text]
    lines: list[str] = []
    for word in words:
        if lines and not (word.startswith("-") and len(lines[-1]) + len(word) > COMMAND_WIDTH - 20):
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}" if lines else word)
    return tag("pre", tag("code", " \\\n".join(lines)), tabindex="0")


def jpeg_uri(pixels: Any, *, quality: int) -> str:
    """Returns an image, uint8 [H, W] or [H, W, 3], as a data URI that holds it as JPEG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def image(data_uri: str, *, alt: str, size: int) -> Html:
    """A picture that is part of the page."""
    return Html(f'<img src="{html.escape(data_uri)}" alt="{html.escape(alt)}" width="{size}" height="{size}">')


def document(title: str, header: Html, parts: Sequence[tuple[str, Sequence[Section]]]) -> str:
    """The whole page, a single file that needs no other.

    Args:
        title: of the browser's window.
        header: shown above everything else.
        parts: (name, sections).
    """
    folder = resources.files("ctkeras.report.html") / "templates"
    read = {name: (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")}
    body, contents = [], []
    for name, sections in parts:
        words = tag("p", name, class_="part")
        body.append(tag("div", words, *(each.content for each in sections), class_="group"))
        links = (tag("li", tag("a", each.short, href=f"#{each.ident}")) for each in sections)
        contents += [words, tag("ul", *links)]
    return string.Template(read["report.html"]).substitute(
        title=html.escape(title),
        style=read["report.css"],
        script=read["report.js"],
        header=header,
        contents=join(contents),
        body=join(body),
    )
