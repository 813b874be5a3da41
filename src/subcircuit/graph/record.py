"""How a circuit was found: everything needed to find it again."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(_Frozen):
    """Which model: its name, the checkpoint's revision, digests of its config and tokenizer, and its width."""

    name: str
    revision: str | None
    config: str
    tokenizer: str | None
    dtype: str
    d_model: int | None = None


class TaskRecord(_Frozen):
    """Which prompts: the task's name, its parameters, and a digest of the tokens and answers."""

    name: str
    parameters: dict[str, Any]
    digest: str


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
