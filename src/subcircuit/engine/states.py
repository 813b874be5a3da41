"""The state of the nodes of a partly pruned circuit that can still change, and their outputs for other inputs.

Only nodes with a kept path to the logits are stored, each with its inputs and outputs at the rows where it matters
(``units/rows.py``). Each unit computes its own writes from its readers' inputs (``units/unit.py``).

If the graph distinguishes positions, a reader has a column of edges per position but still one input. The edges of a
column carry the values at its position's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.cache import CleanRun
from subcircuit.graph import Graph
from subcircuit.units import Inputs, Reach, Since, UnitState, Writes


@dataclass(frozen=True, eq=False)
class Live:
    """Live nodes. Instances are frozen: every step returns a new one that shares the unchanged parts.

    Args:
        run: the clean run and its ablation.
        kept: edges kept so far, in the columns of all positions.
        columns: columns of the opened readers, at the positions where they are live.
        reach: rows at which each live writer matters.
        inputs: input of each live reader, [row, d_model], not normalised, at the rows where it matters.
        where: rows at which each live reader matters.
        states: state of each opened unit that has live nodes.
        writes, ablated: value of each live writer, and the value of its cut edges, [row, d_model] at the writer's own rows.
    """

    run: CleanRun
    kept: Bool[Tensor, "writer reader"]
    columns: frozenset[int] = frozenset()
    reach: Mapping[int, Reach] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    states: Mapping[int, UnitState] = field(default_factory=dict)
    writes: Mapping[int, Tensor] = field(default_factory=dict)
    ablated: Mapping[int, Tensor] = field(default_factory=dict)
    where: Mapping[int, Reach] = field(default_factory=dict)
    _targets: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False)
    _sources: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False)
    _rests: dict[tuple[int, tuple[int, ...]], Float[Tensor, "row d_model"]] = field(default_factory=dict, init=False)

    @property
    def graph(self) -> Graph:
        """The graph without positions, in which each node covers all positions."""
        return self.run.graph.without_positions

    # ---- positions ----------------------------------------------------------------------------------------------------------

    def of(self, reader: int) -> slice:
        """The columns of a reader."""
        n_positions = len(self.run.graph.positions)
        return slice(reader * n_positions, (reader + 1) * n_positions)

    def kept_from(self, writer: int) -> Bool[Tensor, "reader position"]:
        """The edges kept from a writer, by reader and position."""
        return self.kept[writer].unflatten(0, (-1, len(self.run.graph.positions)))

    def carried(self, writers: int | list[int], reader: int, x: Float[Tensor, "*trial row d_model"]) -> Tensor:
        """The values that kept edges carry into a reader, given at the reader's rows, from one writer or from several."""
        positions = self.run.positions_in(self.reader_reach(reader))
        if positions is None:
            return x
        kept = self.kept[writers, self.of(reader)].to(x.device)
        return x if bool(kept.all()) else x.masked_fill(~kept[..., positions, None], 0.0)

    def at_position(self, column: int) -> Bool[Tensor, " row"] | None:
        """Which of a reader's rows are at the position of a column; None if the graph does not distinguish positions."""
        positions = self.run.positions_in(self.reader_reach(column // len(self.run.graph.positions)))
        return None if positions is None else positions == column % len(self.run.graph.positions)

    # ---- where nodes matter ------------------------------------------------------------------------------------------

    def live_writers(self, unit: int) -> dict[int, Reach]:
        """The writers of a unit with a kept path to the logits; all units downstream must be decided."""
        live: dict[int, Reach] = {w: reach for w in self.graph.writers_in[unit] if (reach := self._reach_of(w)) is not None}
        if live and self.graph.units[unit].coupled:
            # one shared root mean square: if any head of the layer acts on the logits, all do. The same holds for neurons
            widest: Reach = "changed" if "changed" in live.values() else "answers"
            return dict.fromkeys(self.graph.writers_in[unit], widest)
        return live

    def _reach_of(self, writer: int) -> Reach | None:
        reaches = {self.reader_reach(r) for r in self.fed_by(writer)}
        return None if not reaches else "changed" if "changed" in reaches else "answers"

    def fed_by(self, writer: int) -> tuple[int, ...]:
        """The live, opened readers that a writer has kept edges into."""
        if writer not in self._targets:
            targets = self.kept_from(writer).any(1).nonzero().flatten().tolist()
            self._targets[writer] = tuple(r for r in targets if r in self.inputs)
        return self._targets[writer]

    def read_by(self, reader: int) -> tuple[int, ...]:
        """The live, opened writers that a live reader keeps edges from, in order."""
        if reader not in self._sources:
            sources = self.kept[:, self.of(reader)].any(1).nonzero().flatten().tolist()
            self._sources[reader] = tuple(w for w in sources if w in self.writes)
        return self._sources[reader]

    def readers_in(self, unit: int) -> tuple[int, ...]:
        """The live, opened readers of a unit."""
        return tuple(r for r in self.graph.readers_in[unit] if r in self.inputs)

    def reader_reach(self, reader: int) -> Reach:
        """The rows at which a live reader matters."""
        return self.where[reader]

    def _live_columns(self, unit: int, live: Sequence[int]) -> list[int]:
        """The columns at which a unit's readers are live: positions from which kept edges lead to the logits."""
        columns = [column for r in live for column in range(self.of(r).start, self.of(r).stop)]
        graph, opened = self.run.graph, list(self.inputs)
        if self.run.positions is None or not graph.units[unit].writers:
            return columns
        acts = {w: self.kept_from(w)[opened].any(0) for w in graph.writers_in[unit]}

        def matters(column: int) -> bool:
            reader = graph.readers[column]
            at = list(graph.reached_from(reader))
            return any(bool(acts[w][at].any()) for w in graph.writers_of(reader))

        return [column for column in columns if matters(column)]

    # ---- adding nodes with clean values --------------------------------------------------------------------------------

    def open(self, unit: int) -> "Live":
        """The state with the nodes of ``unit`` added that have a kept path to the logits; edges into its other nodes are cut."""
        graph, node = self.graph, self.graph.units[unit]
        mine, first = graph.readers_in[unit], graph.readers_in[unit][0]
        reach = self.live_writers(unit)
        local: dict[int, Reach] = {writer - graph.writers_in[unit][0]: at for writer, at in reach.items()}
        live = [r for r in mine if not node.writers or any(w in local for w in node.feeds[r - first])]
        columns = self._live_columns(unit, live)
        kept = self.kept.clone()
        kept[:, [column for column in self.run.graph.readers_in[unit] if column not in columns]] = False
        where = {**self.where, **{r: node.reader_reach(r - first, local) for r in live}}
        opened = replace(self, kept=kept, columns=self.columns.union(columns), reach={**self.reach, **reach}, where=where)
        inputs = {r: opened.at_rows_of(r, self.run.streams[unit]) for r in live}
        opened = replace(opened, inputs={**self.inputs, **inputs})
        if not reach:
            return opened
        state, written = node.open(self.run.units[unit], local, {r - first: x for r, x in inputs.items()})
        opened = opened._updated(unit, state, written)
        ablated = {
            w: torch.zeros_like(opened.writes[w])
            if self.run.ablates_to_zero
            else opened.writes[w] - self.run.rows.take(self.run.differences[w], "changed", reach[w])
            for w in reach
        }
        return replace(opened, ablated={**self.ablated, **ablated})

    def _updated(self, unit: int, state: UnitState, written: Writes) -> "Live":
        """The state with a new state of one unit, and with new values of some of its writers."""
        first = self.graph.writers_in[unit][0]
        writes = {**self.writes, **{first + writer: x for writer, x in written.items()}}
        return replace(self, states={**self.states, unit: state}, writes=writes)

    # ---- other inputs --------------------------------------------------------------------------------------------------

    def recompute(self, unit: int, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the unit's writers when some of its readers receive other inputs."""
        reader, writer = self.graph.readers_in[unit][0], self.graph.writers_in[unit][0]
        since = None if since is None else {r - reader: trial for r, trial in since.items()}
        written = self.states[unit].recompute({r - reader: x for r, x in inputs.items()}, since)
        return {writer + index: x for index, x in written.items()}

    def refresh(self, unit: int, readers: Sequence[int]) -> "Live":
        """The state after recomputing the unit's writers from the current inputs of these readers."""
        if unit not in self.states:
            return self
        first = self.graph.readers_in[unit][0]
        return self._updated(unit, *self.states[unit].refresh({r - first: self.inputs[r] for r in readers}))

    def input_from_scratch(self, unit: int, reader: int) -> Float[Tensor, "row d_model"]:
        """A reader's input summed from scratch, so that rounding errors do not accumulate over commits."""
        return self._input(unit, reader, ())

    def rest(self, unit: int, reader: int, changed: tuple[int, ...]) -> Float[Tensor, "row d_model"]:
        """A reader's input without the values of these live writers, to which their new values are added.

        The input is summed without them rather than subtracted from the full input. Where everything is cut under Zero, a norm
        would amplify the rounding residue of a subtraction.
        """
        if (reader, changed) not in self._rests:
            self._rests[reader, changed] = self._input(unit, reader, changed)
        return self._rests[reader, changed]

    def terms(self, reader: int) -> tuple[list[int], Float[Tensor, "writer row d_model"]]:
        """The writers that a live reader keeps edges from, and the term that each edge adds to an input without any kept edge."""
        reach = self.reader_reach(reader)
        kept = self.kept[:, self.of(reader)].any(1).nonzero().flatten().tolist()

        def term(w: int) -> Float[Tensor, "row d_model"]:
            if w not in self.writes:
                return self.carried([w], reader, self.difference(reader, [w]))[0]
            return self.carried(w, reader, self.run.rows.take(self.writes[w] - self.ablated[w], self.reach[w], reach))

        return kept, torch.stack([term(w) for w in kept])

    def _input(self, unit: int, reader: int, without: tuple[int, ...]) -> Float[Tensor, "row d_model"]:
        reach = self.reader_reach(reader)
        kept = self.kept[:, self.of(reader)].any(1).nonzero().flatten().tolist()
        clean = [w for w in kept if w not in self.writes]
        x = self.at_rows_of(reader, self.run.ablated_streams[unit])
        x = x + self.carried(clean, reader, self.difference(reader, clean)).sum(0)
        for w in self.read_by(reader):
            extra = -self.ablated[w] if w in without else self.writes[w] - self.ablated[w]
            x = x + self.carried(w, reader, self.run.rows.take(extra, self.reach[w], reach))
        return x

    def difference(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "writer row d_model"]:
        """The amount that cutting each edge removes from a reader's input: clean − ablated, for unopened writers."""
        return self.at_rows_of(reader, self.run.differences[list(writers)])

    def at_rows_of(self, reader: int, x: Tensor) -> Tensor:
        """Values at the rows where a live reader matters, from values at all changed rows."""
        return self.run.rows.take(x, "changed", self.reader_reach(reader))
