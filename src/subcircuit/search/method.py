"""What a search method is: frozen settings that search.

A method is a frozen dataclass, whose fields are its settings. Subclasses of ``Method`` have everything but a name and a search:

    @dataclass(frozen=True)
    class Largest(Method):
        name = "largest"

        def search(self, problem, progress=None, journal=FORGETFUL):
            return scored(problem, lambda: ...)

Subclasses of ``ScoringMethod`` have a search too, and say how edges are scored.
The package's own are in ``methods.py``; one from outside goes wherever they go.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.search.attribution import check_batch_size
from subcircuit.search.cost import SearchCost, cost_of_examples
from subcircuit.search.journal import FORGETFUL, Journal, Under
from subcircuit.search.memory import Footprint, of_gradients
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, in_phase
from subcircuit.search.result import Result, scored

ALONE = "cost of cutting the edge alone in the whole model"
FIRST_ORDER = f"first-order estimate of the {ALONE}"


@runtime_checkable
class Method(Protocol):
    """A search method.

    Attributes:
        name: to ask for it by, and in records.
        description: one line.
        meaning: what the score of an edge says; None where it is not told.
        ranks: whether it scores edges, of which a selection makes a circuit; otherwise it decides itself which edges to keep.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    description: ClassVar[str] = ""
    meaning: ClassVar[str | None] = None
    ranks: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        """Refuse a problem that ``search`` refuses, before anything is run; nothing is refused by default.

        Raises:
            SettingsError: the method does not go with the metric, the ablation or the scope.
        """

    @abstractmethod
    def search(self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL) -> Result:
        """Search.

        Args:
            problem: model, graph, prompts, metric and ablation.
            progress: called after every batch of trials or of examples.
            journal: stores units of work, so that an interrupted search can resume.

        Raises:
            SettingsError: as ``check``.
            NumericalError: a loss or a score is NaN or infinite; names where.
        """
        ...

    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """What the search will cost, from small parts of it that are run; by default from the search of a few examples.

        Args:
            patience: seconds after which a method that has to look for its cost goes by what it has seen.
        """
        return cost_of_examples(self.search, problem)

    def memory(self, problem: Problem) -> Footprint:
        """The peak of the search's memory, from shapes alone; by default that of gradients for one batch of examples."""
        return of_gradients(problem, getattr(self, "batch_size", None))

    def at(self, thresholds: Sequence[float]) -> "Mapping[float | None, Method]":
        """The method at each of several thresholds, to compare the circuits; of one without a threshold itself alone, under None."""
        return {None: self}


class ScoringMethod(Method):
    """A method that scores every edge; settings that it has in common with others are checked."""

    def __post_init__(self) -> None:
        check_batch_size(getattr(self, "batch_size", None))

    @entry
    def search(self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge.

        Raises:
            SettingsError: as ``check``.
            NumericalError: a loss or a score is NaN or infinite; names the edge.
        """
        self.check(problem)
        return scored(problem, lambda: self.scores(problem, in_phase(progress, self.name), journal))

    @abstractmethod
    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """A score for every edge of a problem that ``check`` accepts; what stands where no edge is does not matter."""
        ...


if TYPE_CHECKING:
    MethodClass: TypeAlias = type[Method]
else:
    # a method from outside need not derive from the protocol, so no subclass check can tell
    MethodClass = type


def search_at(
    method: Method,
    problem: Problem,
    thresholds: Sequence[float],
    progress: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> dict[float | None, Result]:
    """What a method finds at each of several thresholds; of one without a threshold what it finds, under None."""

    def found(threshold: float | None, one: Method) -> Result:
        if threshold is None:
            return one.search(problem, progress, journal)
        named = in_phase(progress, f"{one.name}, {threshold:g}")
        return one.search(problem, named, Under(journal, f"threshold {threshold}"))

    return {threshold: found(threshold, one) for threshold, one in method.at(thresholds).items()}
