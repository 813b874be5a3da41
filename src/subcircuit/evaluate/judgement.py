"""All that is asked of one circuit, measured together on prompts that it was not found with.

    faithfulness, KL, accuracy      what it does (`faithfulness.py`)
    completeness                    f(M∖C), what is left without it (`completeness.py`)
    random circuits                 f of connected circuits of as many edges (`random_circuits.py`): what any circuit does
    CPR, CMD                        how good the ranking is from which it was taken (`curves.py`)

Cost: a masked forward pass, about three plain ones, for each of: model, ∅, C, M∖C, every random circuit, and the ten
sizes of the curve.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.evaluate.bootstrap import Interval
from subcircuit.evaluate.completeness import complement
from subcircuit.evaluate.curves import PERCENTAGES, Curve, curve
from subcircuit.evaluate.faithfulness import Evaluation, evaluate_circuit, faithfulness
from subcircuit.evaluate.measure import measure, runs_of
from subcircuit.evaluate.random_circuits import random_circuit, random_connected_circuit
from subcircuit.graph import By, Circuit, Graph
from subcircuit.search import OnRound, Problem
from subcircuit.search.attribution import Rounds
from subcircuit.search.journal import FORGETFUL, Journal


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a circuit does, and whether that means anything.

    Args:
        evaluation: its metrics beside the model's.
        completeness: f of the model without it: 0 if nothing is missing from the circuit, 1 if nothing that matters is in it, as of
            an empty one.
        random: f of each random circuit of the same size.
        curve: of the ranking that it was taken from; None where an edge has no score, as after ACDC.
    """

    evaluation: Evaluation
    completeness: float
    random: tuple[float, ...]
    curve: Curve | None

    def __repr__(self) -> str:
        f = "undefined"
        with suppress(SettingsError):
            f = f"{self.evaluation.faithfulness:z.3f}"
        return (
            f"Judgement({self.evaluation}: faithfulness {f}, completeness {self.completeness:z.3f}, "
            f"{len(self.random)} random circuits {self.random_mean:z.3f}, {self.curve})"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before believing in the circuit, judged on these prompts; empty where there is nothing to fear."""
        f, n_edges = self.evaluation.faithfulness, self.evaluation.circuit.n_edges
        if not n_edges:
            return ("the circuit is empty: it captures nothing, and its completeness is that of the whole model, 1.",)
        if f <= 0:
            return (
                f"on these prompts the circuit does no better than no circuit: faithfulness {f:.3g}. Search again for more edges.",
            )
        return ()

    @property
    def random_mean(self) -> float:
        """The mean over random circuits."""
        return float(np.mean(self.random))

    @property
    def random_interval(self) -> Interval:
        """Where 95 % of random circuits lie."""
        low, high = np.quantile(self.random, (0.025, 0.975))
        return Interval(float(low), float(high), 0.95)


@entry
def judge(
    problem: Problem,
    circuit: Circuit,
    *,
    random_circuits: int = 10,
    by: By = "signed",
    seed: int = 0,
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    on_step: OnRound | None = None,
) -> Judgement:
    """Measure all of it.

    Args:
        problem: with prompts that were not used to find the circuit.
        random_circuits: how many to compare with, at least one.
        by: how scores are ranked for the curve.
        seed: of the random circuits.
        batch_size: prompts that run together.
        journal: remembers the losses of every batch of prompts.
        on_step: called after every run of every batch of prompts.

    Raises:
        GraphError: the circuit is another model's.
        SettingsError: faithfulness is undefined on these prompts, see `check_gap`.
    """
    if random_circuits < 1:
        raise SettingsError(f"random circuits is {random_circuits}: it takes at least 1 to compare with")
    ranked = circuit.scores is not None and bool(circuit.scores[circuit.graph.edges].isfinite().all())
    sizes = (1, 1 + random_circuits, *([len(PERCENTAGES)] if ranked else []))
    rounds = Rounds(sum(runs_of(len(problem.task), size) for size in sizes), on_step, "runs")
    evaluation = evaluate_circuit(problem, circuit, batch_size, journal, rounds)
    others = [complement(circuit)] + [_random(circuit.graph, circuit.n_edges, seed + i) for i in range(random_circuits)]
    rest, *random = faithfulness(measure(problem, others, batch_size, journal, rounds)).tolist()
    found = None
    if ranked and circuit.scores is not None:
        found = curve(problem, circuit.scores, by, batch_size, journal, rounds)
    return Judgement(evaluation, rest, tuple(random), found)


def _random(graph: Graph, n_edges: int, seed: int) -> Circuit:
    """A connected circuit; of sizes at which none is found, any circuit."""
    try:
        return random_connected_circuit(graph, n_edges, seed)
    except SettingsError:
        return random_circuit(graph, n_edges, seed)
