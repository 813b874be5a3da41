"""Decisions too close to the threshold for the model's dtype, made in float64.

Rounding depends on the machine, the thread count and the batch size; decisions must not. A change of the metric that
lies within ``tolerance`` of the threshold is measured again on a float64 copy of the model, made when first needed.
A change within float64's own rounding of the threshold is a tie, and a tie keeps the edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.model.transformer import Transformer
from subcircuit.search.batches import Batches
from subcircuit.search.problem import Problem

# multiple of the dtype's epsilon and the metric's size: about ten times the largest error seen over all families and metrics
_SAFETY = 128
TIE = 1e-11


def rounding(dtype: torch.dtype, size: float) -> float:
    """The largest rounding error expected in a loss of this size."""
    return _SAFETY * torch.finfo(dtype).eps * max(1.0, size)


@dataclass
class Borderline:
    """Detects borderline decisions and measures them in float64.

    Args:
        scale: size of the metric's values.
        restoring: see ``Batches.start``.
        tolerance: distance from the threshold within which a change is measured again; grows with observed rounding errors.
        count: decisions made in float64 so far; None in half precision, where every decision would be borderline and none is checked.
    """

    problem: Problem
    batch_size: int
    scale: float
    restoring: bool = False
    tolerance: float = field(init=False)
    count: int | None = field(init=False)
    _precise: Batches | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        checked = self.problem.model.dtype in (torch.float32, torch.float64)
        self.count = 0 if checked else None
        # at least the tie width: the same changes must be ties in a float64 search and in the re-check
        self.tolerance = max(TIE, rounding(self.problem.model.dtype, self.scale)) if checked else 0.0

    def observe(self, error: float) -> None:
        """Update the tolerance with a rounding error: the difference between two computations of the same loss."""
        if self.count is not None:
            self.tolerance = max(self.tolerance, 8 * error)

    def is_close(self, change: float, threshold: float) -> bool:
        """Whether a change is too near the threshold to be decided as measured."""
        return self.count is not None and abs(change - threshold) <= self.tolerance

    def count_one(self) -> None:
        """Count one more decision in float64."""
        assert self.count is not None
        self.count += 1

    def change(
        self, kept: Bool[Tensor, "writer reader"], unit: int, readers: Sequence[int], cut: Bool[Tensor, "writer reader"]
    ) -> Float[Tensor, ""]:
        """The change of the loss between two circuits, in float64.

        Args:
            kept: the circuit before.
            unit: of ``readers``; everything upstream of it keeps all its edges.
            cut: the circuit after; differs in the columns of ``readers`` alone.
        """
        if self._precise is None:
            model = self._double()
            problem = replace(self.problem, model=model, task=self.problem.task.to(model.device))
            self._precise = Batches.start(problem, self.batch_size, restoring=self.restoring)
        before = self._precise.map(lambda engine: engine.restore(kept, unit))
        after = before.map(lambda engine: engine.commit(cut, readers))
        return (after.loss() - before.loss()).mean()

    def _double(self) -> Transformer:
        # some accelerators have no float64
        model = self.problem.model
        device = "cpu" if model.device.type == "mps" else model.device
        return model.to(device, torch.float64)
