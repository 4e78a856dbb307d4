"""Cells of CSV files that are opened in spreadsheets, where a class called =cmd(…) would be run as a formula.

As OWASP advises (CSV Injection), text that begins with = + - @, a tab or a carriage return gets an apostrophe before it; so
does text that begins with apostrophes and then one of these, so that reading can take one away again. Numbers stay.
"""

import re
from typing import Any

FORMULA = re.compile(r"'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the last four are their full-width forms
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-](inf|nan)", re.IGNORECASE)


def quoted(value: Any) -> Any:
    """A cell as it is written.

    Example:
        >>> quoted("=cmd|' /C calc'!A0"), quoted("-0.5"), quoted("normal")
        ("'=cmd|' /C calc'!A0", '-0.5', 'normal')
    """
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def unquoted(value: Any) -> Any:
    """A cell as it was before `quoted`."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value
