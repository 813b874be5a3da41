"""A unit: one layer's attention or MLP at one level of abstraction, or the logits. All its nodes are computed together.

A level determines only how a unit splits its reads and its writes. A unit therefore lists its readers and writers, and
computes its writers' values from one input per reader. A graph is a sequence of units; no other code depends on the kind of node.

Readers and writers are indexed within their unit, from 0. A unit reads the values that were written at a smaller clock. In a
parallel block (GPT-NeoX) attention and MLP have the same clock, so neither reads the other.

``UnitState`` is a unit's part of the exact engine: its state in a partly pruned circuit, and its writes for other inputs.
Values are at the rows where a node matters (``rows.py``). Trials that change a unit's inputs run together.

``Stream`` is the residual stream at one unit after the other.
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
        stream: the residual stream at its readers, at all rows that can change.
        memory: other tensors of the clean run that the unit needs, see ``UnitRun``.
    """

    model: Transformer
    rows: Rows
    stream: Float[Tensor, "row d_model"]
    memory: tuple[Tensor, ...]


class UnitState(ABC):
    """The state of a unit's live nodes. States are frozen: a change returns a new state."""

    @abstractmethod
    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the writers that change when some readers receive other inputs.

        Args:
            inputs: per changed reader, its input in every trial; with ``since``, one input for all trials.
            since: the first trial in which each reader receives its new input; the last trial is the first of some reader.
        """

    @abstractmethod
    def refresh(self, inputs: Inputs) -> "tuple[UnitState, Writes]":
        """The state after adopting these inputs, [row d_model] each, and the values that change."""


def in_trials(standing: Inputs, inputs: Inputs, reader: int, since: Since | None) -> Float[Tensor, "trial row d_model"]:
    """A reader's input in every trial; a single row stands for all trials."""
    if reader not in inputs or since is None:
        return inputs.get(reader, standing[reader][None])
    return torch.where(begun(since, reader, standing[reader].device)[:, None, None], inputs[reader], standing[reader])


def begun(since: Since, reader: int, device: torch.device) -> Bool[Tensor, " trial"]:
    """The trials in which a reader has its new input."""
    return torch.arange(1 + max(since.values()), device=device) >= since[reader]


def as_they_stand(written: Writes) -> Writes:
    """Values of a single trial, without the trial axis."""
    return {writer: values[0] for writer, values in written.items()}


Parts = tuple[tuple[int, ...], ...]
"""For each node of a unit, the nodes of a coarser unit that it is part of: none where it is part of none."""


