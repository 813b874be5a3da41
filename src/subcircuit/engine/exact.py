"""The exact engine: the loss of a partly pruned circuit, and its loss with a few more edges cut.

ACDC visits readers from the logits backwards. All nodes upstream of the visited reader therefore still write their clean
values, and only downstream nodes with a kept path to the logits can change. The engine stores the inputs and outputs of
exactly those nodes, at exactly the rows where something can change and matter (``units/rows.py``). A trial leaves the
precomputed clean − ablated vectors of the cut writers out of the reader's input and recomputes the nodes that kept edges
reach from there. Trials are batched; nothing is approximated.

        open(unit)      add the nodes of the next unit upstream that have a kept path to the logits, with their clean values
        try_edges       losses after cutting the next n edges of the visited reader, for several n
        try_readers     losses after cutting readers of the unit from all their writers at once
        commit          apply cuts permanently: update the affected downstream nodes once

If the graph distinguishes positions, a reader here is a column: a reader at one position, whose edges carry the values at
that position's rows.

The effect of cutting a single edge of the whole model is simpler: the cut changes one reader, and the rest is the plain model.

Because no other edge is cut, all readers downstream of a changed writer read the same changed stream. A trial takes the
change in the writes of the reader's own nodes from the engine (``states.py``), and carries one stream through the layers
above. The stream is projected once per layer and not once per reader, at the rows where something can change and matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.cache import CleanRun, prefix_sums
from subcircuit.engine.readout import BoundMetric, read
from subcircuit.engine.states import Live
from subcircuit.units import Inputs, Reach, Since, Writes

# trials of whole readers at positions that run together: every such reader has its own input in each of them
_TRIALS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Visit:
    """A reader whose edges are being decided, from the latest writer to the earliest; no decision is committed yet.

    Args:
        base: the reader's input if only the edges decided so far to be kept remain; at other positions, the committed input.
        left: number of undecided edges: those from the first ``left`` writers of ``order``.
        order: the writers whose edges are decided on; the last is cut first.
        prefixes: sums of the first 0, 1, 2, … of their differences.
    """

    reader: int
    base: Float[Tensor, "row d_model"]
    left: int
    order: tuple[int, ...]
    prefixes: Tensor  # [prefix row d_model], at all rows that can change, not only the reader's


@dataclass(frozen=True, eq=False)
class Engine:
    """A partly pruned circuit under a metric. Engines are frozen: every step returns a new one.

    Args:
        live: the circuit's nodes that can change.
        metric: bound to the answers of the run's prompts.
    """

    live: Live
    metric: BoundMetric

    @staticmethod
    def start(run: CleanRun, metric: BoundMetric) -> "Engine":
        """The engine with all edges kept and no unit opened."""
        return Engine(Live(run, run.graph.edges.clone()), metric)

    @property
    def run(self) -> CleanRun:
        """The clean run and its ablation."""
        return self.live.run

    @property
    def kept(self) -> Bool[Tensor, "writer reader"]:
        """Edges kept so far."""
        return self.live.kept

    def open(self, unit: int) -> "Engine":
        """The engine with the nodes of ``unit`` added; all units downstream must be decided.

        Nodes without a kept path to the logits are not added. Their readers' edges are cut, which changes no loss.
        """
        return replace(self, live=self.live.open(unit))

    def is_live(self, reader: int) -> bool:
        """Whether an opened reader has a kept path to the logits."""
        return reader in self.live.columns

    def restore(self, kept: Bool[Tensor, "writer reader"], unit: int) -> "Engine":
        """The engine of a given circuit, with all units from the logits back to ``unit`` opened.

        Args:
            kept: the circuit's edges. Upstream of ``unit`` all edges are kept; at ``unit`` and downstream any may be cut.
        """
        live = replace(self.live, kept=kept)
        for later in reversed(range(unit, len(self.run.graph.units))):
            live = live.open(later)
        return replace(self, live=_settle(live, set(live.inputs)))

    def loss(self) -> Float[Tensor, " answer"]:
        """The metric of the committed circuit, per answer."""
        return self.measure(self.live.inputs[len(self.live.graph.readers) - 1][None])[0]

    def circuit_stream(self) -> Float[Tensor, "answer d_model"]:
        """The last residual stream of the committed circuit, at the answers."""
        return self.live.inputs[len(self.live.graph.readers) - 1][self.run.rows.answer_row]

    def visit(self, reader: int, writers: frozenset[int] | None = None) -> Visit:
        """A visit to an opened, live reader, before its first decision.

        Args:
            writers: the writers whose edges are decided on; the reader's other edges stay as they are. None: all writers, if the
                reader still keeps all its edges.
        """
        node = self._node(reader)
        base = self.live.at_rows_of(node, self.run.ablated_streams[self.run.graph.unit_of[reader]])
        base = self._here(reader, base, self.live.inputs[node])
        if writers is None:
            return Visit(reader, base, self.run.graph.n_read(reader), self.run.order, self.run.prefixes)
        fixed = [w for w in self.kept[:, reader].nonzero().flatten().tolist() if w not in writers]
        order = tuple(w for w in self.run.order if w in writers)
        base = self._here(reader, base + self.live.difference(node, fixed).sum(0), base)
        return Visit(reader, base, len(order), order, prefix_sums(self.run.differences, order))

    def _node(self, column: int) -> int:
        """The reader of a column, at all positions."""
        return column // len(self.run.graph.positions)

    def _here(self, column: int, x: Tensor, elsewhere: Tensor) -> Tensor:
        """Values at the rows of a column's position, and ``elsewhere`` at the other rows."""
        here = self.live.at_position(column)
        return x if here is None else torch.where(here[:, None], x, elsewhere)

    def decide(self, visit: Visit, cut: int, keep: bool) -> Visit:
        """Cut the next ``cut`` edges of the visited reader, and keep the one after them if ``keep``."""
        left = visit.left - cut
        if not keep:
            return replace(visit, left=left)
        more = visit.base + self.live.difference(self._node(visit.reader), [visit.order[left - 1]])[0]
        return replace(visit, base=self._here(visit.reader, more, visit.base), left=left - 1)

    def try_edges(self, visit: Visit, counts: Sequence[int]) -> Float[Tensor, "trial answer"]:
        """Losses after cutting the next n undecided edges of the visited reader, for each n of the ascending ``counts``."""
        if self._nowhere(visit.reader):
            return self.loss().expand(len(counts), -1)
        node, rest = self._node(visit.reader), visit.prefixes[[visit.left - count for count in counts]]
        x = self._here(visit.reader, visit.base + self.live.at_rows_of(node, rest), visit.base)
        return self._propagate(self.run.graph.unit_of[visit.reader], {node: x})

    def _nowhere(self, column: int) -> bool:
        """Whether nothing can change at a column's position: its rows precede the prompts' first difference or affect no answer."""
        here = self.live.at_position(column)
        return here is not None and not bool(here.any())

    def try_readers(self, groups: Sequence[Sequence[int]]) -> Float[Tensor, "trial answer"]:
        """Losses after cutting the first, the first two, … of these groups of one unit's readers from all their writers."""
        unit = self.run.graph.unit_of[groups[0][0]]
        if self.run.positions is not None:
            starts = range(0, len(groups), _TRIALS_AT_ONCE)
            return torch.cat([self._try_at_positions(unit, groups[:s], groups[s : s + _TRIALS_AT_ONCE]) for s in starts])
        since = {reader: trial for trial, group in enumerate(groups) for reader in group}
        inputs = {r: self.live.at_rows_of(r, self.run.ablated_streams[unit])[None] for r in since}
        return self._propagate(unit, inputs, since)

    def try_each(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "trial answer"]:
        """Losses of the circuit after cutting each of these kept edges into a reader alone.

        Args:
            reader: opened and live; all units must be opened.
            writers: the writers whose edges into the reader are cut, one per trial.
        """
        if self._nowhere(reader):
            return self.loss().expand(len(writers), -1)
        node, here = self._node(reader), self.live.at_position(reader)
        order, terms = self.live.terms(node)
        upwards = tuple(range(len(terms)))
        sums, after = prefix_sums(terms, upwards), prefix_sums(terms, upwards[::-1]).flip(0)
        base = self.live.at_rows_of(node, self.run.ablated_streams[self.run.graph.unit_of[reader]])
        at = torch.tensor([order.index(writer) for writer in writers], device=terms.device)
        # summed from the remaining terms: under Zero a norm would amplify the rounding residue of a subtraction
        x = base + (sums[at] + after[at + 1])
        x = x if here is None else x + terms[at].masked_fill(here[:, None], 0.0)
        return self._propagate(self.run.graph.unit_of[reader], {node: x})

    def _try_at_positions(
        self, unit: int, cut: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]
    ) -> Float[Tensor, "trial answer"]:
        """Losses after cutting ``cut``, groups of a unit's columns, and then the first, the first two, … of ``groups``."""
        inputs: dict[int, Tensor] = {}
        since = [*((0, group) for group in cut), *enumerate(groups)]
        for trial, column in ((trial, column) for trial, group in since for column in group):
            node, here = self._node(column), self.live.at_position(column)
            if node not in inputs:
                inputs[node] = self.live.inputs[node].repeat(len(groups), 1, 1)
            inputs[node][trial:, here] = self.live.at_rows_of(node, self.run.ablated_streams[unit])[here]
        return self._propagate(unit, inputs)

    def _propagate(self, unit: int, inputs: Inputs, since: Since | None = None) -> Float[Tensor, "trial answer"]:
        """Losses of trials that change a unit's inputs.

        Args:
            inputs: the new input of each changed reader, per trial; with ``since``, one for all trials.
            since: the first trial in which each reader receives its new input; the last trial is the first of some reader.
        """
        written: Writes = {}
        last = len(self.run.graph.units) - 1
        for later in range(unit, last):
            # nodes are computed in order, so every write that a unit reads exists when it runs
            found = inputs if later == unit else self._inputs(later, written)
            if found:
                written |= self.live.recompute(later, found, since if later == unit else None)
        return self.measure((inputs if unit == last else self._inputs(last, written))[len(self.live.graph.readers) - 1])

    def _inputs(self, unit: int, written: Writes) -> Inputs:
        """New inputs of the live readers of a unit that read any of these changed writers."""
        inputs: dict[int, Tensor] = {}
        for reader in self.live.readers_in(unit):
            changed = tuple(w for w in self.live.read_by(reader) if w in written)
            if changed:
                reach = self.live.reader_reach(reader)
                first, *others = (
                    self.live.carried(w, reader, self.run.rows.take(written[w], self.live.reach[w], reach)) for w in changed
                )
                x = self.live.rest(unit, reader, changed) + first
                for other in others:
                    x += other
                inputs[reader] = x
        return inputs

    def measure(self, stream: Float[Tensor, "trial row d_model"]) -> Float[Tensor, "trial answer"]:
        """The metric at last residual streams, given at the rows of the answers."""
        return self.metric(read(self.run.model, stream[:, self.run.rows.answer_row], self.metric.needs))

    def joins(self, writer: int, reader: int) -> bool:
        """Whether ``commit`` can restore this edge, with all units opened: both ends are live at all rows that the edge carries.

        Otherwise more nodes, or more rows of a node, become live, which needs ``restore``.
        """
        live, embeddings = self.live, self.run.graph.writers_in[0][0]
        if reader not in live.columns or self.run.positions is not None:
            return False
        return writer < embeddings or live.reach.get(writer) in ("changed", live.reader_reach(reader))

    def commit(self, kept: Bool[Tensor, "writer reader"], readers: Sequence[int]) -> "Engine":
        """The engine after cutting edges into these readers permanently, or after restoring edges that ``joins`` accepts.

        Args:
            kept: the new edges kept; differs from the old only in the columns of ``readers``.
            readers: opened, live readers.
        """
        return replace(self, live=_settle(replace(self.live, kept=kept), set(map(self._node, readers))))


