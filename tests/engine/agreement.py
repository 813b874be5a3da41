"""Claims that hold at every level of abstraction, checked in the same way at each."""

import torch

from subcircuit.engine import ABLATIONS, run_circuit
from subcircuit.graph import Graph
from subcircuit.model import Transformer
from subcircuit.search import Acdc, Problem
from subcircuit.tasks import Task
from tests.oracles import NodeByNode, SequentialAcdc, ablated_slowly
from tests.problems import random_kept


def assert_node_by_node(model: Transformer, graph: Graph, task: Task, seed: int, share: float, ablation: str) -> None:
    """The masked forward pass of a random circuit equals the node-by-node definition, prompt by prompt."""
    kept = random_kept(graph.edges, seed, share)
    logits = run_circuit(model, graph, kept, task.clean, ABLATIONS[ablation].values(model, graph, task.corrupted))
    slow = ablated_slowly(model, graph, task.corrupted, ABLATIONS[ablation])
    for example, length in enumerate(task.clean.lengths.tolist()):
        at = task.clean.positions
        positions = None if at is None else [graph.positions[position] for position in at[example, :length].tolist()]
        ids = task.clean.ids[example, :length].tolist()
        _, expected = NodeByNode(model, graph, kept, slow[example], positions=positions).run(ids)
        # where nearly everything is cut to zero, norms blow rounding up
        torch.testing.assert_close(logits[example, :length], expected, atol=1e-6, rtol=1e-6)


def assert_sequential(problem: Problem, config: Acdc) -> None:
    """ACDC keeps what the sequential search keeps."""
    assert config.search(problem).circuit.kept.equal(SequentialAcdc(problem, config).run().kept)
