"""A unit: what is computed at once, one layer's attention or MLP at one level of abstraction, or the logits.

A level says only how a unit splits its reads and its writes. So a unit lists its readers and writers and says what its
writers write for one input per reader; a graph is a sequence of units, and nothing else asks which kind of node it has.

Readers and writers are counted within their unit, from 0. A unit reads what was written at a smaller clock: of a parallel
block (GPT-NeoX) attention and MLP have the same clock, so that neither reads the other.

A unit in a partly pruned circuit, as it stands, and what it writes on other inputs: its part of the exact engine.

Readers and writers are counted within their unit. Values are at the rows where a node matters (``rows.py``); trials that
change a unit's inputs run together.

The residual stream as units find it one after the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import GraphError
from subcircuit.model.config import HeadPart
from subcircuit.model.transformer import Transformer
from subcircuit.units.gradients import GRADIENTS, Rules, pull_back, widened
from subcircuit.units.nodes import Kind, Logits, Reader, Writer
from subcircuit.units.rows import REACHES, Reach, Rows

Reaches: TypeAlias = Mapping[int, Reach]  # live writer -> rows at which it matters
Inputs: TypeAlias = Mapping[int, Tensor]  # reader -> Float[Tensor, "trial row d_model"], or "row d_model" as they stand
Writes: TypeAlias = dict[int, Tensor]  # writer -> Float[Tensor, "trial row d_model"], or "row d_model" as they stand
Since: TypeAlias = Mapping[int, int]  # reader -> the first trial in which it finds its new input


@dataclass(frozen=True, eq=False)
class CleanUnit:
    """A unit in the clean run.

    Args:
        stream: what its readers find, at all rows that can change.
        memory: what it keeps of the run besides, see ``UnitRun``.
    """

    model: Transformer
    rows: Rows
    stream: Float[Tensor, "row d_model"]
    memory: tuple[Tensor, ...]


class UnitState(ABC):
    """A unit's live nodes as they stand. Frozen: what changes them makes a new state."""

    @abstractmethod
    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """What writers write where some readers find other inputs; of those alone that change.

        Args:
            inputs: of each changed reader in every trial; with ``since``, one for all trials.
            since: the first of the trials in which each reader finds its new input; the last trial is the first of some reader.
        """

    @abstractmethod
    def refresh(self, inputs: Inputs) -> "tuple[UnitState, Writes]":
        """The state in which these inputs, [row d_model] each, are the standing ones, and what then changes."""


def in_trials(standing: Inputs, inputs: Inputs, reader: int, since: Since | None) -> Float[Tensor, "trial row d_model"]:
    """What a reader finds in every trial, or with a single row for all of them."""
    if reader not in inputs or since is None:
        return inputs.get(reader, standing[reader][None])
    return torch.where(begun(since, reader, standing[reader].device)[:, None, None], inputs[reader], standing[reader])


def begun(since: Since, reader: int, device: torch.device) -> Bool[Tensor, " trial"]:
    """In which trials a reader finds its new input."""
    return torch.arange(1 + max(since.values()), device=device) >= since[reader]


def as_they_stand(written: Writes) -> Writes:
    """Writes of a single trial without its axis."""
    return {writer: values[0] for writer, values in written.items()}


Parts = tuple[tuple[int, ...], ...]
"""For each node of a unit, the nodes of a coarser unit that it is part of: none where it is part of none."""


