"""How answers are written: JSON and YAML for programs, tables for people.

The rules this module keeps:
- One document, three forms; a table never says what the document doesn't know.
- Answers go to stdout, everything else to stderr.
- Text that came from elsewhere (node ids, NACKs, audit subjects) reaches a terminal without control characters.
- What is absent is null, times are RFC 3339 in UTC.
- Into a pipe, tables are as wide as they need to be: nothing is folded or cut.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_PIPE_WIDTH = 100_000
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def show(form: str, document: object, *, columns: Sequence[str] = (), text: str | None = None) -> None:
    """Write ``document`` to stdout in the form asked for; ``text`` takes the table's place where there is one."""
    if form == "json":
        print_line(json.dumps(document, indent=2))
    elif form == "yaml":
        print_line(_yaml(document).rstrip("\n"))
    elif text is not None:
        print_line(printable(text).rstrip("\n"))
    else:
        _show_table(document, columns)


def show_stream(form: str, rows: Iterable[Mapping[str, object]], *, columns: Sequence[str] = ()) -> None:
    """Write a list as ``show`` does, but JSON and YAML row by row, so that a long one is never whole in memory."""
    if form == "table":
        _show_rows(list(rows), columns)
        return
    empty = True
    for row in rows:
        if form == "json":
            sys.stdout.write("[\n" if empty else ",\n")
            sys.stdout.write(textwrap.indent(json.dumps(row, indent=2), "  "))
        else:
            sys.stdout.write(_yaml([row]))
        empty = False
    end = {("json", True): "[]\n", ("json", False): "\n]\n", ("yaml", True): "[]\n"}
    sys.stdout.write(end.get((form, empty), ""))


def show_event(form: str, document: Mapping[str, object], text: str) -> None:
    """Write one of many documents: a line of JSON, a YAML document, or ``text``."""
    if form == "json":
        print_line(json.dumps(document))
    elif form == "yaml":
        print_line("---\n" + _yaml(document).rstrip("\n"))
    else:
        print_line(printable(text))
    sys.stdout.flush()


def warn(text: str) -> None:
    """Write a warning to stderr."""
    note(f"warning: {text}")


def note(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def print_line(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def print_bytes(content: bytes) -> None:
    """Write text that came as bytes to stdout, as it is."""
    sys.stdout.write(content.decode())


def printable(text: str) -> str:
    """Return ``text`` with each control character, save newline and tab, as an escape."""
    return "".join(_escaped(c) if _is_control(c) else c for c in text)


def rfc3339(moment: datetime | None) -> str | None:
    """Return a time in UTC as RFC 3339 text, or None for none."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def absent(text: str) -> str | None:
    """Return None for an empty text, which is how the API says 'there is none'."""
    return text or None


def _is_control(character: str) -> bool:
    code = ord(character)
    return (code < 0x20 and character not in "\n\t") or 0x7F <= code <= 0x9F or character in _BIDI


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _yaml(document: object) -> str:
    import yaml

    return yaml.safe_dump(document, sort_keys=False)


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def _show_table(document: object, columns: Sequence[str]) -> None:
    if isinstance(document, Mapping):
        _show_pairs(document)
    elif isinstance(document, Sequence) and not isinstance(document, str):
        _show_rows([row for row in document if isinstance(row, Mapping)], columns)
    else:
        print_line(printable(str(document)))


def _show_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    names = list(columns) or list(rows[0] if rows else ())
    if not rows:
        note("none")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    _console().print(table)


def _show_pairs(document: Mapping[str, object]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in document.items():
        table.add_row(name.replace("_", " "), _cell(value))
    _console().print(table)


def _cell(value: object) -> Text:
    from rich.text import Text

    return Text(printable(_cell_text(value)))


def _cell_text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name}={_cell_text(inner)}" for name, inner in value.items())
        case list() | tuple():
            return "\n".join(map(_cell_text, value)) or "-"
        case _:
            return str(value)