def _settle(live: Live, stale: set[int]) -> Live:
    """Recompute the inputs of stale readers from all their writers, and everything downstream of them."""
    for unit, readers in enumerate(live.graph.readers_in):
        mine = [r for r in readers if r in stale]
        if mine:
            before = live.writes
            live = replace(live, inputs={**live.inputs, **{r: live.input_from_scratch(unit, r) for r in mine}}).refresh(
                unit, mine
            )
            changed = [w for w in live.graph.writers_in[unit] if live.writes.get(w) is not before.get(w)]
            stale = stale | {r for w in changed for r in live.fed_by(w)}
    return live


def open_all(engine: Engine) -> Engine:
    """The engine of the whole model with every node opened."""
    for unit in reversed(range(len(engine.run.graph.units))):
        engine = engine.open(unit)
    return engine


@torch.no_grad()
def try_singly(engine: Engine, reader: int, writers: Sequence[int]) -> Float[Tensor, "trial answer"]:
    """Losses of the whole model with only the first, only the second, … of these edges into a reader cut.

    Args:
        engine: of the whole model, from ``open_all``.
        reader: the reader whose edges are cut.
        writers: the writer whose edge is cut, one per trial.
    """
    live, run = engine.live, engine.run
    unit, node, here = run.graph.unit_of[reader], reader // len(run.graph.positions), live.at_position(reader)
    if here is not None and not bool(here.any()):
        return engine.loss().expand(len(writers), -1)
    cut = live.difference(node, writers)
    x = live.inputs[node] - (cut if here is None else cut.masked_fill(~here[:, None], 0.0))
    if not run.graph.units[unit].writers:
        return engine.measure(x)
    written = live.recompute(unit, {node: x})
    change = torch.stack([values - live.writes[writer] for writer, values in written.items()]).sum(0)
    first = next(iter(written))
    clocks = [node.clock for node in run.graph.units]
    later = next(u for u in range(unit + 1, len(clocks)) if clocks[u] > clocks[unit])
    stream = run.rows.take(run.streams[later], "changed", live.reach[first]) + change
    return engine.measure(_carry(run, later, stream, live.reach[first]))


def _carry(run: CleanRun, unit: int, stream: Float[Tensor, "trial row d_model"], reach: Reach) -> Tensor:
    """The last stream at the answers, computed from the stream at ``unit``'s readers, given at the rows of ``reach``."""
    units, rows = run.graph.units, run.rows
    # past the last unit that moves information between positions, only the answers matter
    last = max((index for index, node in enumerate(units) if any(node.spreads)), default=-1)
    clock, found, have = None, stream, reach
    for index, (node, clean) in enumerate(zip(units[unit:-1], run.units[unit:], strict=True), unit):
        if node.clock != clock:
            clock, found, have = node.clock, stream, reach
        want: Reach = "answers" if index >= last else "changed"
        stream, reach = rows.take(stream, reach, want) + node.adds_at(clean, found, have, want), want
    return rows.take(stream, reach, "answers")
