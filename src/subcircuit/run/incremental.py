"""The exact engine: what a partly pruned circuit computes, and what it would compute with a few more edges cut.

ACDC visits readers from the logits backwards, so at any time all nodes upstream of the visited reader still write
their clean values, and only nodes downstream that are joined to the logits by kept edges can change. The engine
keeps the inputs and outputs of exactly those nodes, at exactly the rows where something can change and matter
(``rows.py``). A trial leaves the precomputed clean − ablated vectors of the cut writers out of the reader's input and
recomputes what kept edges carry it to. Trials are batched; nothing is approximated.

    open(unit)      nodes of the next unit upstream join, with their clean values, if a kept path leads on from them
    try_edges       losses after cutting the next, the next two, … undecided edges of the visited reader
    try_readers     the same, cutting readers of the unit from all their writers at once
    commit          make cuts definite: update what changes downstream, once
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import MLP, Attention, Graph, Head, HeadInput, HeadPart, Logits
from subcircuit.model.components import attention_pattern
from subcircuit.model.transformer import feed_forward
from subcircuit.run.clean import CleanRun
from subcircuit.run.heads import PARTS, post_norm_scale, project, write_out
from subcircuit.run.readout import BoundMetric, read
from subcircuit.run.rows import Reach


@dataclass(frozen=True, eq=False)
class HeadState:
    """One live head as it stands, or in several trials: ``out`` is what it writes before any post-norm."""

    q: Float[Tensor, "*#trial row d_head"]
    k: Float[Tensor, "*#trial batch key d_head"]
    v: Float[Tensor, "*#trial batch key d_head"]
    out: Float[Tensor, "*#trial row d_model"]


@dataclass(frozen=True, eq=False)
class Visit:
    """A reader whose edges are being decided, from the latest writer to the earliest; nothing of it is committed yet.

    Args:
        base: its input with only the edges decided to be kept.
        left: undecided edges: those of the first ``left`` writers in the order of cutting.
    """

    reader: int
    base: Float[Tensor, "row d_model"]
    left: int


Inputs: TypeAlias = Mapping[int, Tensor]  # reader -> Float[Tensor, "trial row d_model"]


@dataclass(frozen=True, eq=False)
class Engine:
    """The state of a partly pruned circuit: frozen, every step makes a new one that shares what did not change.

    Args:
        run: the clean run and its ablation.
        metric: bound to the answers of the run's prompts.
        kept: edges kept so far.
        reach: rows at which each live, opened writer matters.
        inputs: of each live, opened reader, not normalised.
        heads: each live head, by layer and number.
        writes, ablated: what each live, opened writer writes, and what its cut edges carry.
    """

    run: CleanRun
    metric: BoundMetric
    kept: Bool[Tensor, "writer reader"]
    reach: Mapping[int, Reach] = field(default_factory=dict)
    inputs: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], HeadState] = field(default_factory=dict)
    writes: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    ablated: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    _targets: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False)

    @property
    def graph(self) -> Graph:
        """The graph whose edges are kept or cut."""
        return self.run.graph

    # ---- opening: nodes join with their clean values ---------------------------------------------------------------

    def open(self, unit: int) -> "Engine":
        """Let the nodes of ``unit`` join, all units downstream being decided.

        Nodes without a kept path to the logits do not join: the edges into their readers are cut, which changes nothing.
        """
        reach = {**self.reach, **self._live_writers(unit)}
        mine = self.graph.readers_in[unit]
        live = [r for r in mine if self._is_joined(r, reach)]
        kept = self.kept.clone()
        kept[:, [r for r in mine if r not in live]] = False
        stream = self.run.streams[unit]
        inputs = {r: self.run.rows.take(stream, "changed", self._reader_reach(r, reach)) for r in live}
        opened = replace(self, kept=kept, reach=reach, inputs={**self.inputs, **inputs})
        if not live or isinstance(self.graph.units[unit], Logits):
            return opened
        opened = opened._open_heads(unit) if isinstance(self.graph.units[unit], Attention) else opened._refresh(unit, live)
        joined = [w for w in self.graph.writers_in[unit] if w in reach]
        ablated = {w: opened.writes[w] - self.run.rows.take(self.run.differences[w], "changed", reach[w]) for w in joined}
        return replace(opened, ablated={**self.ablated, **ablated})

    def _live_writers(self, unit: int) -> dict[int, Reach]:
        live: dict[int, Reach] = {w: reach for w in self.graph.writers_in[unit] if (reach := self._reach_of(w)) is not None}
        if live and self.graph.shape.coupled_heads and isinstance(self.graph.units[unit], Attention):
            # one shared root mean square: if any head of the layer acts on the logits, all of them do
            widest: Reach = "changed" if "changed" in live.values() else "answers"
            return dict.fromkeys(self.graph.writers_in[unit], widest)
        return live

    def _reach_of(self, writer: int) -> Reach | None:
        reaches = {self._reader_reach(r, self.reach) for r in self._fed_by(writer)}
        return None if not reaches else "changed" if "changed" in reaches else "answers"

    def _fed_by(self, writer: int) -> tuple[int, ...]:
        """The live, opened readers that a writer has kept edges into."""
        if writer not in self._targets:
            self._targets[writer] = tuple(r for r in self.kept[writer].nonzero().flatten().tolist() if r in self.inputs)
        return self._targets[writer]

    def _is_joined(self, reader: int, reach: Mapping[int, Reach]) -> bool:
        node = self.graph.readers[reader]
        return isinstance(node, Logits) or any(w in reach for w in self.graph.writers_of(node))

    def _reader_reach(self, reader: int, reach: Mapping[int, Reach]) -> Reach:
        match self.graph.readers[reader]:
            case Logits():
                return "answers"
            case MLP() as node:
                return reach[self.graph.writer_index[node]]
            case HeadInput(layer, head, "q"):
                return reach[self.graph.writer_index[Head(layer, head)]]
            case _:
                return "changed"

    def _open_heads(self, unit: int) -> "Engine":
        layer = self._layer(unit)
        states: dict[tuple[int, int], HeadState] = {}
        for reach in ("changed", "answers"):
            heads = tuple(h for h in self._live_heads(layer) if self.reach[self._writer(layer, h)] == reach)
            if heads:
                x = self.run.rows.take(self.run.streams[unit], "changed", reach)
                q = project(self.run.model, layer, "q", x[None, None], self.run.rows[reach].pos, heads)
                k, v = (clean[layer][list(heads)][:, None] for clean in (self.run.k, self.run.v))
                out = self._mix(layer, heads, reach, q, k, v)
                states |= {(layer, h): HeadState(q[i, 0], k[i, 0], v[i, 0], out[i, 0]) for i, h in enumerate(heads)}
        opened = replace(self, heads={**self.heads, **states})
        writes = opened._writes_of_heads(layer, {})
        return replace(opened, writes={**self.writes, **{w: x[0] for w, x in writes.items()}})

    def restore(self, kept: Bool[Tensor, "writer reader"], unit: int) -> "Engine":
        """The state of a circuit with all units from the logits back to ``unit`` opened.

        Args:
            kept: edges kept; upstream of ``unit`` all of them, at ``unit`` itself any, downstream as decided.
        """
        engine = replace(self, kept=kept)
        for later in reversed(range(unit, len(self.graph.units))):
            engine = engine.open(later)
        return engine._settle(set(engine.inputs))

    def is_live(self, reader: int) -> bool:
        """Whether an opened reader has a kept path to the logits."""
        return reader in self.inputs

    # ---- trials ----------------------------------------------------------------------------------------------------

    def loss(self) -> Float[Tensor, " answer"]:
        """The metric of the circuit as committed, per answer."""
        return self._measure(self.inputs[len(self.graph.readers) - 1][None])[0]

    def circuit_stream(self) -> Float[Tensor, "answer d_model"]:
        """The last residual stream at the answers, in the circuit as committed."""
        return self.inputs[len(self.graph.readers) - 1][self.run.rows.answer_row]

    def visit(self, reader: int) -> Visit:
        """Begin with an opened, live reader that keeps all its edges."""
        base = self.run.rows.take(
            self.run.ablated_streams[self.graph.unit_of[reader]], "changed", self._reader_reach(reader, self.reach)
        )
        return Visit(reader, base, int(self.graph.edges[:, reader].sum()))

    def decide(self, visit: Visit, cut: int, keep: bool) -> Visit:
        """Cut the next ``cut`` edges of the visited reader, and keep the one after them if ``keep``."""
        left = visit.left - cut
        if not keep:
            return Visit(visit.reader, visit.base, left)
        return Visit(visit.reader, visit.base + self._difference(visit.reader, [self.run.order[left - 1]])[0], left - 1)

    def try_edges(self, visit: Visit, count: int) -> Float[Tensor, "trial answer"]:
        """Losses after cutting the next, the next two, … the next ``count`` undecided edges of the visited reader."""
        rest = self.run.prefixes[visit.left - count : visit.left].flip(0)
        x = visit.base + self.run.rows.take(rest, "changed", self._reader_reach(visit.reader, self.reach))
        return self._propagate(self.graph.unit_of[visit.reader], {visit.reader: x})

    def try_readers(self, readers: Sequence[int]) -> Float[Tensor, "trial answer"]:
        """Losses after cutting the first, the first two, … of these readers of one unit from all their writers."""
        unit = self.graph.unit_of[readers[0]]
        stream, rows = self.run.ablated_streams[unit], self.run.rows
        inputs = {r: rows.take(stream, "changed", self._reader_reach(r, self.reach))[None] for r in readers}
        return self._propagate(unit, inputs, {reader: trial for trial, reader in enumerate(readers)})

    def _difference(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "writer row d_model"]:
        return self.run.rows.take(self.run.differences[list(writers)], "changed", self._reader_reach(reader, self.reach))

    def _propagate(self, unit: int, inputs: Inputs, since: Mapping[int, int] | None = None) -> Float[Tensor, "trial answer"]:
        """Losses of trials that change a unit's inputs.

        Args:
            inputs: the new input of each changed reader, per trial; with ``since``, one for all trials.
            since: the first of the trials (as many as there are readers) in which each reader finds its new input.
        """
        waiting: dict[int, dict[int, Tensor]] = {unit: dict(inputs)}
        last = len(self.graph.units) - 1
        for later in range(unit, last):
            # nodes are computed in order, so all that a unit's inputs depend on has been added when its turn comes
            if later in waiting:
                written = self._recompute(later, waiting.pop(later), since if later == unit else None)
                for writer, values in written.items():
                    self._feed(waiting, writer, values - self.writes[writer])
        return self._measure(waiting[last][len(self.graph.readers) - 1])

    def _feed(self, waiting: dict[int, dict[int, Tensor]], writer: int, change: Float[Tensor, "trial row d_model"]) -> None:
        for reader in self._fed_by(writer):
            inputs = waiting.setdefault(self.graph.unit_of[reader], {})
            extra = self.run.rows.take(change, self.reach[writer], self._reader_reach(reader, self.reach))
            inputs[reader] = self.inputs[reader] + extra if reader not in inputs else inputs[reader].add_(extra)

    def _measure(self, stream: Float[Tensor, "trial row d_model"]) -> Float[Tensor, "trial answer"]:
        return self.metric(read(self.run.model, stream[:, self.run.rows.answer_row], self.metric.needs))

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def _recompute(
        self, unit: int, inputs: Inputs, since: Mapping[int, int] | None = None
    ) -> dict[int, Float[Tensor, "trial row d_model"]]:
        """What the unit's writers write when some of its readers find other inputs."""
        match self.graph.units[unit]:
            case Attention(layer):
                return self._writes_of_heads(layer, {h: s.out for h, s in self._recompute_heads(layer, inputs, since).items()})
            case MLP(layer) as node:
                (x,) = inputs.values()
                return {self.graph.writer_index[node]: feed_forward(self.run.model, layer, x)}
            case Logits():
                raise AssertionError("the logits write nothing")

    def _recompute_heads(self, layer: int, inputs: Inputs, since: Mapping[int, int] | None = None) -> dict[int, HeadState]:
        """The heads that read changed inputs; their tensors carry a leading trial axis (1 where nothing changed)."""
        groups: dict[tuple[Reach, tuple[HeadPart, ...]], list[int]] = {}
        for head in self._live_heads(layer):
            parts: tuple[HeadPart, ...] = tuple(part for part in PARTS if self.graph.reader_of(layer, head, part) in inputs)
            if parts:
                groups.setdefault((self.reach[self._writer(layer, head)], parts), []).append(head)
        states: dict[int, HeadState] = {}
        for (reach, parts), heads in groups.items():
            q, k, v = (self._part(layer, tuple(heads), part, reach, inputs if part in parts else {}, since) for part in PARTS)
            out = self._mix(layer, tuple(heads), reach, q, k, v)
            states |= {head: HeadState(q[i], k[i], v[i], out[i]) for i, head in enumerate(heads)}
        return states

    def _part(
        self, layer: int, heads: tuple[int, ...], part: HeadPart, reach: Reach, inputs: Inputs, since: Mapping[int, int] | None
    ) -> Tensor:
        """Queries, keys or values of heads that all read changed inputs, or (``inputs`` empty) as they stand."""
        standing = torch.stack([getattr(self.heads[layer, head], part) for head in heads])[:, None]
        if not inputs:
            return standing
        rows, readers = self.run.rows, [self.graph.reader_of(layer, head, part) for head in heads]
        want: Reach = reach if part == "q" else "changed"
        distinct = [inputs[r] for r in (readers if len(set(readers)) > 1 else readers[:1])]
        x = torch.stack([rows.take(x, self._reader_reach(r, self.reach), want) for r, x in zip(readers, distinct, strict=False)])
        fresh = project(self.run.model, layer, part, x, rows[want].pos, heads)
        if part != "q":
            grid = standing.expand(-1, fresh.shape[1], -1, -1, -1).clone()
            grid.flatten(2, 3).index_copy_(2, rows.changed.flat, fresh)
            fresh = grid
        if since is None:
            return fresh
        trials = torch.arange(len(since), device=fresh.device)
        begun = trials >= torch.tensor([[since[r]] for r in readers], device=fresh.device)
        return torch.where(begun.view(*begun.shape, *[1] * (fresh.ndim - 2)), fresh, standing)

    def _mix(
        self, layer: int, heads: tuple[int, ...], reach: Reach, q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "head trial row d_model"]:
        """What heads write (before any post-norm) for queries in rows, keys and values in a grid; trial axes broadcast."""
        places = self.run.rows[reach]
        scores = _contract(places.to_grid(q), k.transpose(-1, -2))
        pattern = attention_pattern(scores, self.run.mask(layer, reach), self.run.model.config)
        return write_out(self.run.model, layer, places.to_rows(_contract(pattern, v)), heads)

    def _writes_of_heads(self, layer: int, outs: Mapping[int, Tensor]) -> dict[int, Float[Tensor, "trial row d_model"]]:
        """Writes of the layer's writers that change when the heads in ``outs`` do: all of them under a shared post-norm."""
        coupled = self.graph.shape.coupled_heads or self.graph.scope.level == "block"
        heads = self._live_heads(layer) if coupled or not outs else tuple(outs)
        current = {h: outs[h] if h in outs else self.heads[layer, h].out[None] for h in heads}
        scale = post_norm_scale(self.run.model, layer, _sum(current.values())) if self.graph.shape.coupled_heads else None
        current = current if scale is None else {h: out * scale for h, out in current.items()}
        if self.graph.scope.level == "block":
            return {self._writer(layer, 0): _sum(current.values())}
        return {self._writer(layer, h): out for h, out in current.items()}

    def _writer(self, layer: int, head: int) -> int:
        node = Attention(layer) if self.graph.scope.level == "block" else Head(layer, head)
        return self.graph.writer_index[node]

    def _live_heads(self, layer: int) -> tuple[int, ...]:
        return tuple(h for h in range(self.graph.shape.n_heads) if self._writer(layer, h) in self.reach)

    def _layer(self, unit: int) -> int:
        node = self.graph.units[unit]
        assert not isinstance(node, Logits)
        return node.layer

    # ---- committing ------------------------------------------------------------------------------------------------

    def commit(self, kept: Bool[Tensor, "writer reader"], readers: Sequence[int]) -> "Engine":
        """Make the cuts into these readers definite.

        Args:
            kept: the new edges kept; differs from the old only in the columns of ``readers``.
            readers: opened, live readers of one unit.
        """
        return replace(self, kept=kept)._settle(set(readers))

    def _settle(self, stale: set[int]) -> "Engine":
        """Recompute the inputs of stale readers from all they read, and everything downstream of them."""
        engine = self
        for unit in range(len(self.graph.units)):
            mine = [r for r in self.graph.readers_in[unit] if r in stale]
            if mine:
                inputs = {**engine.inputs, **{r: engine._input(unit, r) for r in mine}}
                before, engine = engine.writes, replace(engine, inputs=inputs)._refresh(unit, mine)
                changed = [w for w in self.graph.writers_in[unit] if engine.writes.get(w) is not before.get(w)]
                stale = stale | {r for w in changed for r in engine._fed_by(w)}
        return engine

    def _refresh(self, unit: int, readers: Sequence[int]) -> "Engine":
        """Recompute the unit's writers from these readers' inputs as they stand."""
        inputs = {r: self.inputs[r][None] for r in readers}
        match self.graph.units[unit]:
            case Logits():
                return self
            case MLP():
                written = self._recompute(unit, inputs)
                return replace(self, writes={**self.writes, **{w: x[0] for w, x in written.items()}})
            case Attention(layer):
                fresh = self._recompute_heads(layer, inputs)
                states = {(layer, h): HeadState(s.q[0], s.k[0], s.v[0], s.out[0]) for h, s in fresh.items()}
                written = self._writes_of_heads(layer, {h: s.out for h, s in fresh.items()})
                heads = {**self.heads, **states}
                return replace(self, heads=heads, writes={**self.writes, **{w: x[0] for w, x in written.items()}})

    def _input(self, unit: int, reader: int) -> Float[Tensor, "row d_model"]:
        """A reader's input from scratch, so that rounding does not add up over commits."""
        reach = self._reader_reach(reader, self.reach)
        writers = self.kept[:, reader].nonzero().flatten().tolist()
        clean = [w for w in writers if w not in self.writes]
        x = self.run.rows.take(self.run.ablated_streams[unit], "changed", reach) + self._difference(reader, clean).sum(0)
        for w in writers:
            if w in self.writes:
                x = x + self.run.rows.take(self.writes[w] - self.ablated[w], self.reach[w], reach)
        return x


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two axes of ``[head, trial, batch, ...]``, trials folded into rows where ``b`` has one."""
    if b.shape[1] > 1 or a.shape[1] == 1:
        return a @ b
    folded = a.transpose(1, 2).flatten(2, 3) @ b[:, 0]
    return folded.unflatten(2, (a.shape[1], a.shape[3])).transpose(1, 2)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    total, *rest = terms
    for term in rest:
        total = total + term
    return total
