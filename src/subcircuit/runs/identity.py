"""Identity of a run: digests of the model's weights, the tokenizer and the prompts, on which its results depend beside its options."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.model.transformer import Transformer
    from subcircuit.tasks import Split, Task


def identity(model: "Transformer", prompts: "Task | Split") -> dict[str, Any]:
    """As JSON values; runs with the same identity and options have the same results, to the last bit.

    Args:
        prompts: those of the search, or a split of which they are a part.
    """
    from subcircuit.tasks import Split

    task, parts = (prompts.search, prompts.parts) if isinstance(prompts, Split) else (prompts, {})
    return {
        "weights": model.weights_digest,
        "config": model.config.digest,
        "tokenizer": model.vocabulary.tokenizer,
        "prompts": task.digest,
        **{f"{name} prompts": part.digest for name, part in parts.items() if part is not task},
        # a prompt file may give the same prompts other roles
        "roles": None if task.roles is None else task.roles.digest,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        # where the two can be found again, see `sources`; what they hold is above
        "model_files": model.revision,
        "prompt_file": task.parameters.get("sha256"),
        **{package: version(package) for package in ("subcircuit", "torch")},
    }