@dataclass(frozen=True, eq=False)
class UnitRun:
    """A unit in a plain run.

    Args:
        writes: value of each of its writers, without the bias that belongs to no writer.
        memory: tensors that the exact engine needs to update the unit: keys and values.
    """

    writes: Float[Tensor, "writer batch pos d_model"]
    memory: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Unit(ABC):
    """Nodes that are computed together. The topology depends only on the fields: equal units have equal nodes.

    Args:
        layer: the layer's index.
        clock: the time at which the unit reads. Its writes are available to all units with a larger clock.
        coupled: its writers share a norm (sandwich norms), so wherever one of them acts, all do.
    """

    layer: int
    clock: int
    coupled: bool = field(default=False, kw_only=True)

    kind: ClassVar[Kind]
    """The part of the model that it belongs to."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The unit's name, ``a5`` or ``m5``, which is the same at every level."""

    @property
    @abstractmethod
    def level(self) -> str:
        """The unit's level, in the words of scopes."""

    @property
    def apart(self) -> "Unit":
        """The unit at the level that explanations use: heads with separate query, key and value inputs."""
        return self

    @property
    def drawn(self) -> "Unit":
        """The unit at the level that pictures use: one node per box."""
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
        """Per reader, the writers that it is an input of, without those that it reaches only through a shared norm."""
        raise NotImplementedError

    @cached_property
    def inputs(self) -> Mapping[HeadPart, tuple[int, ...]]:
        """Per part, the readers from which each head takes its queries, keys or values; empty where there are no heads."""
        return {}

    @cached_property
    def spreads(self) -> tuple[bool, ...]:
        """Per reader, whether its input at a position changes writes at other positions, as keys and values do."""
        return (False,) * len(self.readers)

    def readers_within(self, coarser: "Unit") -> Parts:
        """Per reader, the readers that it is part of in the same attention or MLP at a coarser level."""
        return same_or_whole(self.readers, coarser.readers, coarser.name)

    def writers_within(self, coarser: "Unit") -> Parts:
        """Per writer, the writer that it is part of in the same attention or MLP at a coarser level."""
        return same_or_whole(self.writers, coarser.writers, coarser.name)

    def reader_reach(self, reader: int, reach: Reaches) -> Reach:
        """The rows at which a reader matters: wherever any live writer that it is an input of matters.

        Args:
            reach: where each live writer of the unit matters.
        """
        if self.spreads[reader]:
            return "changed"
        return "changed" if any(reach.get(writer) == "changed" for writer in self.feeds[reader]) else "answers"

    # ---- computation ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """The values of its writers, given an input for each reader, not yet normalised.

        Rows are all positions of the prompts; for units that work position by position any rows will do.
        """

    def bias(self, model: Transformer) -> Float[Tensor, " d_model"] | None:
        """The bias that is added to the stream with its writes and belongs to no writer; it is never ablated."""
        return None

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """The unit's part of a plain run, in which all its readers have the same stream as input."""
        return UnitRun(self.writes(model, stream.expand(len(self.readers), *stream.shape)))

    def adds(self, model: Transformer, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The unit's contribution to the stream in a plain run, its bias included."""
        written, bias = self.run(model, stream).writes.sum(0), self.bias(model)
        return written if bias is None else written + bias

    @property
    def pieces(self) -> "tuple[Unit, ...]":
        """Units that each hold some of the nodes, in order; running them one after the other saves memory."""
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
            stream: the input of all readers.
            after: gradient with respect to the value of each writer.

        Raises:
            GraphError: ``rules`` are other than plain gradients, and the unit does not implement them.
        """
        if rules.nonlinear is not GRADIENTS.nonlinear or rules.frozen_norms:
            raise GraphError(f"level {self.name} supports plain gradients only: choose another method, for example eap")
        inputs = stream.expand(len(self.readers), *stream.shape)
        return widened(pull_back(lambda x: self.writes(model, x).sum(0), (inputs,), after)[0])

    # ---- the exact engine ------------------------------------------------------------------------------------------------

    def open(self, clean: CleanUnit, reach: Reaches, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The unit's state in the clean run, and the values of its live writers.

        Args:
            reach: where each live writer matters.
            inputs: input of each live reader.
        """
        return PointwiseState(self, clean, reach, inputs).refresh(inputs)

    def adds_at(
        self, clean: CleanUnit, stream: Float[Tensor, "trial row d_model"], have: Reach, want: Reach
    ) -> Float[Tensor, "trial wanted d_model"]:
        """The unit's contribution to the stream at the rows of ``want``, when the stream at all its readers changes.

        Args:
            stream: the changed stream of every trial, at the rows of ``have``.
        """
        return self.adds(clean.model, clean.rows.take(stream, have, want))


@dataclass(frozen=True, eq=False)
class PointwiseState(UnitState):
    """A unit that works position by position.

    Args:
        inputs: current input of each live reader.
    """

    unit: Unit
    clean: CleanUnit
    reach: Reaches
    inputs: Inputs

    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the affected writers; those with the same reach are computed together."""
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
        """A reader's input at the rows of a reach; zeros at rows where it does not matter, because no node there depends on it."""
        have = self.unit.reader_reach(reader, self.reach)
        if reader not in self.inputs or (have, at) == ("answers", "changed"):
            return self.clean.rows.take(self.clean.stream, "changed", at).new_zeros(1, 1, 1)
        return self.clean.rows.take(in_trials(self.inputs, inputs, reader, since), have, at)

    def refresh(self, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The state with the new inputs, and the values that change."""
        written = self.recompute({reader: x[None] for reader, x in inputs.items()})
        return replace(self, inputs={**self.inputs, **inputs}), as_they_stand(written)


@dataclass(frozen=True)
class LogitsUnit(Unit):
    """The final norm and the unembedding: one reader and no writers."""

    kind = "logits"

    @property
    def name(self) -> str:
        """``logits``."""
        return "logits"

    @property
    def level(self) -> str:
        """The level of the single node."""
        return "block"

    @cached_property
    def readers(self) -> tuple[Logits, ...]:
        """The logits."""
        return (Logits(),)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """No writers."""
        return ()

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """The logits reader feeds no writer."""
        return ((),)

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """No values, because there are no writers."""
        return inputs[:0]


def same_or_whole(nodes: Sequence[Reader | Writer], coarser: Sequence[Reader | Writer], whole: str) -> Parts:
    """Per node, the coarser node of the same name; otherwise the coarser node if it is the whole unit."""
    index = {node: i for i, node in enumerate(coarser)}
    otherwise = (0,) if [str(node) for node in coarser[:2]] == [whole] else ()
    return tuple((index[node],) if node in index else otherwise for node in nodes)


class Stream:
    """A sum that units read and add to, in the order of computation or in reverse; units of one clock read the same sum.

    Args:
        total: the sum before the first unit.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = self._found = total
        self._clock: int | None = None

    def read_by(self, unit: Unit) -> Tensor:
        """The sum that a unit reads."""
        if unit.clock != self._clock:
            self._found, self._clock = self.total, unit.clock
        return self._found

    def add(self, *terms: Tensor | None) -> None:
        """Add terms one after the other; None adds nothing."""
        for term in terms:
            self.total = self.total if term is None else self.total + term
