"""``subcircuit compare``: agreement of circuits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import JsonTables

if TYPE_CHECKING:
    from subcircuit.evaluate import Agreement


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR DIR…", help="Two or more circuits of one graph.")],
    json: JsonTables = False,
) -> None:
    """Compare circuits: shared and own edges, Jaccard index, rank correlation of scores."""
    from dataclasses import asdict

    from subcircuit.cli.console import plain, print_json, print_table, results
    from subcircuit.evaluate import agreements, models_that_differ
    from subcircuit.graph import Circuit

    circuits = [Circuit.load(path) for path in paths]
    pairs, warnings = agreements(circuits), models_that_differ(circuits)
    if json:
        print_json(
            {
                "circuits": [{"circuit": str(p), "edges": c.n_edges} for p, c in zip(paths, circuits, strict=True)],
                "pairs": [asdict(pair) for pair in pairs],
                "warnings": list(warnings),
            }
        )
        return
    console = results()
    for index, (path, circuit) in enumerate(zip(paths, circuits, strict=True), 1):
        record = circuit.record
        how = (
            ""
            if record is None
            else f"   {record.method.name} · {record.task.name} · {record.metric} · {record.ablation} ablation"
        )
        console.print(plain(f"{index}  {path}   {circuit.n_edges:,} edges{how}"), soft_wrap=True)
    console.print()
    header = ("circuits", "shared", "only first", "only second", "Jaccard", "rank correlation")
    print_table(header, [_row(pair) for pair in pairs], console)
    for warning in warnings:
        console.print(plain(f"warning: {warning}", "bold red"), soft_wrap=True)


def _row(pair: "Agreement") -> tuple[str, ...]:
    ranks = "" if pair.rank_correlation is None else f"{pair.rank_correlation:.3f} ({pair.scored:,} edges)"
    counts = (f"{n:,}" for n in (pair.shared, pair.only_left, pair.only_right))
    return (f"{pair.left + 1} and {pair.right + 1}", *counts, f"{pair.jaccard:.3f}", ranks)
