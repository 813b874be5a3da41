"""The parts of the clean and the ablated run that the exact engine needs, at the rows that can change.

The cache holds the clean run's residual stream at each unit, the units' keys and values, and per writer the change that
cutting one of its edges makes to a reader's input. Memory: writers × rows × d_model.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.engine.plain_run import embedding_values, unit_runs
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.units import CleanUnit, Reach, Rows, Stream


@dataclass(frozen=True, eq=False)
class CleanRun:
    """A clean run and its ablation.

    Args:
        order: writers in reverse order of cutting: the last one is cut first.
        differences: clean − ablated value of every writer.
        streams: the residual stream at each unit (attention and MLP of each layer, logits) with all edges kept.
        ablated_streams: the residual stream at each unit with all edges cut.
        units: every unit except the logits, with its keys and values from the clean run.
        ablates_to_zero: cut edges carry zeros.
        positions: the position of every row that can change, if the graph distinguishes positions.
    """

    model: Transformer
    graph: Graph
    rows: Rows
    order: tuple[int, ...]
    differences: Float[Tensor, "writer row d_model"]
    streams: tuple[Float[Tensor, "row d_model"], ...]
    ablated_streams: tuple[Float[Tensor, "row d_model"], ...]
    units: tuple[CleanUnit, ...]
    ablates_to_zero: bool
    positions: Int[Tensor, " row"] | None = None

    @cached_property
    def prefixes(self) -> Float[Tensor, "prefix row d_model"]:
        """The sum of the first 0, 1, 2, … differences in ``order``.

        The engine sums a partly cut input from the remaining terms instead of subtracting from the full input. An input with
        all edges cut under Zero is therefore exactly zero.
        """
        return prefix_sums(self.differences, self.order)

    def model_stream(self) -> Float[Tensor, "answer d_model"]:
        """The last residual stream at the answers with all edges kept."""
        return self.rows.take(self.streams[-1], "changed", "answers")[self.rows.answer_row]

    def ablated_stream(self) -> Float[Tensor, "answer d_model"]:
        """The last residual stream at the answers with all edges cut."""
        return self.rows.take(self.ablated_streams[-1], "changed", "answers")[self.rows.answer_row]

    def positions_in(self, reach: Reach) -> Int[Tensor, " row"] | None:
        """The position of every row of this reach; None if the graph does not distinguish positions."""
        return self.positions if self.positions is None or reach == "changed" else self.positions[self.rows.answer_of_changed]


def clean_run(
    model: Transformer,
    graph: Graph,
    clean: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
    first_change: list[int],
    answer_example: Int[Tensor, " answer"],
    answer_pos: Int[Tensor, " answer"],
    order: tuple[int, ...] | None = None,
) -> CleanRun:
    """Run the model on the clean prompts and return the cache that the engine needs.

    Args:
        ablated: the values that cut edges carry, see ``Ablation.values``.
        first_change: per example, the first position at which clean and ablated values may differ.
        answer_example, answer_pos: example and position at which the metric reads each answer's logits.
        order: writers in reverse order of cutting; by default the order of computation.
    """
    both_ways = None if model.config.causal else clean.ids.shape[1]
    rows = Rows.of(first_change, answer_example.tolist(), answer_pos.tolist(), model.device, both_ways)
    tokens = clean.until(rows.n_pos)
    assert not graph.shape.positions or tokens.positions is not None, (
        "prompts of a graph with positions go through tasks.with_positions"
    )

    def at_rows(x: Float[Tensor, "*writer batch pos d_model"]) -> Float[Tensor, "*writer row d_model"]:
        return x[..., : rows.n_pos, :].flatten(-3, -2)[..., rows.changed.flat, :]

    embedding = embedding_values(model, graph, tokens)
    differences = -at_rows(ablated)
    writers = iter(range(len(differences)))

    def join(values: Float[Tensor, "writer batch pos d_model"]) -> Float[Tensor, "row d_model"]:
        mine = [next(writers) for _ in values]
        carried = -differences[mine].sum(0)
        differences[mine] += at_rows(values)
        return carried

    carried, streams, ablated_streams, units = Stream(join(embedding)), [], [], []
    for unit in unit_runs(model, graph, embedding):
        streams.append(at_rows(unit.stream))
        ablated_streams.append(carried.read_by(unit.unit))
        if unit.run is not None:
            units.append(CleanUnit(model, rows, streams[-1], unit.run.memory))
            carried.add(join(unit.run.writes), unit.unit.bias(model))
    order = tuple(range(len(differences))) if order is None else order
    return CleanRun(
        model,
        graph,
        rows,
        order,
        differences,
        tuple(streams),
        tuple(ablated_streams),
        tuple(units),
        ablates_to_zero=not ablated.any(),
        positions=tokens.positions.flatten()[rows.changed.flat]
        if graph.shape.positions and tokens.positions is not None
        else None,
    )


def prefix_sums(differences: Float[Tensor, "writer row d_model"], order: tuple[int, ...]) -> Float[Tensor, "prefix row d_model"]:
    """Sums of the first 0, 1, 2, … of some writers' differences."""
    sums = torch.zeros(len(order) + 1, *differences.shape[1:], dtype=differences.dtype, device=differences.device)
    for index, writer in enumerate(order):
        torch.add(sums[index], differences[writer], out=sums[index + 1])
    return sums
