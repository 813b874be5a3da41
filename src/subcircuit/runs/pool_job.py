"""The work that a pool shares, packed for its workers: with replicas of the models among its arguments.

The work is a function of this library with its arguments, pickled by the leader and read by the workers. Weights are
written apart, so that processes of one machine map the same file into memory and hold one copy.
Strides are kept: products of a matrix and of its transposed copy differ in the last bits.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import named_tensors
from subcircuit.search.journal import Journal

Work = Callable[..., Any]
"""``work(journal=…)``: picklable, and a deterministic function of its journal."""


@dataclass(frozen=True, eq=False)
class Job:
    """Work that other processes can do as well.

    Args:
        work: called with a journal. Models among its arguments, on whatever device and however deep, have replicas elsewhere.
    """

    work: Work

    def __call__(self, journal: Journal) -> Any:
        """The result of the work."""
        return self.work(journal=journal)

    def save(self, folder: Path) -> None:
        """Write the job into an empty folder."""
        outline, tensors = self.pack()
        torch.save(tensors, folder / "weights.pt")
        (folder / "work.pickle").write_bytes(outline)

    @staticmethod
    def load(folder: Path) -> "Job":
        """The job that ``save`` wrote; the weights are mapped into memory."""
        tensors = torch.load(folder / "weights.pt", mmap=True, weights_only=True)
        return Job.unpack((folder / "work.pickle").read_bytes(), tensors)

    def pack(self) -> tuple[bytes, dict[str, Tensor]]:
        """The job as two picklable values: everything but the weights, and the weights by name, on the CPU.

        Raises:
            SettingsError: something in the work cannot be sent to another process, such as a metric that is a lambda.
        """
        file = BytesIO()
        pickler = _WithoutModels(file)
        try:
            pickler.dump(self.work)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise SettingsError(
                f"the work cannot be sent to the workers ({error}): define functions, such as a metric of your own, at the top level of a "
                "file, or use one worker."
            ) from error
        named = [_named(model, number) for number, model in enumerate(pickler.models)]
        devices = {name: str(tensor.device) for tensors in named for name, tensor in tensors.items()}
        outline = pickle.dumps((file.getvalue(), [_hollow(model) for model in pickler.models], devices))
        return outline, {name: tensor.cpu() for tensors in named for name, tensor in tensors.items()}

    @staticmethod
    def unpack(outline: bytes, tensors: dict[str, Tensor]) -> "Job":
        """The job that ``pack`` packed."""
        work, hollow, devices = pickle.loads(outline)
        there = {name: tensor.to(devices[name]) for name, tensor in tensors.items()}
        return Job(_WithModels(BytesIO(work), [_filled(model, number, there) for number, model in enumerate(hollow)]).load())


class _WithoutModels(pickle.Pickler):
    """A pickler that leaves models out, and collects them."""

    def __init__(self, file: BytesIO):
        super().__init__(file)
        self.models: list[Transformer] = []

    def persistent_id(self, obj: object) -> int | None:
        """The number of a model; None for everything else."""
        if not isinstance(obj, Transformer):
            return None
        known = [number for number, model in enumerate(self.models) if model is obj]
        if not known:
            self.models.append(obj)
        return known[0] if known else len(self.models) - 1


class _WithModels(pickle.Unpickler):
    """Puts models in where they were left out."""

    def __init__(self, file: BytesIO, models: list[Transformer]):
        super().__init__(file)
        self.models = models

    def persistent_load(self, pid: int) -> Transformer:
        """The model of a number."""
        return self.models[pid]


def _named(model: Transformer, number: int) -> dict[str, Tensor]:
    """Every tensor of a model once, by the first of its names."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(model.weights):
        first.setdefault(id(tensor), (f"{number}.{name}", tensor))
    return dict(first.values())


def _hollow(model: Transformer) -> Transformer:
    """A model without its weights' values, and without what belongs to this process alone."""
    return replace(model, weights=model.weights.map(lambda tensor: tensor.to("meta")), tokenizer=None, folder=None, family=None)


def _filled(hollow: Transformer, number: int, tensors: dict[str, Tensor]) -> Transformer:
    names = {id(tensor): name for name, tensor in _named(hollow, number).items()}
    return replace(hollow, weights=hollow.weights.map(lambda tensor: tensors[names[id(tensor)]]))
