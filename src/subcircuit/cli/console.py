"""The two consoles: results go to standard output, progress and errors to standard error."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from subcircuit.text import inert


def results() -> Console:
    """Standard output."""
    return Console(highlight=False)


def messages() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def plain(text: str, style: str = "") -> Text:
    """Untrusted text as it is safe to print: without markup, and with control and direction characters escaped."""
    return Text("\n".join(inert(line) for line in text.split("\n")), style)


def print_rows(rows: Iterable[Sequence[str | Text]], console: Console) -> None:
    """A table without frames: names bold, values plain, warnings red; a ``Text`` keeps its own style."""
    table, lines = Table.grid(padding=(0, 2)), [tuple(row) for row in rows]
    for _ in range(max(map(len, lines), default=0)):
        # long words fold onto the next line, so that nothing is cut off
        table.add_column(overflow="fold")
    for name, *cells in lines:
        alarm = "red" if name == "warning" else ""
        table.add_row(_cell(name, f"bold {alarm}"), *(_cell(cell, alarm) for cell in cells))
    console.print(table)


def _cell(content: str | Text, style: str) -> Text:
    return plain(content, style) if isinstance(content, str) else content


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """A table with a header: the first column left-aligned, numbers right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, name in enumerate(header):
        justify, style = ("right", "") if index else ("left", "bold")
        table.add_column(plain(name), justify=justify, style=style, no_wrap=not index, overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    console.print(table)


def print_records(header: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Texts as a table if the console is wide enough, else each row as a paragraph."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 2 * len(widths) <= console.width:
        print_rows([tuple(header), *map(tuple, rows)], console)
        return
    for first, *cells in rows:
        console.print(plain(first, "bold"), soft_wrap=True)
        told = [f"{name} {cell}" for name, cell in zip(header[1:], cells, strict=True) if cell]
        console.print(Padding(plain(" · ".join(told)), (0, 0, 0, 4)))


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    results().out(json.dumps(content, ensure_ascii=True, allow_nan=False), highlight=False)
