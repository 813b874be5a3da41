"""Three hypothesis tests for circuits: equivalence, independence and minimality (Shi et al. 2024, arXiv 2410.13032).

s is the metric per example in its own sign, under the problem's ablation. In each test a small p is evidence *against* the circuit. A
large p is not evidence for it, above all with few examples.

equivalence   H0: |P(s(C) > s(M)) − ½| ≤ ε, the circuit does better than the model about as often as worse.
              With k of n examples better, p = P(|K/n − ½| ≥ |k/n − ½|), K ~ Binomial(n, ½ + ε): the worst case of H0.
              Ties within rounding are left out; n counts the other examples.
independence  H0: s(M∖C) is independent of s(M): no part of the behaviour is outside the circuit.
              Permutation test of the Hilbert–Schmidt independence criterion (Gretton et al. 2007) with Gaussian kernels,
              tr(K H L H) / (n − 1)², each kernel as wide as the median distance of its values (the authors' program
              takes one width for both). p = (1 + permutations with at least the observed value) / (1 + permutations).
minimality    H0 for each edge e of C: knocking e out changes the behaviour more than the fraction q of random edges does.
              The effect of an edge in a circuit is the mean over examples of (s(C) − s(C∖e))². A random edge is one of a
              random *ear* added to C (new edges that join it at both ends, see `random_ear`), knocked out of C with that
              ear. With k of n such effects below that of e, p = P(K ≤ k), K ~ Binomial(n, q). An edge is called
              superfluous if p ≤ level / edges tested (Bonferroni).

Metrics that compare with the model (KL divergence) are refused in the first two: the model's own value is a constant.
"""

from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.evaluate.completeness import complement, losses_without, without
from subcircuit.evaluate.controls import Ear, random_ear
from subcircuit.evaluate.measure import Readings, measure
from subcircuit.graph import Circuit, Edge
from subcircuit.search import Problem

_TRIES = 1000


@dataclass(frozen=True)
class Equivalence:
    """Outcome of the equivalence test.

    Args:
        p_value: small if circuit and model are not equivalent.
        better: number of examples on which the circuit does better.
        examples: number of examples without a tie.
        epsilon: largest deviation from ½ that still counts as equivalent.
    """

    p_value: float
    better: int
    examples: int
    epsilon: float


@dataclass(frozen=True)
class Independence:
    """Outcome of the independence test.

    Args:
        p_value: small if the model without the circuit still depends on the behaviour.
        statistic: the Hilbert–Schmidt independence criterion.
        permutations: number of permutations drawn under H0.
    """

    p_value: float
    statistic: float
    permutations: int


@dataclass(frozen=True)
class Minimality:
    """Outcome of the minimality tests.

    Args:
        edges: the circuit's edges, in order.
        effects: mean squared change of the metric when each edge is knocked out.
        p_values: p of each edge; small if it has no more effect than random edges.
        random_effects: the effects of random edges, for comparison.
        superfluous: edges whose p is small after the Bonferroni correction.
    """

    edges: tuple[Edge, ...]
    effects: tuple[float, ...]
    p_values: tuple[float, ...]
    random_effects: tuple[float, ...]
    superfluous: tuple[Edge, ...]


@entry
def equivalence_test(problem: Problem, circuit: Circuit, *, epsilon: float = 0.1, batch_size: int = 16) -> Equivalence:
    """The equivalence test: the circuit does better than the model as often as worse.

    Raises:
        SettingsError: epsilon is not in [0, ½), or the metric compares with the model.
    """
    readings = _own_metric(measure(problem, [circuit], batch_size))
    return equivalence(readings.model - readings.circuits[0], epsilon, readings.rounding)


def equivalence(differences: Float[Tensor, " batch"], epsilon: float, rounding: float = 0.0) -> Equivalence:
    """The equivalence test on given differences; positive means that the circuit does better, up to ``rounding`` is a tie."""
    if not 0 <= epsilon < 0.5:
        raise SettingsError(f"epsilon is {epsilon}: it must be at least 0 and less than 0.5")
    from scipy import stats

    better, n = int((differences > rounding).sum()), int((differences.abs() > rounding).sum())
    extreme = abs(2 * better - n)
    counts = [k for k in range(n + 1) if abs(2 * k - n) >= extreme]
    return Equivalence(float(stats.binom.pmf(counts, n, 0.5 + epsilon).sum()), better, n, epsilon)


