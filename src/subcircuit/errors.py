"""Every error the library raises for a user's mistake or an impossible request.

    SubcircuitError
    ├── UnknownNameError        a model, task, method, metric, node or edge that does not exist (nearest names suggested)
    ├── ModelError              a model cannot be found, read or used
    │   └── UnsupportedModelError   an architecture, or a feature of one, that is not implemented
    ├── PromptError             a prompt, answer or prompt file is not usable
    │   └── PromptMismatchError     clean and corrupted prompts do not line up
    ├── GraphError              nodes, edges, scopes or circuits that do not fit their graph
    ├── CircuitFileError        a saved circuit that cannot be read
    ├── SettingsError           options that are out of range or do not go together
    │   └── NoGradientError         a metric without a gradient where a method takes one
    ├── EditError               an edit of a model that cannot be made, or that does not reach its target
    ├── NumericalError          NaN or infinity where a number is needed
    ├── ShortOfMemoryError      the work does not fit into memory, even in the smallest batches
    ├── MissingExtraError       an optional dependency that is not installed
    ├── RunError                a run on disk that cannot be read, resumed or written
    └── OutputError             an output directory that cannot be written or already holds a run

Stopped is not an error: the user stopped a run with Ctrl-C.

Messages say what was wrong, where, and what to do. Asserts state invariants of the code itself.
"""

from difflib import get_close_matches


class SubcircuitError(Exception):
    """Base of all errors that a user can cause and fix."""


class UnknownNameError(SubcircuitError):
    """A name that is not one of the known ones; the message suggests the nearest."""

    def __init__(self, kind: str, name: str, known: list[str] | tuple[str, ...], why: str = ""):
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        super().__init__(f"unknown {kind} {name!r}.{guess} Known: {shown}. {why}".rstrip())
        self.kind, self.name, self.suggestions = kind, name, tuple(near)


class ModelError(SubcircuitError):
    """A model cannot be found, read or used."""


class UnsupportedModelError(ModelError):
    """An architecture, or a feature of one, that is not implemented."""


class PromptError(SubcircuitError):
    """A prompt, an answer or a prompt file is not usable."""


class PromptMismatchError(PromptError):
    """A clean and a corrupted prompt do not line up token by token."""


class GraphError(SubcircuitError):
    """Nodes, edges, scopes or circuits that do not fit their graph."""


class CircuitFileError(SubcircuitError):
    """A saved circuit that cannot be read."""


class SettingsError(SubcircuitError):
    """Options that are out of range or do not go together."""


class NoGradientError(SettingsError):
    """A metric without a gradient where a method takes one: every score would be zero."""


class EditError(SubcircuitError):
    """An edit of a model that cannot be made, or that does not reach its target."""


class NumericalError(SubcircuitError):
    """NaN or infinity where a number is needed."""


class ShortOfMemoryError(SubcircuitError):
    """The work does not fit into memory, even in the smallest batches."""


class MissingExtraError(SubcircuitError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class OutputError(SubcircuitError):
    """An output directory that cannot be written or that already holds a run."""


class RunError(SubcircuitError):
    """A run on disk that cannot be read, resumed or written."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The user stopped a run with Ctrl-C; the message has the command to resume it."""
