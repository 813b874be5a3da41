"""Routing in mixtures of experts: the experts of each position, and the effect of that choice on a behaviour.

Frequencies: the share of a token role's positions that goes to each expert, on clean and on corrupted prompts, and the share
that changes experts when the prompt is corrupted.

Effects: cutting edges separates the choice of experts from the contents that they compute:

    routing   every edge into the routers cut: experts are chosen as on the corrupted prompt and work on clean inputs
    contents  every edge into the experts cut: experts are chosen as on the clean prompt and work on corrupted inputs

each as L(cut) − L(model), and as a share of L(all edges cut) − L(model). The shares need not sum to 1: either alone may
undo the behaviour, or only both together. For the layers whose routers or experts matter most, effects are also given by the
source of the edges. All effects come from masked forward passes, because gradients miss changes of a position's experts.

Cost: two plain forward passes, and 5 + 2 masked ones per mixture + 2 per source of each layer told in detail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.gradients import streams_from
from subcircuit.entry import entry
from subcircuit.errors import ModelError, SettingsError
from subcircuit.evaluate.measure import Readings, measure, runs_of
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.model import Tokens, Transformer
from subcircuit.model.components import embed, route
from subcircuit.search import OnProgress, Problem, ProgressCounter
from subcircuit.tasks import Task
from subcircuit.tasks.roles import END, Roles
from subcircuit.units.experts import mixture_weights, normed

_MOST_POSITIONS = 40


@dataclass(frozen=True, eq=False)
class Frequencies:
    """The experts of one role's positions in one layer.

    Args:
        role: name of the role; for tasks without roles a position's number, or END and rest.
        positions: number of these positions in all prompts.
        clean, corrupted: the share of them that goes to each expert; sums to the number of experts per position.
        moved: the share of them that goes to another set of experts on the corrupted prompt.
    """

    role: str
    positions: int
    clean: Float[Tensor, " expert"]
    corrupted: Float[Tensor, " expert"]
    moved: float


@dataclass(frozen=True)
class RoutingEffects:
    """The effect of cutting edges into routers, and into experts: loss with them cut minus loss of the model.

    Args:
        source: source of the edges: ``embed``, ``a0``, ``m0``, or ``all``.
        routing: effect of the edges into routers; contents: effect of the edges into experts.
    """

    source: str
    routing: float
    contents: float


@dataclass(frozen=True, eq=False)
class LayerRouting:
    """Frequencies and effects of one mixture of experts; ``sources`` only for the layers shown in detail."""

    layer: int
    roles: tuple[Frequencies, ...]
    effects: RoutingEffects
    sources: tuple[RoutingEffects, ...]


@dataclass(frozen=True, eq=False)
class RoutingReport:
    """The effects of routing on a behaviour.

    Args:
        total: the effects in all layers at once.
        whole: the loss with every edge cut minus the loss of the model.
        rounding: effects smaller than this may be rounding.
    """

    layers: tuple[LayerRouting, ...]
    total: RoutingEffects
    whole: float
    rounding: float

    def share(self, effect: float) -> float:
        """An effect as a share of the effect of cutting every edge; NaN if the latter is within rounding."""
        return effect / self.whole if abs(self.whole) > self.rounding else nan

    def most_effective(self, n: int) -> tuple[LayerRouting, ...]:
        """The layers whose routers or experts matter most, in order of layers."""
        best = sorted(self.layers, key=lambda layer: -_size(layer.effects))[:n]
        return tuple(sorted(best, key=lambda layer: layer.layer))


@entry
def routing(problem: Problem, detailed: int = 3, batch_size: int = 16, on_step: OnProgress | None = None) -> RoutingReport:
    """The effects of the choice of experts, and of their contents, on a behaviour.

    Args:
        problem: prompts, metric and ablation.
        detailed: number of layers for which effects are split by source.
        batch_size: number of prompts per batch.
        on_step: called after every run of every batch of prompts.

    Raises:
        ModelError: the model has no experts.
        SettingsError: ``detailed`` is negative.
        NumericalError: a loss is NaN or infinite.
    """
    model = problem.model
    if model.config.experts is None:
        raise ModelError(f"{model.name} ({model.config.architecture}) has no mixture of experts: choose a model that has one")
    if detailed < 0:
        raise SettingsError(f"detailed is {detailed}: it must be at least 0")
    layers = model.config.experts.layers
    graph = Graph.of(model.config, Scope("block", overrides=tuple((f"m{layer}", "expert") for layer in layers)))
    cuts = [_cut(graph, routers, chosen) for chosen in (layers, *((layer,) for layer in layers)) for routers in (True, False)]
    problem = replace(problem, graph=graph)
    runs = ProgressCounter(runs_of(len(problem.task), len(cuts)), on_step, phase="layers")
    readings = measure(problem, cuts, batch_size, rounds=runs)
    total, *each = _paired(["all"] * (1 + len(layers)), readings)
    told = sorted(range(len(layers)), key=lambda i: -_size(each[i]))[:detailed]
    rows = {layers[i]: _rows_by_source(graph, layers[i]) for i in told}
    runs = ProgressCounter(sum(runs_of(len(problem.task), 2 * len(mine)) for mine in rows.values()), on_step, phase="sources")
    sources = {layer: _by_source(problem, layer, mine, batch_size, runs) for layer, mine in rows.items()}
    frequencies = _frequencies(model, graph, problem.task, batch_size)
    return RoutingReport(
        tuple(LayerRouting(layer, frequencies[layer], each[i], sources.get(layer, ())) for i, layer in enumerate(layers)),
        total,
        float((readings.empty - readings.model).mean()),
        readings.rounding,
    )


def _size(effects: RoutingEffects) -> float:
    return max(abs(effects.routing), abs(effects.contents))


def _cut(graph: Graph, routers: bool, layers: Sequence[int], source: Sequence[int] | None = None) -> Circuit:
    """All edges but those into the routers, or the experts, of these layers: from some writers, or from all."""
    kept = graph.edges.clone()
    of_layers = [r for layer in layers for r in graph.readers_in[graph.unit_index[f"m{layer}"]]]
    # an expert reads and writes, a router reads alone
    columns = [r for r in of_layers if routers == (graph.readers[r] not in graph.writer_index)]
    rows = list(range(len(graph.writers))) if source is None else list(source)
    kept[torch.tensor(rows)[:, None], torch.tensor(columns)] = False
    return Circuit(graph, kept)


def _paired(names: Sequence[str], readings: Readings) -> list[RoutingEffects]:
    effects = (readings.circuits - readings.model).mean(-1).tolist()
    return [RoutingEffects(name, *pair) for name, pair in zip(names, zip(effects[::2], effects[1::2], strict=True), strict=True)]


def _rows_by_source(graph: Graph, layer: int) -> dict[str, list[int]]:
    """The writers that one layer's router and experts read, by what computes them."""
    rows: dict[str, list[int]] = {}
    for row in range(graph.n_read(graph.readers_in[graph.unit_index[f"m{layer}"]][0])):
        unit = graph.unit_of_writer[row]
        rows.setdefault("embed" if unit is None else graph.units[unit].name, []).append(row)
    return rows


