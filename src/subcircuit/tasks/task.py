"""A task: pairs of prompts that differ in one respect, the positions where logits are read, and the right and wrong tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import compress, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.errors import PromptError, SettingsError
from subcircuit.graph import Circuit
from subcircuit.model.tokens import Tokens, Vocabulary
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.roles import Roles, Span


@dataclass(frozen=True)
class Answer:
    """One position of one prompt: its right and wrong next tokens.

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

    @property
    def contrasts(self) -> bool:
        """Whether every answer has wrong tokens to set the right ones against."""
        return bool(self.wrong_mask.any(-1).all())

    def of_examples(self, wanted: Bool[Tensor, " batch"]) -> "Answers":
        """The answers of the selected examples, renumbered from 0."""
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


@dataclass(frozen=True)
class PromptPair:
    """One example as text.

    Args:
        clean: the prompt that elicits the behaviour; None where prompts are made of token ids.
        corrupted: the counterpart, with as many tokens, which does not elicit the behaviour.
        answers: right continuations of ``clean``, one token each.
        wrong_answers: continuations that the right ones are compared with; may be empty.
        spans: the words of ``clean``, and of ``corrupted``, that have a role. Equality of pairs ignores them.
    """

    clean: str | None
    corrupted: str | None
    answers: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()
    spans: tuple[Span, ...] = field(default=(), compare=False)


@dataclass(frozen=True, eq=False)
class Task:
    """A behaviour as data. Make one with `load_task`, `build_task` or `build_task_of_ids`, which check their arguments.

    Args:
        name: the built-in task's, or the prompt file's.
        parameters: everything needed to make the task again, as JSON values.
        pairs: the examples as text.
        clean: the prompts that elicit the behaviour.
        corrupted: their counterparts, of the same lengths.
        answers: where logits are read, and which tokens are right and wrong there.
        metric: name of the default metric.
        roles: the role of each position; None if the task declares no roles.
        vocabulary: the vocabulary of its token ids; None if it is unknown.
    """

    name: str
    parameters: Mapping[str, Any]
    pairs: tuple[PromptPair, ...]
    clean: Tokens
    corrupted: Tokens
    answers: Answers
    metric: str
    roles: Roles | None = None
    vocabulary: Vocabulary | None = None

    def __repr__(self) -> str:
        shortest, longest = int(self.clean.lengths.min()), int(self.clean.lengths.max())
        length = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        return f"Task({self.name}: {len(self)} pairs of prompts of {length} tokens, metric {self.metric})"

    def __post_init__(self) -> None:
        assert len(self.pairs) == len(self.clean) == len(self.corrupted) == self.answers.n_examples
        assert torch.equal(self.clean.lengths, self.corrupted.lengths)
        assert self.roles is None or self.roles.of.shape == self.clean.ids.shape

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, examples: slice) -> "Task":
        """A run of the examples, ``task[start:stop]``.

        Raises:
            SettingsError: no example is left, or the slice has a step.
        """
        start, stop, step = examples.indices(len(self))
        if step != 1 or start >= stop:
            raise SettingsError(f"task {self.name} has {len(self)} examples: {examples} does not select consecutive examples.")
        wanted = torch.zeros(len(self), dtype=torch.bool, device=self.clean.ids.device)
        wanted[start:stop] = True
        return self.where(wanted)

    def where(self, wanted: Bool[Tensor, " batch"]) -> "Task":
        """The selected examples, at least one, in their order."""
        clean = self.clean[wanted]
        return replace(
            self,
            pairs=tuple(compress(self.pairs, wanted.tolist())),
            clean=clean,
            corrupted=self.corrupted[wanted],
            answers=self.answers.of_examples(wanted),
            roles=None if self.roles is None else self.roles.of_examples(wanted, clean.ids.shape[1]),
        )

    def to(self, device: torch.device | str) -> "Task":
        """The same task on another device."""
        return replace(
            self,
            clean=self.clean.to(device),
            corrupted=self.corrupted.to(device),
            answers=self.answers.to(device),
            roles=None if self.roles is None else self.roles.to(device),
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of token ids and answers: tasks with the same digest are the same test of a model."""
        prompts = [tokens.to_lists() for tokens in (self.clean, self.corrupted)]
        a = self.answers
        options = [
            [ids[mask].tolist() for ids, mask in zip(*pair, strict=True)]
            for pair in ((a.correct, a.correct_mask), (a.wrong, a.wrong_mask))
        ]
        return sha256(repr((prompts, a.example.tolist(), a.pos.tolist(), options)).encode()).hexdigest()


def check_vocabulary(model: Transformer, task: Task) -> None:
    """Refuse a task whose token ids stand for other words in a model.

    Raises:
        PromptError: it was made for a model with another tokenizer, or with more tokens; the message says which.
    """
    made_for, own = task.vocabulary, model.vocabulary
    if made_for is not None and made_for.tokenizer != own.tokenizer:
        has = "no tokenizer to compare with (load it with tokenizer=…)" if own.tokenizer is None else "another tokenizer"
        raise PromptError(
            f"task {task.name} was made for {_described(made_for)}, and {own.model} has {has}: the same token ids may stand for other "
            "words. Make the task again for this model."
        )
    # without tokenizers only the number of tokens is known
    fixed = made_for is not None and made_for.tokenizer is None and made_for.size != own.size
    if fixed or _largest_id(task) >= own.size:
        source = "another model" if made_for is None else _described(made_for)
        raise PromptError(
            f"task {task.name} was made for {source}, and {own.model} has another vocabulary, of {own.size:,} tokens: the same token "
            "ids stand for other words. Make the task again for this model."
        )


def check_same_vocabulary(circuit: Circuit, task: Task) -> None:
    """Refuse a task that was made for a model with another tokenizer than that of the model in which a circuit was found.

    Raises:
        PromptError: the tokenizers are known and differ; the message says whose they are.
    """
    found_in = None if circuit.record is None else circuit.record.model
    if found_in is None or found_in.tokenizer is None or task.vocabulary is None or task.vocabulary.tokenizer is None:
        return
    if not task.vocabulary.tokenizer.startswith(found_in.tokenizer):
        raise PromptError(
            f"the circuit was found in {found_in.name}, and task {task.name} was made for {task.vocabulary.model}, which has another "
            f"tokenizer: make the task for {found_in.name}, or search again in {task.vocabulary.model}."
        )


def _described(vocabulary: Vocabulary) -> str:
    kind = "" if vocabulary.tokenizer is not None else f" (no tokenizer, {vocabulary.size:,} tokens)"
    return f"{vocabulary.model}{kind}"


def _largest_id(task: Task) -> int:
    answers = task.answers
    ids = (task.clean.ids, task.corrupted.ids, answers.correct, answers.wrong)
    return max(int(each.max()) for each in ids if each.numel())


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