@dataclass(frozen=True, eq=False)
class UnitRun:
    """A unit in a plain run.

    Args:
        writes: what each of its writers writes, without the bias that belongs to none of them.
        memory: what the exact engine needs of the run to update the unit: keys and values.
    """

    writes: Float[Tensor, "writer batch pos d_model"]
    memory: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Unit(ABC):
    """What is computed at once. Topology only depends on its fields: equal units have equal nodes.

    Args:
        layer: its number.
        clock: when it reads. What it writes is there for all units of a greater clock.
        coupled: its writers share a norm (sandwich norms), so each of them acts wherever one of them acts.
    """

    layer: int
    clock: int
    coupled: bool = field(default=False, kw_only=True)

    kind: ClassVar[Kind]
    """The part of the model that it belongs to."""

    @property
    @abstractmethod
    def name(self) -> str:
        """``a5``, ``m5``: the same at every level."""

    @property
    @abstractmethod
    def level(self) -> str:
        """The level at which it is resolved, as scopes call it."""

    @property
    def apart(self) -> "Unit":
        """As fine as explanations have it: heads whose queries, keys and values have inputs of their own."""
        return self

    @property
    def drawn(self) -> "Unit":
        """As coarse as pictures have it: what is one box is one node."""
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it reads as one node."""
        return [reader.name for reader in self.readers[:2]] == [self.name]

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Its readers in order of computation."""
        raise NotImplementedError

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Its writers in order of computation."""
        raise NotImplementedError

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """For each reader the writers that it is an input of; those that it reaches through a shared norm alone are left out."""
        raise NotImplementedError

    @cached_property
    def inputs(self) -> Mapping[HeadPart, tuple[int, ...]]:
        """The readers from which attention heads take their queries, keys and values, head by head; none where there are no heads."""
        return {}

    @cached_property
    def spreads(self) -> tuple[bool, ...]:
        """For each reader whether what it reads at a position changes what is written at others, as keys and values do."""
        return (False,) * len(self.readers)

    def readers_within(self, coarser: "Unit") -> Parts:
        """The readers of the same attention or MLP at a coarser level that each reader is part of."""
        return same_or_whole(self.readers, coarser.readers, coarser.name)

    def writers_within(self, coarser: "Unit") -> Parts:
        """The writer of the same attention or MLP at a coarser level that each writer is part of."""
        return same_or_whole(self.writers, coarser.writers, coarser.name)

    def reader_reach(self, reader: int, reach: Reaches) -> Reach:
        """Where a reader matters: wherever one of the live writers does that it is an input of.

        Args:
            reach: where each live writer of the unit matters.
        """
        if self.spreads[reader]:
            return "changed"
        return "changed" if any(reach.get(writer) == "changed" for writer in self.feeds[reader]) else "answers"

    # ---- computation ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """What its writers write, given an input for each reader, not yet normalised.

        Rows are all positions of prompts; of units that work position by position they may be any.
        """

    def bias(self, model: Transformer) -> Float[Tensor, " d_model"] | None:
        """What joins the stream with its writes and belongs to none of them; it is never ablated."""
        return None

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """Its part of a plain run, in which all of its readers find one stream."""
        return UnitRun(self.writes(model, stream.expand(len(self.readers), *stream.shape)))

    def adds(self, model: Transformer, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What it adds to the stream in a plain run, its bias included."""
        written, bias = self.run(model, stream).writes.sum(0), self.bias(model)
        return written if bias is None else written + bias

    @property
    def pieces(self) -> "tuple[Unit, ...]":
        """Units of some of its nodes each, in order, that can run one after the other where memory counts."""
        return (self,)

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """Gradients with respect to the input of each reader in a plain run, in float32 at least.

        Args:
            stream: what all readers find.
            after: gradient with respect to what each writer writes.

        Raises:
            GraphError: rules other than plain gradients, which a unit has to know.
        """
        if rules.nonlinear is not GRADIENTS.nonlinear or rules.frozen_norms:
            raise GraphError(f"{self.name} has plain gradients alone: choose another method, for example eap")
        inputs = stream.expand(len(self.readers), *stream.shape)
        return widened(pull_back(lambda x: self.writes(model, x).sum(0), (inputs,), after)[0])

    # ---- the exact engine ------------------------------------------------------------------------------------------------

    def open(self, clean: CleanUnit, reach: Reaches, inputs: Inputs) -> tuple[UnitState, Writes]:
        """Its state in the clean run, and what its live writers write.

        Args:
            reach: where each live writer matters.
            inputs: of each live reader.
        """
        return PointwiseState(self, clean, reach, inputs).refresh(inputs)

    def adds_at(
        self, clean: CleanUnit, stream: Float[Tensor, "trial row d_model"], have: Reach, want: Reach
    ) -> Float[Tensor, "trial wanted d_model"]:
        """What it adds to the stream at the rows of ``want`` when the stream that all its readers find changes.

        Args:
            stream: in every trial, at the rows of ``have``.
        """
        return self.adds(clean.model, clean.rows.take(stream, have, want))


