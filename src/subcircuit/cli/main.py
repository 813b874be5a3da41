"""The command line: entry point, exit codes and error output.

Exit codes: 0 done; 1 done, but a target was missed (a warning on standard error names it); 2 a user error (one paragraph on
standard error); 130 stopped by Ctrl-C.
A command and its libraries are imported when the command runs, so that ``--help`` is fast.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from subcircuit import __version__
from subcircuit.cli.commands import Commands
from subcircuit.cli.encoding import make_readable
from subcircuit.cli.welcome import welcome
from subcircuit.errors import Stopped, SubcircuitError

_COMPLETING = "_SUBCIRCUIT_COMPLETE"

app = typer.Typer(
    name="subcircuit",
    cls=Commands,
    help="Find the sub-circuit of a language model that carries out a behaviour.",
    pretty_exceptions_enable=False,
    # the list is plain: frames take longer to import than to read
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"subcircuit {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find the sub-circuit of a language model that carries out a behaviour."""


def run() -> None:
    """Entry point of the ``subcircuit`` command."""
    code = 0
    make_readable()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader of standard output has closed it; the interpreter's own flush would raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; mistakes become one paragraph on standard error."""
    # a shell that completes a line sets an environment variable and passes no arguments
    if not arguments and _COMPLETING not in os.environ:
        welcome()
        return 0
    try:
        code = app(args=list(arguments), prog_name="subcircuit", standalone_mode=False)
    except SubcircuitError as error:
        return _complain(str(error))
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "subcircuit")
        return _complain(f"{error.format_message().rstrip('.')}. See {command} --help.")
    except Stopped as stopped:
        print(stopped, file=sys.stderr)  # noqa: T201
        return 130
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("stopped; nothing was written", file=sys.stderr)  # noqa: T201
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    from subcircuit.cli.console import messages, plain

    messages().print(plain(f"error: {message}"), soft_wrap=True)
    return 2
