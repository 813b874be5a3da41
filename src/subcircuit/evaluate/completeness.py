"""Completeness and minimality of a circuit: missing edges and superfluous edges (Wang et al. 2022, arXiv 2211.00593, section 4).

    completeness       f(M∖C)                       near 0 if the circuit holds all that carries out the behaviour
    knock-out of K     |L(C∖K) − L(M∖K)|            near 0 for every K if C fails as M does wherever C is damaged
    effect of e        L(C∖e) − L(C)                e in C, loss-like: positive where the edge helps

M∖C has every edge but the circuit's: f(M∖C) is 1 for an empty circuit, which captures nothing. A low f(M∖C) alone does not
show that C is complete: cutting a few edges that everything passes through breaks the rest as well. Knock-outs look
further: a model with a backup outside of C withstands the loss of K, and C does not. The paper knocks out heads; here K is
any set of edges, and ``edges_from`` gives those of nodes.

Minimality is about single edges. Edges that replace each other both have small effects (the paper then looks for a set K
without which v matters; `losses_without` gives the losses to do so). `minimality_test` says which effects are larger than
those of random edges.

Cost: one masked forward pass for f(M∖C), two for each K, one for the effect of each kept edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import UnknownNameError
from subcircuit.evaluate.faithfulness import faithfulness
from subcircuit.evaluate.measure import measure
from subcircuit.graph import Circuit, Graph, Writer
from subcircuit.search import Problem
from subcircuit.units.nodes import at, bare


def complement(circuit: Circuit) -> Circuit:
    """M∖C: every edge that the circuit does not keep."""
    return Circuit.full(circuit.graph).difference(circuit)


@entry
def completeness(problem: Problem, circuit: Circuit, batch_size: int = 16) -> float:
    """f(M∖C): the faithfulness of the model without the circuit.

    Raises:
        SettingsError: faithfulness is undefined, see `check_gap`.
    """
    return float(faithfulness(measure(problem, [complement(circuit)], batch_size))[0])


@dataclass(frozen=True, eq=False)
class Knockout:
    """The losses of a circuit and of the model after the same edges are cut.

    Args:
        cut: the edges that were cut, K.
        circuit, model: per-example values of L(C∖K) and L(M∖K), loss-like.
    """

    cut: Circuit
    circuit: Float[Tensor, " batch"]
    model: Float[Tensor, " batch"]

    def __repr__(self) -> str:
        return f"Knockout({self.cut.n_edges:,} edges: incompleteness {self.incompleteness:.4g})"

    @property
    def incompleteness(self) -> float:
        """|L(C∖K) − L(M∖K)| of the means over examples, in units of the metric."""
        return abs(float((self.circuit - self.model).mean()))


@entry
def knock_out(problem: Problem, circuit: Circuit, subsets: Sequence[Circuit], batch_size: int = 16) -> tuple[Knockout, ...]:
    """The losses of the circuit and of the model with each subset cut.

    Args:
        subsets: the sets K, for example from `random_subsets` or `edges_from`.

    Raises:
        GraphError: a subset is of another graph.
    """
    whole = Circuit.full(circuit.graph)
    damaged = [part.difference(cut) for cut in subsets for part in (circuit, whole)]
    losses = measure(problem, damaged, batch_size).circuits
    return tuple(Knockout(cut, losses[2 * i], losses[2 * i + 1]) for i, cut in enumerate(subsets))


def random_subsets(circuit: Circuit, count: int, seed: int = 0) -> tuple[Circuit, ...]:
    """Random subsets K ⊂ C that contain each edge of the circuit with probability one half."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, *circuit.kept.shape, generator=generator)
    return tuple(Circuit(circuit.graph, circuit.kept & (draw < 0.5)) for draw in draws)


def edges_from(graph: Graph, writers: Sequence[str | Writer]) -> Circuit:
    """Every edge out of these nodes (at one position, if a node has one): cutting them knocks the nodes out.

    Raises:
        UnknownNameError, GraphError: the graph has no such writer.
    """
    kept = torch.zeros_like(graph.edges)
    for name in writers:
        writer = graph.writer(name) if isinstance(name, str) else name
        if bare(writer) not in graph.writer_index or writer.position not in (None, *graph.positions):
            raise UnknownNameError(
                "writer", str(writer), [str(at(w, position)) for w in graph.writers for position in graph.positions]
            )
        row, here = graph.writer_index[bare(writer)], torch.tensor([writer.position in (None, r.position) for r in graph.readers])
        kept[row] |= graph.edges[row] & here
    return Circuit(graph, kept)


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
