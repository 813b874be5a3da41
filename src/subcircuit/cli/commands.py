"""The commands: what is said of each in a listing, and where it is. A command's module is imported when the command is needed.

Listing them, completing their names and ``--help`` of the group import none.
"""

from collections.abc import Callable
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Entry(NamedTuple):
    """A command.

    Args:
        name: the word for it.
        about: the first paragraph of its help.
        place: module and name of its function, or of its Typer; in the module of the command's name it is called the same.
    """

    name: str
    about: str
    place: str = ""


COMMANDS: dict[str, tuple[Entry, ...]] = {
    "Find circuits": (
        Entry("discover", "Find the circuit with which a model carries out a task."),
        Entry("estimate", "Predict what `subcircuit discover` with the same options would take: trials, time and memory."),
        Entry("refine", "Grow and prune a circuit until it is faithful on prompts it has not seen."),
        Entry("zoom", "Look inside one node: search its parts' edges, all other edges staying as they are."),
        Entry("neurons", "Rank all MLP neurons of a model by attribution, and measure the model with only the best of them."),
        Entry(
            "sweep",
            "Search with several methods and judge them on other prompts: faithfulness at ten sizes, and what each costs.",
        ),
    ),
    "Runs": (
        Entry("resume", "Go on with what was stopped: the result is that of a run that was not, to the last bit.", "runs:resume"),
        Entry("runs", "List the runs in a directory: done, running or stopped."),
        Entry("verify", "Check that a run is as it was written, to the last bit, and name what is not.", "runs:verify"),
    ),
    "Look at them": (
        Entry("show", "Show the summary of a saved circuit again, and where its pictures are."),
        Entry("view", "Explore circuits in a browser: the page is served on this machine alone."),
        Entry(
            "report", "Write a page with everything inside: the circuit, its prompts, attention patterns, faithfulness by size."
        ),
        Entry(
            "compare", "Compare circuits: edges shared and of their own, Jaccard index, and the rank correlation of their scores."
        ),
    ),
    "Judge and explain them": (
        Entry("evaluate", "Measure how faithful and how complete a circuit is, beside random circuits of its size."),
        Entry(
            "validate",
            "Search models whose circuits are known, and measure what is found of them again: ROC, AUC, precision, recall.",
        ),
        Entry("explain", "Say what each part of a circuit does, and on what evidence."),
        Entry(
            "experts",
            "Tell whether routing to experts carries a behaviour: who goes where, and what cutting the routers' inputs costs.",
        ),
    ),
    "Act on them": (
        Entry("remove", "Remove the smallest part of a circuit that takes its capability away, and save the model without it."),
        Entry("keep", "Keep nothing of a model but a circuit, and save what remains."),
    ),
    "Other tools": (
        Entry("export", "Write a circuit as another tool reads it.", "exchange:export"),
        Entry(
            "import",
            "Read a circuit that another tool wrote, check it against its model, and write it as a directory of ours.",
            "exchange:import_",
        ),
        Entry(
            "mib-submission",
            "Write a folder for MIB's circuit localization track and check it, or check one that is there.",
            "exchange:mib_submission",
        ),
    ),
    "What there is": (
        Entry("doctor", "Say what is installed here, which models are at hand, what is missing, and what to do about it."),
        Entry(
            "models",
            "List the models with a name of their own, where they come from here, and the architectures that can be loaded.",
            "listings:models",
        ),
        Entry("tasks", "List the built-in tasks. `subcircuit tasks show` shows one of them to a model.", "tasks:app"),
        Entry("metrics", "List the metrics.", "listings:metrics"),
        Entry("methods", "List the search methods and their settings.", "listings:methods"),
    ),
}


def plain_types(options: list[Any]) -> list[Any]:
    """Options whose help shows no type for flags, and the type of one value where there may be several."""
    for option in options:
        annotation = option.type_descriptor.annotation
        if getattr(option, "is_flag", False):
            option.metavar = ""
        elif get_origin(annotation) is list:
            option.bare_type = partial(str, get_args(annotation)[0].__name__.lower())
    return options


class Command(TyperCommand):
    """A command whose help shows types as users know them."""

    def get_params(self, ctx: Any) -> Any:
        """Its options, ``--help`` among them."""
        return plain_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows types as users know them."""

    def get_params(self, ctx: Any) -> Any:
        """Its options, ``--help`` among them."""
        return plain_types(super().get_params(ctx))


class LazyCommand(TyperCommand):
    """A command by what is said of it; given words, it is the command itself."""

    def __init__(self, entry: Entry):
        super().__init__(entry.name, help=entry.about)
        self._place = entry.place or f"{entry.name}:{entry.name}"

    @cached_property
    def command(self) -> Any:
        """The command with its options, out of its module."""
        module, _, name = self._place.partition(":")
        found: typer.Typer | Callable[..., None] = getattr(import_module(f"subcircuit.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            return get_command(found)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name, cls=Command)(found)
        return get_command(alone)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """A context of the command itself, which is what is then called."""
        return self.command.make_context(*args, **extra)


class Commands(TyperGroup):
    """All commands, each listed until it is needed."""

    def __init__(self, **attributes: Any):
        super().__init__(**attributes)
        for entries in COMMANDS.values():
            for entry in entries:
                self.add_command(LazyCommand(entry))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """What there is to choose from, by what one wants to do."""
        widest = max(len(entry.name) for entries in COMMANDS.values() for entry in entries)
        for title, entries in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(widest), entry.about) for entry in entries])
