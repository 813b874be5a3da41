"""A unit in a partly pruned circuit, as it stands, and what it writes on other inputs: its part of the exact engine.

Readers and writers are counted within their unit. Values are at the rows where a node matters (``rows.py``); trials that
change a unit's inputs run together.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.model.transformer import Transformer
from subcircuit.units.rows import Reach, Rows

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
