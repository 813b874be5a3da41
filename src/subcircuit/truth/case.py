"""A case: a model whose circuit for a task is known."""

from dataclasses import dataclass

from subcircuit.engine.ablation import Ablation
from subcircuit.errors import GraphError
from subcircuit.graph import Circuit, Graph
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Task


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its task, and the edges that a search should find.

    Truth is relative to the ablation: a constant that a circuit needs is an edge under Zero and none under Resample.

    Args:
        name: its name for `case` and the command line.
        description: the model's computation.
        model: unless it was trained, its weights hold the mechanism and, but for tracr's auxiliary directions, nothing else.
        task: the prompts for which the circuit is true; a search uses its metric.
        ablation: the value that cut edges carry.
        circuit: the true edges. For a trained model, the edges with an effect, which are only a reference.
        redundant: some edges of the circuit can replace each other, so cutting one of them alone may change nothing.
        source: the origin of the true edges.
    """

    name: str
    description: str
    model: Transformer
    task: Task
    ablation: Ablation
    circuit: Circuit
    redundant: bool
    source: str

    def __post_init__(self) -> None:
        if self.circuit.graph.unlike_model(self.model.config):
            raise GraphError(f"case {self.name}: the circuit is of a graph that is not the model's")

    @property
    def graph(self) -> Graph:
        """The graph of the circuit."""
        return self.circuit.graph
