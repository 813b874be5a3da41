"""The list of commands: name, summary and module of each. A command's module is imported when the command runs.

Listing the commands, completing their names and ``--help`` of the group import no command.
"""

from collections.abc import Callable
from functools import cached_property, partial
from importlib import import_module
from inspect import cleandoc, getdoc
from typing import Any, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Entry(NamedTuple):
    """A command.

    Args:
        name: the command's name.
        about: the first paragraph of its help.
        place: ``module:name`` of its function or Typer. Default: the function of the command's name in the module of that name.
        options: module and name of a function that makes the command's arguments from its options, if the command itself takes
            no options.
        without: options of that function that the command does not have.
    """

    name: str
    about: str
    place: str = ""
    options: str = ""
    without: tuple[str, ...] = ()


COMMANDS: dict[str, tuple[Entry, ...]] = {
    "Find circuits": (
        Entry("discover", "Find the circuit that carries out a task in a model.", options="discover:options"),
        Entry(
            "estimate",
            "Estimate the trials, time and memory of `subcircuit discover` with the same options.",
            options="discover:options",
            without=("out",),
        ),
        Entry("refine", "Grow and prune a circuit until it is faithful on unseen prompts."),
        Entry("zoom", "Search inside one node of a circuit: decide the edges of its parts and keep all other edges."),
        Entry("neurons", "Rank all MLP neurons by attribution, and measure the model with only the best neurons."),
        Entry(
            "sweep",
            "Compare several methods on test prompts: faithfulness at ten sizes, and cost.",
        ),
    ),
    "Runs": (
        Entry("resume", "Resume an interrupted run. The result is bit-identical to that of an uninterrupted one.", "runs:resume"),
        Entry("runs", "List the runs in a directory with their state, edges, faithfulness on test prompts, and date."),
        Entry("verify", "Check that the files of a run are unchanged, and list the changed ones.", "runs:verify"),
    ),
    "Inspect circuits": (
        Entry("show", "Show the summary of a saved circuit and the paths of its pictures."),
        Entry("view", "Explore circuits in a browser. The page is served on this machine only."),
        Entry("report", "Write one HTML file with the circuit, its prompts, attention patterns and faithfulness by size."),
        Entry("compare", "Compare circuits: shared and own edges, Jaccard index, rank correlation of scores."),
    ),
    "Evaluate and explain circuits": (
        Entry("evaluate", "Measure the faithfulness and completeness of a circuit, and of random circuits of its size."),
        Entry(
            "validate",
            "Search models whose circuits are known, and measure recovery: ROC, AUC, precision, recall.",
        ),
        Entry("stability", "Search again on random halves of the prompts, and find the edges that nearly every half keeps."),
        Entry("explain", "Explain the role of each node of a circuit, with the evidence."),
        Entry(
            "experts",
            "Measure whether routing to experts carries a behaviour: routes, and effects of cutting router inputs.",
        ),
    ),
    "Edit the model": (
        Entry("remove", "Find the smallest part of a circuit whose removal ends its capability, and save the edited model."),
        Entry("keep", "Keep only a circuit of a model, and save the model."),
    ),
    "Other tools": (
        Entry("export", "Write a circuit in the format of another tool.", "exchange:export"),
        Entry(
            "import",
            "Read a circuit of another tool, check it against its model, and save it as a directory.",
            "exchange:import_",
        ),
        Entry(
            "mib-submission",
            "Write and check a folder for MIB's circuit localization track, or only check one.",
            "exchange:mib_submission",
        ),
    ),
    "Lists and installation": (
        Entry(
            "doctor", "Check the installation: versions, devices, models, and missing packages with the commands to install them."
        ),
        Entry(
            "models",
            "List the built-in models with their sources, and the supported architectures.",
            "listings:models",
        ),
        Entry("tasks", "List the built-in tasks. `subcircuit tasks show` runs one on a model.", "tasks:app"),
        Entry("metrics", "List the metrics.", "listings:metrics"),
        Entry("methods", "List the search methods and their settings.", "listings:methods"),
    ),
}


def plain_types(options: list[Any]) -> list[Any]:
    """The options with user-friendly types in their help: none for flags, the type of one value for lists."""
    for option in options:
        annotation = option.type_descriptor.annotation
        if getattr(option, "is_flag", False):
            option.metavar = ""
        elif get_origin(annotation) is list:
            option.bare_type = partial(str, get_args(annotation)[0].__name__.lower())
    return options


class Command(TyperCommand):
    """A command whose help shows types as users know them."""

    def __init__(self, *arguments: Any, help: str | None = None, **attributes: Any):
        # a terminal wraps paragraphs; the lines of the source would break them once more
        paragraphs = cleandoc(help or "").split("\n\n")
        super().__init__(*arguments, help="\n\n".join(text.replace("\n", " ") for text in paragraphs), **attributes)

    def get_params(self, ctx: Any) -> Any:
        """Its options, ``--help`` among them."""
        return plain_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows types as users know them."""

    def get_params(self, ctx: Any) -> Any:
        """Its options, ``--help`` among them."""
        return plain_types(super().get_params(ctx))


class LazyCommand(TyperCommand):
    """A command in the list; its module is imported when it runs."""

    def __init__(self, entry: Entry):
        super().__init__(entry.name, help=entry.about)
        self._entry = entry

    @cached_property
    def command(self) -> Any:
        """The command with its options, imported from its module."""
        entry = self._entry
        found: typer.Typer | Callable[..., None] = _from_module(entry.place or f"{entry.name}:{entry.name}")
        if isinstance(found, typer.Typer):
            return get_command(found)
        alone = typer.Typer(add_completion=False)
        if not entry.options:
            alone.command(self.name, cls=Command)(found)
            return get_command(alone)
        alone.command(self.name, cls=Command, help=getdoc(found))(_from_module(entry.options))
        command: Any = get_command(alone)
        command.params = [parameter for parameter in command.params if parameter.name not in entry.without]
        made = command.callback
        command.callback = lambda **given: found(*made(**given))
        return command

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """A context of the imported command, which then runs."""
        return self.command.make_context(*args, **extra)


def _from_module(place: str) -> Any:
    """The value at ``module:name`` of the command line."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"subcircuit.cli.{module}"), name)


class Commands(TyperGroup):
    """All commands, none of them imported."""

    def __init__(self, **attributes: Any):
        super().__init__(**attributes)
        for entries in COMMANDS.values():
            for entry in entries:
                self.add_command(LazyCommand(entry))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, grouped by purpose."""
        widest = max(len(entry.name) for entries in COMMANDS.values() for entry in entries)
        for title, entries in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(widest), entry.about) for entry in entries])
