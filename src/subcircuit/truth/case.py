"""A case: a model whose circuit for a task is known."""

from dataclasses import dataclass

from subcircuit.engine.ablation import Ablation
from subcircuit.errors import GraphError
from subcircuit.graph import Circuit, Graph
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Task


@dataclass(frozen=True, eq=False)
class Case:
    """A model, what it is asked, and the edges that answer: what a search should find.

    Truth is relative to the ablation: a constant that a circuit needs is an edge under Zero and none under Resample.

    Args:
        name: to ask for it by.
        description: what the model computes, and how.
        model: unless it was trained, its weights hold the mechanism and, but for tracr's auxiliary directions, nothing else.
        task: the prompts that the truth speaks of; its metric is the one to search with.
        ablation: what cut edges carry.
        circuit: the true edges; of a trained model those with an effect, which are a reference and no more.
        redundant: the circuit holds edges that stand in for each other, so that cutting one of them alone may change nothing.
        source: where the truth comes from.
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
        """The graph whose edges are true or not."""
        return self.circuit.graph
