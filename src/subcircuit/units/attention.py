"""The attention of one layer: one node, heads with one input each, or heads with separate query, key and value inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.model.attention import (
    PARTS,
    attend,
    attention,
    finish,
    merged,
    mix,
    mix_at,
    post_norm_scale,
    project,
    project_together,
    projection,
    write_out,
)
from subcircuit.model.components import attention_mask, normalize
from subcircuit.model.config import HeadPart
from subcircuit.model.transformer import Transformer
from subcircuit.units.gradients import GRADIENTS, Rules, norm_pull_back, pull_back
from subcircuit.units.nodes import Attention, Head, HeadInput, Reader, Writer
from subcircuit.units.rows import REACHES, Reach, Rows
from subcircuit.units.unit import CleanUnit, Inputs, Parts, Reaches, Since, Unit, UnitRun, UnitState, Writes, as_they_stand, begun


@dataclass(frozen=True)
class AttentionUnit(Unit):
    """A layer's attention.

    Args:
        n_heads, n_kv_heads: query heads and key/value heads; the former are a multiple of the latter.
        block: all heads form one node; ``split`` is then empty.
        split: heads with separate query, key and value inputs. Every other head has one input for all three.
        grouped: split heads that share keys and values also share the key and value readers.
    """

    n_heads: int
    n_kv_heads: int
    block: bool
    split: tuple[int, ...]
    grouped: bool

    kind = "attention"

    @property
    def name(self) -> str:
        """The name, such as ``a5``."""
        return f"a{self.layer}"

    @property
    def level(self) -> str:
        """The finest level among its heads."""
        return "block" if self.block else "qkv" if self.split else "head"

    @property
    def apart(self) -> "AttentionUnit":
        """The same attention with separate query, key and value readers for every head."""
        return replace(self, block=False, split=tuple(range(self.n_heads)), grouped=False)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """The block, or its heads."""
        return (Attention(self.layer),) if self.block else tuple(Head(self.layer, head) for head in range(self.n_heads))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The block; or first the heads with a single input, then queries, keys and values of the others."""
        if self.block:
            return (Attention(self.layer),)
        inputs = [HeadInput(self.layer, head) for head in range(self.n_heads) if head not in self.split]
        inputs += [HeadInput(self.layer, head, "q") for head in self.split]
        # a group has a key and a value reader if any of its heads is split
        shared = sorted({self._stored(head) for head in self.split}) if self.grouped else self.split
        return (*inputs, *(HeadInput(self.layer, head, part) for part in ("k", "v") for head in shared))

    def _stored(self, head: int) -> int:
        """The key/value head that a query head uses."""
        return head * self.n_kv_heads // self.n_heads

    @cached_property
    def inputs(self) -> dict[HeadPart, tuple[int, ...]]:
        """Per part and head, the reader that the head takes its queries, keys or values from."""
        index = {reader: i for i, reader in enumerate(self.readers)}
        return {part: tuple(index[self._input(head, part)] for head in range(self.n_heads)) for part in PARTS}

    def _input(self, head: int, part: HeadPart) -> Reader:
        if self.block:
            return Attention(self.layer)
        if head not in self.split:
            return HeadInput(self.layer, head)
        return HeadInput(self.layer, self._stored(head) if self.grouped and part != "q" else head, part)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """Per reader, the heads that it is an input of, or the block."""
        return ((0,),) if self.block else tuple(tuple(sorted(heads)) for _, heads in self._uses)

    @cached_property
    def spreads(self) -> tuple[bool, ...]:
        """True for all readers except queries."""
        return tuple(parts != {"q"} for parts, _ in self._uses)

    @cached_property
    def _uses(self) -> tuple[tuple[set[HeadPart], set[int]], ...]:
        """Per reader, the parts (query, key, value) and the heads that it is an input of."""
        uses: list[tuple[set[HeadPart], set[int]]] = [(set(), set()) for _ in self.readers]
        for part, readers in self.inputs.items():
            for head, reader in enumerate(readers):
                uses[reader][0].add(part)
                uses[reader][1].add(head)
        return tuple(uses)

    def readers_within(self, coarser: Unit) -> Parts:
        """Match readers by their heads and parts, not by name: a group has the number of a key/value head, not of a query head."""
        assert isinstance(coarser, AttentionUnit)
        return tuple(
            tuple(i for i, (theirs, used) in enumerate(coarser._uses) if parts <= theirs and heads & used)
            for parts, heads in self._uses
        )

    # ---- computation ---------------------------------------------------------------------------------------------------

    def writes(
        self, model: Transformer, inputs: Float[Tensor, "reader batch pos d_model"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """The value of every head, computed from its query, key and value inputs."""
        q, k, v = (_take(inputs, list(self.inputs[part])) for part in PARTS)
        writes = attend(model, self.layer, q, k, v).writes
        return writes.sum(0, keepdim=True) if self.block else writes

    def bias(self, model: Transformer) -> Float[Tensor, " d_model"] | None:
        """The output bias ``b_O``."""
        return model.weights.layers[self.layer].attention.b_O

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """The attention's part of a plain run; its memory is the keys and values, repeated for every query head."""
        heads = attend(model, self.layer, stream[None], stream[None], stream[None])
        return UnitRun(heads.writes.sum(0, keepdim=True) if self.block else heads.writes, (heads.k, heads.v))

    def adds(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The sum of all heads' values, as in the plain forward pass."""
        return attention(model, self.layer, stream)

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """Gradients at each head's query, key and value inputs, pulled back from its queries, keys and values.

        Separate inputs need not be stored.
        """
        config, norm = model.config, model.weights.layers[self.layer].attention_norm
        heads, normed = tuple(range(config.n_heads)), normalize(stream, config.norm, norm).flatten(0, 1)
        matrices = [projection(model, self.layer, part, heads) for part in PARTS]
        projected = [(normed @ W.flatten(0, 1).T).view(*stream.shape[:2], *W.shape[:2]).permute(2, 0, 1, 3) for W in matrices]
        positions = torch.arange(stream.shape[1], device=stream.device)

        def written(*parts: Float[Tensor, "head batch pos d_head"]) -> Float[Tensor, "batch pos d_model"]:
            named = zip(PARTS, parts, strict=True)
            q, k, v = (finish(model, self.layer, part, x, positions, heads, rules.nonlinear) for part, x in named)
            return merged(model, self.layer, mix(model, self.layer, q, k, v), rules.nonlinear)

        at_normed = normed.new_zeros(len(self.readers), *normed.shape)
        for part, W, gradient in zip(PARTS, matrices, pull_back(written, projected, after), strict=True):
            for head, reader in enumerate(self.inputs[part]):
                # one product per head: readers of several heads and parts (blocks, groups) receive the sum
                at_normed[reader].addmm_(gradient[head].flatten(0, 1), W[head])
        return norm_pull_back(config.norm, norm, stream, at_normed.unflatten(1, stream.shape[:2]), rules.frozen_norms)

    # ---- the exact engine ------------------------------------------------------------------------------------------------

    def open(self, clean: CleanUnit, reach: Reaches, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The live heads with their queries, and with the keys and values of the clean run."""
        return AttentionState(self, clean, reach, {}).joined()

    def adds_at(
        self, clean: CleanUnit, stream: Float[Tensor, "trial row d_model"], have: Reach, want: Reach
    ) -> Float[Tensor, "trial wanted d_model"]:
        """The attention's output, projected once for all heads; keys and values change at all changed rows."""
        assert have == "changed", "keys and values are of all rows that can change"
        model, rows = clean.model, clean.rows
        normed = normalize(stream, model.config.norm, model.weights.layers[self.layer].attention_norm)
        q = project_together(model, self.layer, "q", rows.take(normed, have, want), rows[want].pos)
        k, v = (
            self._into_grid(clean, memory, project_together(model, self.layer, part, normed, rows[have].pos))
            for part, memory in zip(("k", "v"), clean.memory, strict=True)
        )
        mixed = mix_at(model, rows[want].to_grid(q), k, v, seen_at(model, self.layer, rows, want))
        return merged(model, self.layer, rows[want].to_rows(mixed))

    def _into_grid(
        self,
        clean: CleanUnit,
        memory: Float[Tensor, "head batch pos d_head"],
        fresh: Float[Tensor, "kv_head trial row d_head"],
    ) -> Float[Tensor, "head trial batch pos d_head"]:
        """Keys or values at all positions for every query head; ``fresh`` replaces those that can change."""
        shared_by = clean.model.config.heads_per_kv
        grid = memory[::shared_by, None].repeat(1, fresh.shape[1], 1, 1, 1)
        grid.flatten(2, 3).index_copy_(2, clean.rows.changed.flat, fresh)
        return grid.repeat_interleave(shared_by, dim=0)


def _take(inputs: Float[Tensor, "reader batch pos d_model"], readers: list[int]) -> Float[Tensor, "#head batch pos d_model"]:
    """The input of each head, or one input that all heads share; a view instead of a copy where the readers are contiguous."""
    first, last = readers[0], readers[-1] + 1
    together = readers == list(range(first, last)) or len(set(readers)) == 1
    return inputs[first:last] if together else inputs[readers]


def seen_at(model: Transformer, layer: int, rows: Rows, reach: Reach) -> Bool[Tensor, "batch slot key"]:
    """The keys that each query of this reach can attend to."""
    queries = rows[reach]
    return attention_mask(queries.pos[queries.grid], torch.arange(rows.n_pos, device=queries.pos.device), model.config, layer)


@dataclass(frozen=True, eq=False)
class HeadState:
    """One live head, in one state or in several trials; ``out`` is its value before any post-norm."""

    q: Float[Tensor, "*#trial row d_head"]
    k: Float[Tensor, "*#trial batch key d_head"]
    v: Float[Tensor, "*#trial batch key d_head"]
    out: Float[Tensor, "*#trial row d_model"]

    def first(self) -> "HeadState":
        """The head's state in the first trial."""
        return HeadState(self.q[0], self.k[0], self.v[0], self.out[0])


@dataclass(frozen=True, eq=False)
class AttentionState(UnitState):
    """The live heads of a layer. Heads whose queries, keys or values change alike are recomputed together, over all trials.

    Args:
        heads: the state of each live head.
    """

    unit: AttentionUnit
    clean: CleanUnit
    reach: Reaches
    heads: Mapping[int, HeadState]

    def joined(self) -> tuple["AttentionState", Writes]:
        """The state with all live heads as in the clean run, and their writes."""
        rows, heads = self.clean.rows, dict[int, HeadState]()
        for reach in REACHES:
            mine = tuple(head for head in self._live if self.reach[self._writer(head)] == reach)
            if mine:
                x = rows.take(self.clean.stream, "changed", reach)
                q = project(self.clean.model, self.unit.layer, "q", x[None, None], rows[reach].pos, mine)
                k, v = (memory[list(mine)][:, None] for memory in self.clean.memory)
                heads |= self._mixed(mine, reach, q, k, v)
        opened = replace(self, heads={head: state.first() for head, state in heads.items()})
        return opened, as_they_stand(opened._writes({}))

    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the heads that read changed inputs; of all heads under a shared post-norm."""
        return self._writes({head: state.out for head, state in self._recomputed(inputs, since).items()})

    def refresh(self, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The state with those heads recomputed, and their writes."""
        fresh = self._recomputed({reader: x[None] for reader, x in inputs.items()}, None)
        written = self._writes({head: state.out for head, state in fresh.items()})
        heads = {**self.heads, **{head: state.first() for head, state in fresh.items()}}
        return replace(self, heads=heads), as_they_stand(written)

    def _writer(self, head: int) -> int:
        return 0 if self.unit.block else head

    @property
    def _live(self) -> tuple[int, ...]:
        return tuple(head for head in range(self.unit.n_heads) if self._writer(head) in self.reach)

    def _recomputed(self, inputs: Inputs, since: Since | None) -> dict[int, HeadState]:
        """The heads that read changed inputs; their tensors have a leading trial axis (1 where nothing changed)."""
        groups: dict[tuple[Reach, tuple[HeadPart, ...]], list[int]] = {}
        for head in self._live:
            parts: tuple[HeadPart, ...] = tuple(part for part in PARTS if self.unit.inputs[part][head] in inputs)
            if parts:
                groups.setdefault((self.reach[self._writer(head)], parts), []).append(head)
        states: dict[int, HeadState] = {}
        for (reach, parts), heads in groups.items():
            q, k, v = (self._part(heads, part, reach, inputs if part in parts else {}, since) for part in PARTS)
            states |= self._mixed(tuple(heads), reach, q, k, v)
        return states

    def _part(self, heads: Sequence[int], part: HeadPart, reach: Reach, inputs: Inputs, since: Since | None) -> Tensor:
        """Queries, keys or values of heads that all read changed inputs, or (``inputs`` empty) their stored ones."""
        standing = torch.stack([getattr(self.heads[head], part) for head in heads])[:, None]
        if not inputs:
            return standing
        rows, readers = self.clean.rows, [self.unit.inputs[part][head] for head in heads]
        want: Reach = reach if part == "q" else "changed"
        distinct = readers if len(set(readers)) > 1 else readers[:1]
        x = torch.stack([rows.take(inputs[r], self.unit.reader_reach(r, self.reach), want) for r in distinct])
        fresh = project(self.clean.model, self.unit.layer, part, x, rows[want].pos, tuple(heads))
        if part != "q":
            grid = standing.expand(-1, fresh.shape[1], -1, -1, -1).clone()
            grid.flatten(2, 3).index_copy_(2, rows.changed.flat, fresh)
            fresh = grid
        if since is None:
            return fresh
        new = torch.stack([begun(since, reader, fresh.device) for reader in readers])
        return torch.where(new.view(*new.shape, *[1] * (fresh.ndim - 2)), fresh, standing)

    def _mixed(self, heads: tuple[int, ...], reach: Reach, q: Tensor, k: Tensor, v: Tensor) -> dict[int, HeadState]:
        """The heads' states from queries in rows and keys and values in a grid; trial axes broadcast."""
        model, rows, layer = self.clean.model, self.clean.rows, self.unit.layer
        mixed = mix_at(model, rows[reach].to_grid(q), k, v, seen_at(model, layer, rows, reach))
        out = write_out(model, layer, rows[reach].to_rows(mixed), heads)
        return {head: HeadState(q[i], k[i], v[i], out[i]) for i, head in enumerate(heads)}

    def _writes(self, outs: Mapping[int, Tensor]) -> Writes:
        """Values of the writers that change with these heads: all of them under a shared post-norm, or if ``outs`` is empty."""
        unit = self.unit
        heads = self._live if unit.coupled or unit.block or not outs else tuple(outs)
        current = {head: outs[head] if head in outs else self.heads[head].out[None] for head in heads}
        post = self.clean.model.weights.layers[unit.layer].attention_post_norm
        scale = post_norm_scale(self.clean.model, post, reduce(torch.add, current.values())) if unit.coupled else None
        current = current if scale is None else {head: out * scale for head, out in current.items()}
        return {0: reduce(torch.add, current.values())} if unit.block else current
