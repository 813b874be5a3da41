"""``subcircuit show``: the summary of a circuit on disk."""

from subcircuit.cli.arguments import CircuitDir, JsonSummary


def show(
    path: CircuitDir,
    json: JsonSummary = False,
) -> None:
    """Show the summary of a saved circuit again, and where its pictures are."""
    from subcircuit.cli.summary import print_run
    from subcircuit.graph import Circuit

    print_run(path, Circuit.load(path), as_json=json)