@dataclass(frozen=True, eq=False)
class PointwiseState(UnitState):
    """A unit that works position by position.

    Args:
        inputs: of live readers, as they stand.
    """

    unit: Unit
    clean: CleanUnit
    reach: Reaches
    inputs: Inputs

    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """All affected writers of one reach at once."""
        unit, outs = self.unit, dict[int, Tensor]()
        affected = {w for reader in inputs for w in unit.feeds[reader]}
        live = [w for w in self.reach if unit.coupled or w in affected]
        for at in REACHES:
            mine = [w for w in live if self.reach[w] == at]
            if mine:
                read = [self._read(reader, at, inputs, since) for reader in range(len(unit.readers))]
                written = unit.writes(self.clean.model, torch.stack(torch.broadcast_tensors(*read)))
                outs |= {w: written[w] for w in mine}
        return outs

    def _read(self, reader: int, at: Reach, inputs: Inputs, since: Since | None) -> Float[Tensor, "trial row d_model"]:
        """What a reader finds at the rows of a reach; zeros where it matters less widely, as then nobody there depends on it."""
        have = self.unit.reader_reach(reader, self.reach)
        if reader not in self.inputs or (have, at) == ("answers", "changed"):
            return self.clean.rows.take(self.clean.stream, "changed", at).new_zeros(1, 1, 1)
        return self.clean.rows.take(in_trials(self.inputs, inputs, reader, since), have, at)

    def refresh(self, inputs: Inputs) -> tuple[UnitState, Writes]:
        """Keep the inputs."""
        written = self.recompute({reader: x[None] for reader, x in inputs.items()})
        return replace(self, inputs={**self.inputs, **inputs}), as_they_stand(written)


@dataclass(frozen=True)
class LogitsUnit(Unit):
    """The final norm and the unembedding: they read and write nothing."""

    kind = "logits"

    @property
    def name(self) -> str:
        """``logits``."""
        return "logits"

    @property
    def level(self) -> str:
        """They are one node."""
        return "block"

    @cached_property
    def readers(self) -> tuple[Logits, ...]:
        """The logits."""
        return (Logits(),)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """None."""
        return ()

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """Nothing."""
        return ((),)

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """Nothing."""
        return inputs[:0]


def same_or_whole(nodes: Sequence[Reader | Writer], coarser: Sequence[Reader | Writer], whole: str) -> Parts:
    """For each node the one of the same name among coarser nodes, or the only one of them where it is the whole unit."""
    index = {node: i for i, node in enumerate(coarser)}
    otherwise = (0,) if [str(node) for node in coarser[:2]] == [whole] else ()
    return tuple((index[node],) if node in index else otherwise for node in nodes)


class Stream:
    """A sum that units read and add to, in the order of computation or against it; units of one clock find the same.

    Args:
        total: before the first unit.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = self._found = total
        self._clock: int | None = None

    def read_by(self, unit: Unit) -> Tensor:
        """What a unit finds."""
        if unit.clock != self._clock:
            self._found, self._clock = self.total, unit.clock
        return self._found

    def add(self, *terms: Tensor | None) -> None:
        """Add terms one after the other; None adds nothing."""
        for term in terms:
            self.total = self.total if term is None else self.total + term
