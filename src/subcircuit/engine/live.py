"""The nodes of a partly pruned circuit that can still change, as they stand, and what they become on other inputs.

Only nodes with a kept path to the logits are here, each with its inputs and outputs at the rows where it matters
(``rows.py``). Heads are recomputed together: those of a layer whose queries, keys or values change alike, over all
trials at once.

Where the graph tells places apart, a reader has a column of edges for each place and still one input: edges of a column carry
what is at the rows of its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.engine.clean import CleanRun
from subcircuit.engine.heads import PARTS, post_norm_scale, project, write_out
from subcircuit.engine.mixtures import expert_writes, normed, shares
from subcircuit.engine.mlps import activations, mlp_scale
from subcircuit.engine.mlps import write_out as write_neurons
from subcircuit.engine.rows import Reach
from subcircuit.graph import MLP, Attention, Expert, Graph, HeadInput, HeadPart, Logits, Neuron, RouterInput
from subcircuit.model.components import attention_pattern
from subcircuit.model.transformer import feed_forward

Inputs: TypeAlias = Mapping[int, Tensor]  # reader -> Float[Tensor, "trial row d_model"]
Writes: TypeAlias = dict[int, Tensor]  # writer -> Float[Tensor, "trial row d_model"]
Since: TypeAlias = Mapping[int, int]  # reader -> the first trial in which it finds its new input


@dataclass(frozen=True, eq=False)
class HeadState:
    """One live head as it stands, or in several trials: ``out`` is what it writes before any post-norm."""

    q: Float[Tensor, "*#trial row d_head"]
    k: Float[Tensor, "*#trial batch key d_head"]
    v: Float[Tensor, "*#trial batch key d_head"]
    out: Float[Tensor, "*#trial row d_model"]


@dataclass(frozen=True, eq=False)
class Live:
    """Live nodes: frozen, every step makes a new value that shares what did not change.

    Args:
        run: the clean run and its ablation.
        kept: edges kept so far, with the columns of all places.
        columns: of the opened readers, at the places at which they are live.
        reach: rows at which each live writer matters.
        inputs: of each live reader, not normalised.
        heads: each live head, by layer and number.
        fired: activations of each live neuron, at the rows where it matters.
        writes, ablated: what each live writer writes, and what its cut edges carry.
    """

    run: CleanRun
    kept: Bool[Tensor, "writer reader"]
    columns: frozenset[int] = frozenset()
    reach: Mapping[int, Reach] = field(default_factory=dict)
    inputs: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], HeadState] = field(default_factory=dict)
    fired: Mapping[int, Tensor] = field(default_factory=dict)
    writes: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    ablated: Mapping[int, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    _targets: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False)
    _sources: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False)
    _rests: dict[tuple[int, tuple[int, ...]], Float[Tensor, "row d_model"]] = field(default_factory=dict, init=False)

    @property
    def graph(self) -> Graph:
        """The graph of all nodes, each at all places."""
        return self.run.graph.unplaced

    # ---- places ----------------------------------------------------------------------------------------------------------

    def of(self, reader: int) -> slice:
        """The columns of a reader."""
        n_places = len(self.run.graph.places)
        return slice(reader * n_places, (reader + 1) * n_places)

    def kept_from(self, writer: int) -> Bool[Tensor, "reader place"]:
        """The edges kept from a writer, by reader and place."""
        return self.kept[writer].unflatten(0, (-1, len(self.run.graph.places)))

    def carried(self, writers: int | list[int], reader: int, x: Float[Tensor, "*trial row d_model"]) -> Tensor:
        """What kept edges into a reader carry of its writers' values, given at the reader's rows: one of them, or each in a row."""
        places = self.run.places_in(self.reader_reach(reader))
        if places is None:
            return x
        kept = self.kept[writers, self.of(reader)].to(x.device)
        return x if bool(kept.all()) else x.masked_fill(~kept[..., places, None], 0.0)

    def at_place(self, column: int) -> Bool[Tensor, " row"] | None:
        """Which of a reader's rows are at the place of a column; None where the graph does not tell places apart."""
        places = self.run.places_in(self.reader_reach(column // len(self.run.graph.places)))
        return None if places is None else places == column % len(self.run.graph.places)

    # ---- who matters where -------------------------------------------------------------------------------------------

    def live_writers(self, unit: int) -> dict[int, Reach]:
        """The writers of a unit with a kept path to the logits, all units downstream being decided."""
        live: dict[int, Reach] = {w: reach for w in self.graph.writers_in[unit] if (reach := self._reach_of(w)) is not None}
        if live and self.graph.shape.coupled_heads:
            # one shared root mean square: if any head of the layer acts on the logits, all of them do; so with neurons
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

    def is_joined(self, reader: int, reach: Mapping[int, Reach]) -> bool:
        """Whether a reader belongs to the logits or to one of these live writers."""
        node = self.graph.readers[reader]
        return isinstance(node, Logits) or any(w in reach for w in self.graph.writers_of(node))

    def reader_reach(self, reader: int) -> Reach:
        """Where a live reader matters."""
        match self.graph.readers[reader]:
            case Logits():
                return "answers"
            case MLP() | Neuron() | Expert() as node:
                return self.reach[self.graph.writer_index[node]]
            case RouterInput() as node:
                reaches = {self.reach[w] for w in self.graph.writers_of(node) if w in self.reach}
                return "changed" if "changed" in reaches else "answers"
            case HeadInput(layer, head, "q"):
                return self.reach[self.graph.writer_of(layer, head)]
            case _:
                return "changed"

    def _live_columns(self, unit: int, live: Sequence[int]) -> list[int]:
        """Where live readers of a unit are live: at places from which edges kept at each place lead to the logits."""
        graph, opened = self.run.graph, list(self.inputs)
        acts = {w: self.kept_from(w)[opened].any(0) for w in graph.writers_in[unit]}

        def matters(column: int) -> bool:
            node = graph.readers[column]
            at = list(graph.reached_from(node))
            return isinstance(node, Logits) or any(bool(acts[w][at].any()) for w in graph.writers_of(node))

        columns = [column for r in live for column in range(self.of(r).start, self.of(r).stop)]
        return columns if self.run.places is None else [column for column in columns if matters(column)]

    # ---- joining with clean values -------------------------------------------------------------------------------------

    def open(self, unit: int) -> "Live":
        """With the nodes of ``unit`` that a kept path joins to the logits; edges into the others are cut."""
        reach: dict[int, Reach] = {**self.reach, **self.live_writers(unit)}
        mine = self.graph.readers_in[unit]
        live = [r for r in mine if self.is_joined(r, reach)]
        columns = self._live_columns(unit, live)
        kept = self.kept.clone()
        kept[:, [column for column in self.run.graph.readers_in[unit] if column not in columns]] = False
        opened = replace(self, kept=kept, columns=self.columns.union(columns), reach=reach)
        inputs = {r: opened.at_rows_of(r, self.run.streams[unit]) for r in live}
        opened = replace(opened, inputs={**self.inputs, **inputs})
        match self.graph.units[unit]:
            case Attention(layer) if live:
                opened = opened._open_heads(unit, layer)
            case MLP() if live:
                opened = opened.refresh(unit, live)
        joined = [w for w in self.graph.writers_in[unit] if w in reach]
        ablated = {
            w: torch.zeros_like(opened.writes[w])
            if self.run.ablates_to_zero
            else opened.writes[w] - self.run.rows.take(self.run.differences[w], "changed", reach[w])
            for w in joined
        }
        return replace(opened, ablated={**self.ablated, **ablated})

    def _open_heads(self, unit: int, layer: int) -> "Live":
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

    # ---- on other inputs -----------------------------------------------------------------------------------------------

    def recompute(self, unit: int, inputs: Inputs, since: Since | None = None) -> Writes:
        """What the unit's writers write when some of its readers find other inputs."""
        match self.graph.units[unit]:
            case Attention(layer):
                return self._writes_of_heads(layer, {h: s.out for h, s in self._recompute_heads(layer, inputs, since).items()})
            case MLP(layer) if self.graph.has_neurons(layer):
                return self._writes_of_neurons(layer, self._activations(layer, inputs, since))
            case MLP(layer) if self.graph.has_experts(layer):
                return self._writes_of_experts(layer, inputs, since)
            case MLP(layer) as node:
                (x,) = inputs.values()
                return {self.graph.writer_index[node]: feed_forward(self.run.model, layer, x)}
            case Logits():
                raise AssertionError("the logits write nothing")

    def _writes_of_experts(self, layer: int, inputs: Inputs, since: Since | None) -> Writes:
        """Writes of the experts that change: those that read changed inputs, and where the router does all but the shared."""
        model, router = self.run.model, self.graph.reader_index[RouterInput(layer)]

        def as_read(reader: int) -> Float[Tensor, "trial row d_model"]:
            standing = self.inputs[reader][None]
            if reader not in inputs or since is None:
                return inputs.get(reader, standing)
            begun = _trials(since, model.device) >= since[reader]
            return torch.where(begun[:, None, None], inputs[reader], standing)

        given = shares(model, layer, normed(model, layer, as_read(router))) if router in self.inputs else None
        outs: Writes = {}
        for reader in (r for r in self.graph.readers_in[self.graph.unit_of[router]] if r in self.inputs and r != router):
            node = self.graph.readers[reader]
            assert isinstance(node, Expert)
            if reader in inputs or (router in inputs and node.expert is not None):
                share = None
                if given is not None and node.expert is not None:
                    share = self.run.rows.take(
                        given[..., node.expert, None], self.reader_reach(router), self.reader_reach(reader)
                    )
                x = normed(model, layer, as_read(reader))
                written = expert_writes(model, layer, node.expert, x, None if share is None else share[..., 0])
                outs[self.graph.writer_index[node]] = written
        return outs

    def _activations(self, layer: int, inputs: Inputs, since: Since | None = None) -> dict[int, Tensor]:
        """Activations of the neurons that read changed inputs, by writer."""
        first, readers = self.graph.reader_index[Neuron(layer, 0)], sorted(inputs)
        writers = [self.graph.writers_in[self.graph.unit_of[first]][reader - first] for reader in readers]
        fresh: dict[int, Tensor] = {}
        # those that matter at the same rows fire together
        for reach in ("changed", "answers"):
            mine = [i for i, writer in enumerate(writers) if self.reach[writer] == reach]
            if mine:
                x = torch.stack([inputs[readers[i]] for i in mine])
                fired = activations(self.run.model, layer, x, [readers[i] - first for i in mine])
                fresh |= {writers[i]: one for i, one in zip(mine, fired, strict=True)}
        if since is None:
            return fresh
        for reader, writer in zip(readers, writers, strict=True):
            begun = _trials(since, self.run.model.device) >= since[reader]
            fresh[writer] = torch.where(begun[:, None], fresh[writer], self.fired[writer])
        return fresh

    def _writes_of_neurons(self, layer: int, fresh: Mapping[int, Tensor]) -> Writes:
        """Writes of the neurons that change when these fire anew: all of them under a shared post-norm."""
        unit = self.graph.unit_of[self.graph.reader_index[Neuron(layer, 0)]]
        first, coupled = self.graph.writers_in[unit][0], self.graph.shape.coupled_heads
        joined = [w for w in self.graph.writers_in[unit] if w in self.reach] if coupled or not fresh else sorted(fresh)
        outs: Writes = {}
        for writer in joined:
            fired = fresh[writer] if writer in fresh else self.fired[writer][None]
            outs[writer] = write_neurons(self.run.model, layer, fired[None], [writer - first])[0]
        if not coupled:
            return outs
        scale = mlp_scale(self.run.model, layer, _sum(outs.values()))
        return outs if scale is None else {writer: out * scale for writer, out in outs.items()}

    def _recompute_heads(self, layer: int, inputs: Inputs, since: Since | None = None) -> dict[int, HeadState]:
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
        self, layer: int, heads: tuple[int, ...], part: HeadPart, reach: Reach, inputs: Inputs, since: Since | None
    ) -> Tensor:
        """Queries, keys or values of heads that all read changed inputs, or (``inputs`` empty) as they stand."""
        standing = torch.stack([getattr(self.heads[layer, head], part) for head in heads])[:, None]
        if not inputs:
            return standing
        rows, readers = self.run.rows, [self.graph.reader_of(layer, head, part) for head in heads]
        want: Reach = reach if part == "q" else "changed"
        distinct = [inputs[r] for r in (readers if len(set(readers)) > 1 else readers[:1])]
        x = torch.stack([rows.take(x, self.reader_reach(r), want) for r, x in zip(readers, distinct, strict=False)])
        fresh = project(self.run.model, layer, part, x, rows[want].pos, heads)
        if part != "q":
            grid = standing.expand(-1, fresh.shape[1], -1, -1, -1).clone()
            grid.flatten(2, 3).index_copy_(2, rows.changed.flat, fresh)
            fresh = grid
        if since is None:
            return fresh
        trials = _trials(since, fresh.device)
        begun = trials >= torch.tensor([[since[r]] for r in readers], device=fresh.device)
        return torch.where(begun.view(*begun.shape, *[1] * (fresh.ndim - 2)), fresh, standing)

    def _mix(
        self, layer: int, heads: tuple[int, ...], reach: Reach, q: Tensor, k: Tensor, v: Tensor
    ) -> Float[Tensor, "head trial row d_model"]:
        """What heads write (before any post-norm) for queries in rows, keys and values in a grid; trial axes broadcast."""
        places = self.run.rows[reach]
        scores = contract(places.to_grid(q), k.transpose(-1, -2))
        pattern = attention_pattern(scores, self.run.mask(layer, reach), self.run.model.config)
        return write_out(self.run.model, layer, places.to_rows(contract(pattern, v)), heads)

    def _writes_of_heads(self, layer: int, outs: Mapping[int, Tensor]) -> Writes:
        """Writes of the layer's writers that change when the heads in ``outs`` do: all of them under a shared post-norm."""
        block = self.graph.is_block(layer)
        coupled = self.graph.shape.coupled_heads or block
        heads = self._live_heads(layer) if coupled or not outs else tuple(outs)
        current = {h: outs[h] if h in outs else self.heads[layer, h].out[None] for h in heads}
        post = self.run.model.weights.layers[layer].attention_post_norm
        scale = post_norm_scale(self.run.model, post, _sum(current.values())) if self.graph.shape.coupled_heads else None
        current = current if scale is None else {h: out * scale for h, out in current.items()}
        if block:
            return {self._writer(layer, 0): _sum(current.values())}
        return {self._writer(layer, h): out for h, out in current.items()}

    def _writer(self, layer: int, head: int) -> int:
        return self.graph.writer_of(layer, head)

    def _live_heads(self, layer: int) -> tuple[int, ...]:
        return tuple(h for h in range(self.graph.shape.n_heads) if self._writer(layer, h) in self.reach)

    def refresh(self, unit: int, readers: Sequence[int]) -> "Live":
        """Recompute the unit's writers from these readers' inputs as they stand."""
        inputs = {r: self.inputs[r][None] for r in readers}
        match self.graph.units[unit]:
            case Logits():
                return self
            case MLP(layer) if self.graph.has_neurons(layer):
                fresh = self._activations(layer, inputs)
                written = self._writes_of_neurons(layer, fresh)
                fired = {**self.fired, **{w: x[0] for w, x in fresh.items()}}
                return replace(self, fired=fired, writes={**self.writes, **{w: x[0] for w, x in written.items()}})
            case MLP():
                written = self.recompute(unit, inputs)
                return replace(self, writes={**self.writes, **{w: x[0] for w, x in written.items()}})
            case Attention(layer):
                fresh = self._recompute_heads(layer, inputs)
                states = {(layer, h): HeadState(s.q[0], s.k[0], s.v[0], s.out[0]) for h, s in fresh.items()}
                written = self._writes_of_heads(layer, {h: s.out for h, s in fresh.items()})
                heads = {**self.heads, **states}
                return replace(self, heads=heads, writes={**self.writes, **{w: x[0] for w, x in written.items()}})

    def input_from_scratch(self, unit: int, reader: int) -> Float[Tensor, "row d_model"]:
        """A reader's input from scratch, so that rounding does not add up over commits."""
        return self._input(unit, reader, ())

    def rest(self, unit: int, reader: int, changed: tuple[int, ...]) -> Float[Tensor, "row d_model"]:
        """A reader's input without what these live writers write, by which it is to be summed up anew.

        Nothing is subtracted from the whole: norms would blow up what rounding leaves of it where all is cut under Zero.
        """
        if (reader, changed) not in self._rests:
            self._rests[reader, changed] = self._input(unit, reader, changed)
        return self._rests[reader, changed]

    def terms(self, reader: int) -> tuple[list[int], Float[Tensor, "writer row d_model"]]:
        """The writers that a live reader keeps edges from, and what each edge adds to the input of a reader that keeps none."""
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
        """What cutting edges takes from a reader's input: clean − ablated of unopened writers."""
        return self.at_rows_of(reader, self.run.differences[list(writers)])

    def at_rows_of(self, reader: int, x: Tensor) -> Tensor:
        """Values at all changed rows, at those where a live reader matters."""
        return self.run.rows.take(x, "changed", self.reader_reach(reader))


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two axes of ``[head, trial, batch, ...]``, trials folded into rows where ``b`` has one."""
    if b.shape[1] > 1 or a.shape[1] == 1:
        return a @ b
    folded = a.transpose(1, 2).flatten(2, 3) @ b[:, 0]
    return folded.unflatten(2, (a.shape[1], a.shape[3])).transpose(1, 2)


def _trials(since: Since, device: torch.device) -> Int[Tensor, " trial"]:
    """The numbers of the trials."""
    return torch.arange(1 + max(since.values()), device=device)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    total, *rest = terms
    for term in rest:
        total = total + term
    return total
