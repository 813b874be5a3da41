"""Where words go: results to standard output, progress and errors to standard error."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subcircuit.inert import inert


def results() -> Console:
    """Standard output."""
    return Console(highlight=False)


def messages() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def plain(text: str, style: str = "") -> Text:
    """Text that may come from anywhere: no markup is read from it, control and direction characters are inert."""
    return Text("\n".join(inert(line) for line in text.split("\n")), style)


def print_rows(rows: Iterable[tuple[str, ...]], console: Console) -> None:
    """A table without frames: names bold, whatever follows plain."""
    table = Table.grid(padding=(0, 2))
    for name, *cells in rows:
        table.add_row(plain(name, "bold"), *(plain(cell) for cell in cells))
    console.print(table)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """A table with a header: the first column to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, name in enumerate(header):
        table.add_column(plain(name), justify="right" if index else "left", style="" if index else "bold", no_wrap=not index)
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    console.print(table)


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    results().out(json.dumps(content, ensure_ascii=True, allow_nan=False), highlight=False)