def _by_source(
    problem: Problem, layer: int, rows: dict[str, list[int]], batch_size: int, runs: ProgressCounter
) -> tuple[RoutingEffects, ...]:
    """Effects of the edges into one layer's router and experts, by what computes their writers."""
    cuts = [_cut(problem.graph, routers, (layer,), source) for source in rows.values() for routers in (True, False)]
    return tuple(_paired(list(rows), measure(problem, cuts, batch_size, rounds=runs)))


@torch.no_grad()
def _frequencies(model: Transformer, graph: Graph, task: Task, batch_size: int) -> dict[int, tuple[Frequencies, ...]]:
    task, experts = task.to(model.device), model.config.experts
    assert experts is not None
    roles = task.roles or _places(task)
    clean, corrupted = (_chosen(model, graph, tokens, batch_size) for tokens in (task.clean, task.corrupted))
    real = torch.arange(task.clean.ids.shape[1], device=model.device) < task.clean.lengths[:, None]
    masks = {name: mask for name in roles.names if (mask := roles.mask(name) & real).any()}
    return {
        layer: tuple(
            Frequencies(
                role=name,
                positions=int(mask.sum()),
                clean=clean[layer][mask].double().mean(0).cpu(),
                corrupted=corrupted[layer][mask].double().mean(0).cpu(),
                moved=float((clean[layer] != corrupted[layer]).any(-1)[mask].double().mean()),
            )
            for name, mask in masks.items()
        )
        for layer in experts.layers
    }


def _chosen(model: Transformer, graph: Graph, tokens: Tokens, batch_size: int) -> dict[int, Tensor]:
    """Whether each position goes to each expert, by layer: [batch pos expert]."""
    experts, chosen = model.config.experts, {}
    assert experts is not None
    for ids in tokens.ids.split(batch_size):
        streams = streams_from(model, graph, embed(model.config, model.weights, ids))
        for layer in experts.layers:
            x = normed(model, layer, streams[graph.unit_index[f"m{layer}"]]).flatten(0, -2)
            to = route(experts, mixture_weights(model, layer), x).experts
            sent = torch.zeros(len(x), experts.n, dtype=torch.bool, device=x.device).scatter(1, to, True)
            chosen.setdefault(layer, []).append(sent.view(*ids.shape, experts.n))
    return {layer: torch.cat(parts) for layer, parts in chosen.items()}


def _places(task: Task) -> Roles:
    """For tasks without roles: positions by number where prompts are of one length and not long, else END and rest."""
    lengths = task.clean.lengths.tolist()
    if len(set(lengths)) == 1 and lengths[0] <= _MOST_POSITIONS:
        return Roles.from_positions([{f"{p}": [p] for p in range(lengths[0])}] * len(lengths), lengths, task.clean.ids.device)
    ends: list[dict[str, list[int]]] = [{END: []} for _ in lengths]
    for example, pos in zip(task.answers.example.tolist(), task.answers.pos.tolist(), strict=True):
        ends[example][END].append(pos)
    return Roles.from_positions(ends, lengths, task.clean.ids.device)
