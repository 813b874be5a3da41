"""The positions where something can change and matter: (example, position) pairs, flattened to rows.

In causal models, nothing changes before the first position in which the clean and the ablated run differ, and nothing
matters after the last answer. If attention is bidirectional, everything may change and matter. A node that reaches the
metric only through inputs read at the answers' own positions (queries, MLPs, the logits) matters only at those positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Reach: TypeAlias = Literal["changed", "answers"]
REACHES: tuple[Reach, ...] = ("changed", "answers")


@dataclass(frozen=True, eq=False)
class RowSet:
    """Some positions of every example, as flat rows and as a padded grid.

    Args:
        flat: ``example * n_pos + position`` of each row, ascending.
        pos: position of each row.
        grid: the row in each slot of each example; spare slots repeat one of the example's rows.
        slot: where each row sits in the flattened grid.
        spare: whether there are spare slots.
    """

    flat: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    grid: Int[Tensor, "batch slot"]
    slot: Int[Tensor, " row"]
    spare: bool

    @staticmethod
    def of(positions: Sequence[Sequence[int]], n_pos: int, device: torch.device) -> "RowSet":
        """The rows of each example's sorted positions (at least one each)."""
        width = max(len(p) for p in positions)
        flat, pos, grid, slot = [], [], [], []
        for example, chosen in enumerate(positions):
            start = len(flat)
            flat += [example * n_pos + p for p in chosen]
            pos += chosen
            grid.append([start + min(s, len(chosen) - 1) for s in range(width)])
            slot += [example * width + s for s in range(len(chosen))]
        tensors = (torch.tensor(values, device=device) for values in (flat, pos, grid, slot))
        return RowSet(*tensors, spare=len(flat) < len(positions) * width)

    def to_grid(self, x: Float[Tensor, "head trial row d_head"]) -> Float[Tensor, "head trial batch slot d_head"]:
        """Rows laid out by example."""
        return x[:, :, self.grid] if self.spare else x.unflatten(2, tuple(self.grid.shape))

    def to_rows(self, x: Float[Tensor, "head trial batch slot d_head"]) -> Float[Tensor, "head trial row d_head"]:
        """The inverse of ``to_grid``."""
        flat = x.flatten(2, 3)
        return flat[:, :, self.slot] if self.spare else flat


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch of prompts that can change, and the rows at which its metric reads logits.

    Args:
        n_pos: number of positions that are computed: up to the last answer, or all.
        changed: rows from each example's first difference to its last answer, or all.
        answers: the positions at which the metric reads logits; a subset of ``changed``.
        answer_of_changed: index of each row of ``answers`` among the rows of ``changed``.
        answer_row: the row of ``answers`` of each of the task's answers.
    """

    n_pos: int
    changed: RowSet
    answers: RowSet
    answer_of_changed: Int[Tensor, " row"]
    answer_row: Int[Tensor, " answer"]

    @staticmethod
    def of(
        first_change: Sequence[int],
        answer_example: Sequence[int],
        answer_pos: Sequence[int],
        device: torch.device,
        both_ways: int | None = None,
    ) -> "Rows":
        """The rows from each example's first differing position and the answers' positions; every example has an answer.

        Args:
            both_ways: the prompts' length if attention is bidirectional; None for causal models.
        """
        n_pos = max(answer_pos) + 1 if both_ways is None else both_ways
        looks = [sorted({p for e, p in zip(answer_example, answer_pos, strict=True) if e == b}) for b in range(len(first_change))]
        spans = [
            range(min(first, look[0]), look[-1] + 1) if both_ways is None else range(n_pos)
            for first, look in zip(first_change, looks, strict=True)
        ]
        changed, answers = (RowSet.of([list(p) for p in positions], n_pos, device) for positions in (spans, looks))
        row_of = {flat: row for row, flat in enumerate(answers.flat.tolist())}
        answer_row = [row_of[e * n_pos + p] for e, p in zip(answer_example, answer_pos, strict=True)]
        return Rows(
            n_pos,
            changed,
            answers,
            torch.searchsorted(changed.flat, answers.flat),
            torch.tensor(answer_row, device=device),
        )

    def __getitem__(self, reach: Reach) -> RowSet:
        """The positions of a node of this reach."""
        return self.changed if reach == "changed" else self.answers

    def take(self, x: Tensor, have: Reach, want: Reach) -> Tensor:
        """Values with rows in the second-last axis, at the rows of another reach.

        Only "changed" can be narrowed to "answers", because a node that matters at all changed rows needs its inputs at all of them.
        """
        assert have == want or have == "changed", (have, want)
        return x if have == want else x.index_select(-2, self.answer_of_changed)
