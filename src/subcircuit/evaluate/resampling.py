"""Stability selection: how often a search keeps each edge on random halves of its prompts (Meinshausen & Bühlmann 2010,
J. R. Stat. Soc. B 72; complementary pairs of halves: Shah & Samworth 2013, J. R. Stat. Soc. B 75).

    π(e) = share of the runs that keep e                   each pair of runs takes two halves without a common prompt
    consensus circuit: π(e) ≥ π₀
    expected number of consensus edges kept by chance  ≤  q² / ((2 π₀ − 1) p)

q is the mean number of edges that a run keeps, p the number of edges of the graph. The bound assumes that a search on pure noise keeps
every edge equally often, and that it does at least as well as chance; it says nothing about edges that matter for some prompts only.
Cost: two searches on half of the prompts for each pair. A consensus may be disconnected: edges on no path from an embedding to the
logits are dropped from the circuit, and their π stays in its scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.evaluate.agreement import Stability, stability
from subcircuit.graph import Circuit, MethodRecord, Record, Selection
from subcircuit.search import Method, OnProgress, Problem
from subcircuit.search.journal import FORGETFUL, Journal, Under
from subcircuit.search.progress import in_phase

FEWEST = 4
"""The fewest prompts of a half."""


@dataclass(frozen=True, eq=False)
class StabilitySelection:
    """The circuits of a search on halves of its prompts.

    Args:
        circuits: the circuit of each run; those of a pair stand one after the other.
        consensus: π₀: the share of the runs that must keep an edge of the consensus circuit.
    """

    circuits: tuple[Circuit, ...]
    consensus: float

    @cached_property
    def agreement(self) -> Stability:
        """The Jaccard index of each pair of runs, and the share of the runs that keep each edge."""
        return stability(self.circuits)

    @property
    def selected(self) -> Bool[Tensor, "writer reader"]:
        """Whether enough runs keep an edge."""
        return self.agreement.frequency >= self.consensus

    @cached_property
    def circuit(self) -> Circuit:
        """The consensus circuit, scored by the share of the runs that keep each edge."""
        graph = self.circuits[0].graph
        scores = self.agreement.frequency.float().masked_fill(~graph.edges, float("nan"))
        return Circuit(graph, self.selected & graph.edges, scores).prune()

    @property
    def mean_edges(self) -> float:
        """q: the mean number of edges that a run keeps."""
        return sum(circuit.n_edges for circuit in self.circuits) / len(self.circuits)

    @property
    def by_chance(self) -> float:
        """The bound on the expected number of consensus edges that are kept by chance."""
        return self.mean_edges**2 / ((2 * self.consensus - 1) * self.circuits[0].graph.n_edges)

    def numbers(self, before: Circuit) -> dict[str, Any]:
        """The results as JSON values.

        Args:
            before: the circuit of the search on all prompts.
        """
        circuit = self.circuit
        return {
            "runs": len(self.circuits),
            "consensus": self.consensus,
            "edges": circuit.n_edges,
            "mean_edges": self.mean_edges,
            "mean_jaccard": self.agreement.mean_jaccard,
            "by_chance": self.by_chance,
            "shared": before.compare(circuit).shared.n_edges,
            "edges_before": before.n_edges,
        }

    def record(self, before: Circuit, settings: Mapping[str, Any]) -> Record | None:
        """The record of the consensus circuit: that of the search on all prompts, with the results of this selection."""
        if before.record is None:
            return None
        method = MethodRecord(name="stability", parameters={"of": before.record.method.name, **settings})
        sizes = {"edges_kept": self.circuit.n_edges, "edges_total": before.graph.n_edges}
        results = {"stability": self.numbers(before), **sizes}
        return before.record.model_copy(update={"method": method, "results": results, "timings": {}})


@entry
def stability_selection(
    problem: Problem,
    method: Method,
    *,
    pairs: int = 10,
    consensus: float = 0.9,
    selection: Selection | None = None,
    seed: int = 0,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> StabilitySelection:
    """Search on random halves of a problem's prompts.

    Args:
        pairs: number of pairs of halves; each pair takes two searches.
        consensus: share of the runs that must keep an edge of the consensus circuit.
        selection: rule that selects a circuit from scored edges; None for a method that selects the edges itself.
        seed: random seed of the halves.
        on_step: called with a ``Progress`` after every step of each search.
        journal: stores the searches' units of work, so that an interrupted run can resume.

    Raises:
        SettingsError: no pair, a consensus outside (0.5, 1], or too few prompts for halves.
        NoGradientError, GraphError, NumericalError: as the method's search.
    """
    if pairs < 1:
        raise SettingsError(f"pairs is {pairs}: it must be at least 1")
    if not 0.5 < consensus <= 1:
        raise SettingsError(f"consensus is {consensus:g}: it must be above 0.5 and at most 1, for example 0.9")
    half = len(problem.task) // 2
    if half < FEWEST:
        raise SettingsError(
            f"{len(problem.task)} search prompts give halves of {half}: stability needs at least {2 * FEWEST} search prompts"
        )
    generator = torch.Generator().manual_seed(seed)
    circuits: list[Circuit] = []
    for pair in range(pairs):
        order = torch.randperm(len(problem.task), generator=generator)
        for side in range(2):
            wanted = torch.zeros(len(order), dtype=torch.bool)
            wanted[order[side * half : (side + 1) * half]] = True
            part = replace(problem, task=problem.task.where(wanted.to(problem.model.device)))
            number = 2 * pair + side + 1
            show = in_phase(on_step, f"half {number}/{2 * pairs}")
            found = method.search(part, show, Under(journal, f"half {number}"))
            circuits.append(found.circuit.prune() if selection is None else found.select(selection).prune())
    return StabilitySelection(tuple(circuits), consensus)
