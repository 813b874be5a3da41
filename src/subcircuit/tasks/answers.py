"""Where a task reads logits and which tokens are right and wrong there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """One place of one prompt: its right and wrong next tokens.

    Args:
        example: number of the prompt in its batch, from 0.
        pos: position whose logits are read; they predict the token after it.
        correct: ids of right next tokens, at least one.
        wrong: ids of wrong next tokens, possibly none.
    """

    example: int
    pos: int
    correct: tuple[int, ...]
    wrong: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Answers:
    """All answers of a batch, in the order of its examples; every example has at least one.

    Args:
        example: the prompt of each answer, ascending from 0.
        pos: the position whose logits are read.
        correct: ids of right next tokens; 0 where ``correct_mask`` is false.
        correct_mask: which of ``correct`` count.
        wrong: ids of wrong next tokens; 0 where ``wrong_mask`` is false.
        wrong_mask: which of ``wrong`` count.
    """

    example: Int[Tensor, " answer"]
    pos: Int[Tensor, " answer"]
    correct: Int[Tensor, "answer correct"]
    correct_mask: Bool[Tensor, "answer correct"]
    wrong: Int[Tensor, "answer wrong"]
    wrong_mask: Bool[Tensor, "answer wrong"]

    def __repr__(self) -> str:
        return f"Answers({len(self)} answers of {self.n_examples} examples)"

    @staticmethod
    def from_list(answers: Sequence[Answer], device: torch.device | str = "cpu") -> "Answers":
        """Pad answers into one batch."""
        assert answers, "every example needs an answer"
        assert answers[0].example == 0
        assert all(b.example - a.example in (0, 1) for a, b in pairwise(answers)), "answers follow the order of examples"
        assert all(answer.correct for answer in answers)
        return Answers(
            torch.tensor([answer.example for answer in answers], device=device),
            torch.tensor([answer.pos for answer in answers], device=device),
            *_pad([answer.correct for answer in answers], device),
            *_pad([answer.wrong for answer in answers], device),
        )

    def __len__(self) -> int:
        return len(self.example)

    @property
    def n_examples(self) -> int:
        """Prompts in the batch."""
        return int(self.example[-1]) + 1

    def of_examples(self, wanted: Bool[Tensor, " batch"]) -> "Answers":
        """The answers of the examples that are wanted, which are numbered from 0 again."""
        kept = wanted[self.example]
        return Answers(
            (wanted.cumsum(0) - 1)[self.example[kept]],
            self.pos[kept],
            self.correct[kept],
            self.correct_mask[kept],
            self.wrong[kept],
            self.wrong_mask[kept],
        )

    def to(self, device: torch.device | str) -> "Answers":
        """The same answers on another device."""
        return Answers(
            self.example.to(device),
            self.pos.to(device),
            self.correct.to(device),
            self.correct_mask.to(device),
            self.wrong.to(device),
            self.wrong_mask.to(device),
        )

    def rows(self, stream: Float[Tensor, "*trial batch pos d_model"]) -> Float[Tensor, "*trial answer d_model"]:
        """The rows of a residual stream (or of logits) at which answers are read."""
        return stream[..., self.example, self.pos, :]

    def per_example(self, values: Float[Tensor, "*trial answer"]) -> Float[Tensor, "*trial batch"]:
        """Mean over each example's answers, in float64. One NaN makes its example NaN and no other."""
        counts = torch.bincount(self.example)
        sums = torch.zeros(*values.shape[:-1], len(counts), dtype=torch.float64, device=values.device)
        return sums.index_add(-1, self.example, values.double()) / counts

    def mean(self, values: Float[Tensor, "*trial answer"]) -> Float[Tensor, "*trial"]:
        """Mean over each example's answers, then over examples: what a search minimises. In float64."""
        return self.per_example(values).mean(-1)


def _pad(
    ids: Sequence[tuple[int, ...]], device: torch.device | str
) -> tuple[Int[Tensor, "answer option"], Bool[Tensor, "answer option"]]:
    width = max(len(row) for row in ids)
    padded = [[*row, *[0] * (width - len(row))] for row in ids]
    mask = [[column < len(row) for column in range(width)] for row in ids]
    # a width of 0 leaves torch no values to tell the dtype from
    return (
        torch.tensor(padded, dtype=torch.long, device=device).view(len(ids), width),
        torch.tensor(mask, dtype=torch.bool, device=device).view(len(ids), width),
    )
