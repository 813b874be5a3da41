"""Does a circuit hold anything that it does not need? The effect of each of its edges, one at a time.

    effect(e) = L(C∖e) − L(C)            e in C, loss-like: positive where the edge helps

Edges that stand in for each other both have small effects (Wang et al. 2022, arXiv 2211.00593, who then look for a set K
without which v matters; `losses_without` gives the losses to do so). `minimality_test` says which effects are larger than
those of random edges. Cost: one masked forward pass for each kept edge.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.evaluate.measure import measure
from subcircuit.graph import Circuit
from subcircuit.search import Problem


@entry
def minimality(problem: Problem, circuit: Circuit, batch_size: int = 16) -> Float[Tensor, "writer reader"]:
    """The effect of each kept edge in the circuit, in units of the metric; NaN for edges that are not kept."""
    losses = losses_without(problem, circuit, batch_size)
    effects = torch.full(circuit.kept.shape, float("nan"), dtype=torch.float64)
    # the transpose runs by reader and then writer, as `Circuit.edges` does
    effects.T[circuit.kept.T] = (losses[1:] - losses[0]).mean(-1)
    return effects


def losses_without(problem: Problem, circuit: Circuit, batch_size: int = 16) -> Float[Tensor, "trial batch"]:
    """Per-example loss of the circuit, and then of the circuit without each of its edges in the order of ``circuit.edges``."""
    circuits = [Circuit(circuit.graph, circuit.kept), *(without(circuit, w, r) for r, w in circuit.kept.T.nonzero().tolist())]
    return measure(problem, circuits, batch_size).circuits


def without(circuit: Circuit, writer: int, reader: int) -> Circuit:
    """The circuit with one edge cut."""
    kept = circuit.kept.clone()
    kept[writer, reader] = False
    return Circuit(circuit.graph, kept)
