"""What a run's results depend on beside its options: digests of the model's weights, the tokenizer and the prompts."""

from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.model.transformer import Transformer
    from subcircuit.tasks import Task


def identity(model: "Transformer", task: "Task") -> dict[str, Any]:
    """As JSON values; runs with the same identity and options have the same results, to the last bit."""
    return {
        "weights": _digest_of_weights(model),
        "config": model.config.digest,
        "tokenizer": model.vocabulary.tokenizer,
        "prompts": task.digest,
        # a prompt file may give the same prompts other roles
        "roles": None if task.roles is None else task.roles.digest,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        **{package: version(package) for package in ("subcircuit", "torch")},
    }


def _digest_of_weights(model: "Transformer") -> str:
    import torch

    from subcircuit.model.weights import named_tensors

    digest = sha256()
    for name, tensor in named_tensors(model.weights):
        digest.update(name.encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
