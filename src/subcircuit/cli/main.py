"""The command line: commands, and how their failures look.

Exit codes: 0 done; 1 done, but what was asked for was not reached (warnings on standard error say what); 2 a mistake that the user
can mend (one paragraph on standard error); 130 stopped by Ctrl-C.
What a command needs is imported when it runs, the command itself when it is called: ``--help`` waits for neither.
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
        # the reader of our output left; there is nobody to tell, and the interpreter's own flush would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; mistakes become one paragraph on standard error."""
    # a shell that completes a line says so in the environment, and gives no words
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