@entry
def independence_test(
    problem: Problem,
    circuit: Circuit,
    *,
    permutations: int = 1000,
    seed: int = 0,
    batch_size: int = 16,
) -> Independence:
    """The independence test: the model without the circuit carries nothing of the behaviour.

    Raises:
        SettingsError: fewer than four examples, no permutations, or the metric compares with the model.
    """
    readings = _own_metric(measure(problem, [complement(circuit)], batch_size))
    return independence(readings.circuits[0], readings.model, permutations, seed)


def independence(a: Float[Tensor, " batch"], b: Float[Tensor, " batch"], permutations: int = 1000, seed: int = 0) -> Independence:
    """The independence test on two given samples, paired by example."""
    if len(a) < 4 or permutations < 1:
        raise SettingsError(
            f"the independence test needs at least 4 examples and 1 permutation; given: {len(a)} and {permutations}"
        )
    left, right = _centred(_kernel(a)), _kernel(b)
    generator = torch.Generator().manual_seed(seed)
    observed = float((left * right).sum())
    orders = [torch.randperm(len(a), generator=generator) for _ in range(permutations)]
    # values equal up to rounding count as equal: with constant values every permutation is the same
    least = observed - 1e-12 * len(a)
    reached = sum(float((left * right[order][:, order]).sum()) >= least for order in orders)
    return Independence((1 + reached) / (1 + permutations), observed / (len(a) - 1) ** 2, permutations)


@entry
def minimality_test(
    problem: Problem,
    circuit: Circuit,
    *,
    random_edges: int = 100,
    quantile: float = 0.9,
    level: float = 0.05,
    seed: int = 0,
) -> Minimality:
    """The minimality tests: edges of the circuit that have no more effect than random ones.

    Cost: a masked forward pass for each edge, and two for each random edge.

    Raises:
        SettingsError: quantile or level is not between 0 and 1, there are no random edges, or the circuit is empty or cannot be extended.
    """
    if not 0 < quantile < 1 or not 0 < level < 1 or random_edges < 1:
        raise SettingsError(
            f"quantile is {quantile}, level is {level}, random_edges is {random_edges}: quantile and level must be between 0 and 1, "
            "random_edges at least 1"
        )
    if not circuit.n_edges:
        raise SettingsError("the circuit has no edges, so there is no edge to test")
    from scipy import stats

    losses = losses_without(problem, circuit)
    effects = (losses[1:] - losses[0]).square().mean(-1)
    others = _random_effects(problem, circuit, random_edges, Random(seed))
    below = (others < effects[:, None]).sum(1).tolist()
    p_values = tuple(float(stats.binomtest(k, random_edges, quantile, alternative="less").pvalue) for k in below)
    superfluous = tuple(edge for edge, p in zip(circuit.edges, p_values, strict=True) if p <= level / circuit.n_edges)
    return Minimality(circuit.edges, tuple(effects.tolist()), p_values, tuple(others.tolist()), superfluous)


def _random_effects(problem: Problem, circuit: Circuit, count: int, random: Random) -> Float[Tensor, " trial"]:
    pairs: list[Circuit] = []
    for _ in range(count):
        ear = _new_ear(circuit, random)
        kept = circuit.kept.clone()
        for writer, reader in ear:
            kept[writer, reader] = True
        inflated = Circuit(circuit.graph, kept)
        pairs += [inflated, without(inflated, *random.choice(ear))]
    losses = measure(problem, pairs).circuits
    return (losses[0::2] - losses[1::2]).square().mean(-1)


def _new_ear(circuit: Circuit, random: Random) -> Ear:
    joined = circuit.prune().kept
    for _ in range(_TRIES):
        ear = random_ear(circuit.graph, circuit.kept, joined, random)
        if ear is not None:
            return ear
    raise SettingsError(
        f"no path was found that can be added to the circuit: it already has {circuit.n_edges} edges, nearly all of the graph"
    )


def _own_metric(readings: Readings) -> Readings:
    if readings.metric.compares:
        raise SettingsError(
            f"metric {readings.metric.name} compares the circuit with the model, so the model's own value is constant over examples: "
            "use logit_difference or another metric of the prompts' own answers"
        )
    return readings


def _kernel(values: Float[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Gaussian kernel as wide as the median distance of different examples."""
    distances = (values[:, None] - values).abs().double()
    above = distances[tuple(torch.triu_indices(len(values), len(values), 1))]
    width = above.median()
    # more than half of the values are the same: any width separates them from the others
    width = width if width > 0 else above.mean()
    return torch.ones_like(distances) if width == 0 else torch.exp(-distances.square() / (2 * width**2))


def _centred(kernel: Float[Tensor, "batch batch"]) -> Float[Tensor, "batch batch"]:
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
