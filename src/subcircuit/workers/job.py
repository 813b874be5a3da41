"""What a helping process is given: the work, and a replica of the model.

The work is a function of this library with its arguments, pickled by the process that began it and read by those it
started. Weights are written apart, so that processes of one machine map the same file into memory and hold one copy.
Strides are kept: products of a matrix and of its transposed copy differ in the last bits.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import named_tensors
from subcircuit.search.journal import Journal

Work = Callable[..., Any]
"""``work(model, journal=…)``: picklable, and a deterministic function of model and journal."""


@dataclass(frozen=True, eq=False)
class Job:
    """Work and its model.

    Args:
        work: called with the model and a journal.
        model: what it runs on, on whatever device; None for work that has models of its own.
    """

    work: Work
    model: Transformer | None

    def __call__(self, journal: Journal) -> Any:
        """Do it."""
        return self.work(journal=journal) if self.model is None else self.work(self.model, journal=journal)

    def save(self, folder: Path) -> None:
        """Into an empty folder."""
        torch.save(self._on_processor(), folder / "weights.pt")
        (folder / "work.pickle").write_bytes(self._outline())

    @staticmethod
    def load(folder: Path) -> "Job":
        """What ``save`` wrote; the weights are mapped, not read."""
        tensors = torch.load(folder / "weights.pt", mmap=True, weights_only=True)
        return Job._filled((folder / "work.pickle").read_bytes(), tensors)

    def pack(self) -> tuple[bytes, dict[str, Tensor]]:
        """As values that can be sent."""
        return self._outline(), self._on_processor()

    @staticmethod
    def unpack(outline: bytes, tensors: dict[str, Tensor]) -> "Job":
        """What ``pack`` made."""
        return Job._filled(outline, tensors)

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor once, by the first of its names."""
        first: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in named_tensors(None if self.model is None else self.model.weights):
            first.setdefault(id(tensor), (name, tensor))
        return dict(first.values())

    def _on_processor(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self._tensors().items()}

    def _outline(self) -> bytes:
        """All but the weights' values, and what belongs to this process alone."""
        if self.model is None:
            return pickle.dumps((self.work, None, None))
        weights = self.model.weights.map(lambda tensor: tensor.to("meta"))
        hollow = replace(self.model, weights=weights, tokenizer=None, folder=None)
        return pickle.dumps((self.work, hollow, {name: str(tensor.device) for name, tensor in self._tensors().items()}))

    @staticmethod
    def _filled(outline: bytes, tensors: dict[str, Tensor]) -> "Job":
        work, hollow, devices = pickle.loads(outline)
        if hollow is None:
            return Job(work, None)
        names: dict[int, str] = {}
        for name, tensor in named_tensors(hollow.weights):
            names.setdefault(id(tensor), name)

        def there(tensor: Tensor) -> Tensor:
            name = names[id(tensor)]
            return tensors[name].to(devices[name])

        return Job(work, replace(hollow, weights=hollow.weights.map(there)))
