"""An MLP as one node, plain or a mixture of experts."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.units.gradients import GRADIENTS, Rules, pull_back, widened
from subcircuit.units.nodes import MLP
from subcircuit.units.unit import Unit, UnitRun


@dataclass(frozen=True)
class MLPUnit(Unit):
    """A layer's MLP, which reads and writes as a whole."""

    @property
    def name(self) -> str:
        """``m5``."""
        return f"m{self.layer}"

    @property
    def level(self) -> str:
        """One node."""
        return "block"

    @cached_property
    def readers(self) -> tuple[MLP, ...]:
        """The MLP."""
        return (MLP(self.layer),)

    @cached_property
    def writers(self) -> tuple[MLP, ...]:
        """The MLP."""
        return (MLP(self.layer),)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """It is an input of itself."""
        return ((0,),)

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """All that the MLP adds, its biases included."""
        return feed_forward(model, self.layer, inputs)

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """One writer."""
        return UnitRun(feed_forward(model, self.layer, stream)[None])

    def adds(self, model: Transformer, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """As in the plain forward pass."""
        return feed_forward(model, self.layer, stream)

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """By autograd."""
        return widened(pull_back(lambda x: feed_forward(model, self.layer, x, rules.nonlinear), (stream,), after)[0])[None]
