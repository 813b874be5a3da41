"""``subcircuit view``: circuits in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import Device, ModelNow
from subcircuit.errors import SettingsError
from subcircuit.extras import require

if TYPE_CHECKING:
    from subcircuit.cli.problem import Overrides
    from subcircuit.report.page import Shown
    from subcircuit.search import Problem
    from subcircuit.viewer.computations import Probe


def view(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR…", help="Circuit, several circuits of one graph to compare, or a search that is still running."
        ),
    ],
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Number of pairs of prompts. Default: as many as in the search.")] = None,
    device: Device = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. For addresses beyond this machine the URL contains a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; if it is in use, the next free one.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Explore circuits in a browser. The page is served on this machine only.

    Prompts, attention patterns and faithfulness are computed when they are first shown. For a running search the page
    shows its progress and the circuit so far.
    """
    import secrets

    require("viewer")
    from subcircuit.cli.circuits import shown_circuits
    from subcircuit.cli.console import messages, plain
    from subcircuit.cli.problem import Overrides
    from subcircuit.viewer.app import make_app
    from subcircuit.viewer.computations import Computations
    from subcircuit.viewer.run_folders import progress_of, version_of
    from subcircuit.viewer.serve import address_of, free_socket, serve

    computations = Computations(
        lambda: shown_circuits(paths),
        lambda: version_of(paths),
        _probe(paths, Overrides(model=model, device=device, task=task, examples=examples)),
    )
    # what cannot be shown is refused before anything is served
    computations.document()
    token, console = secrets.token_urlsafe(24), messages()
    bound = free_socket(host, port)
    app = make_app(computations, lambda: progress_of(paths), host=host, token=token)
    serve(
        app, bound, address_of(bound, host, token), browser=browser, say=lambda words: console.print(plain(words), soft_wrap=True)
    )


def _probe(paths: list[Path], given: "Overrides") -> "Probe":
    """A function that loads a circuit's model at first use; circuits of one model share it."""
    from subcircuit.cli.console import messages, plain
    from subcircuit.cli.problem import to_look_at
    from subcircuit.viewer.run_folders import now_at

    console = messages()

    def probe(number: int, shown: "Shown") -> "Problem":
        path = paths[number]
        if now_at(path) != path:
            raise SettingsError("prompts and faithfulness can be computed when the search is done")
        return to_look_at(path, shown.circuit, given, lambda words: console.print(plain(words), soft_wrap=True))

    return probe
