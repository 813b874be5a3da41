"""The exact engine over all examples of a behaviour: one engine per batch of examples, losses joined.

Examples never meet inside a transformer, so batches are independent: a loss is the float64 mean over all examples
whatever the batches are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.model.components import unembed
from subcircuit.model.transformer import Transformer
from subcircuit.run.ablation import ablated_by_batch
from subcircuit.run.clean import clean_run
from subcircuit.run.incremental import Engine, Visit
from subcircuit.search.behaviour import Behaviour
from subcircuit.tasks import Answers


@dataclass(frozen=True, eq=False)
class Batches:
    """Engines in the same state, one per batch of examples."""

    engines: tuple[Engine, ...]
    answers: tuple[Answers, ...]

    @staticmethod
    def start(
        model: Transformer, graph: Graph, behaviour: Behaviour, batch_size: int, order: tuple[int, ...] | None = None
    ) -> "Batches":
        """Run clean and ablated prompts; nothing is opened and nothing cut.

        Args:
            batch_size: examples per engine.
            order: of cutting, see ``CleanRun``.
        """
        task, first_changes = behaviour.task, behaviour.first_changes()
        ablated = ablated_by_batch(model, graph, task.corrupted, behaviour.ablation)
        engines, answers = [], []
        for begin in range(0, len(task), batch_size):
            part = task[begin : begin + batch_size]
            run = clean_run(
                model,
                graph,
                part.clean,
                ablated(part.corrupted, begin),
                first_changes[begin : begin + batch_size],
                part.answers.example,
                part.answers.pos,
                order,
            )
            reference = unembed(model.config, model.weights, run.model_stream()) if behaviour.metric.compares else None
            engines.append(Engine.start(run, behaviour.metric.bind(part.answers, reference)))
            answers.append(part.answers)
        return Batches(tuple(engines), tuple(answers))

    @property
    def first(self) -> Engine:
        """Any of the engines: they agree on everything but numbers."""
        return self.engines[0]

    @property
    def kept(self) -> Bool[Tensor, "writer reader"]:
        """Edges kept so far."""
        return self.first.kept

    def map(self, step: Callable[[Engine], Engine]) -> "Batches":
        """The same step in every engine."""
        return Batches(tuple(step(engine) for engine in self.engines), self.answers)

    def losses(self, measure: Callable[[int, Engine], Float[Tensor, "*trial answer"]]) -> Float[Tensor, "*trial batch"]:
        """Per-example losses over all batches; ``measure`` gets each engine with its number."""
        parts = [a.per_example(measure(i, e)) for i, (e, a) in enumerate(zip(self.engines, self.answers, strict=True))]
        return torch.cat(parts, -1)

    def loss(self) -> Float[Tensor, " batch"]:
        """Per-example loss of the circuit as committed."""
        return self.losses(lambda _, engine: engine.loss())

    def visit(self, reader: int) -> tuple[Visit, ...]:
        """Begin visiting a reader in every batch."""
        return tuple(engine.visit(reader) for engine in self.engines)

    def decide(self, visits: Sequence[Visit], cut: int, keep: bool) -> tuple[Visit, ...]:
        """``Engine.decide`` in every batch."""
        return tuple(e.decide(v, cut, keep) for e, v in zip(self.engines, visits, strict=True))

    def try_edges(self, visits: Sequence[Visit], count: int) -> Float[Tensor, "trial batch"]:
        """``Engine.try_edges`` over all examples."""
        return self.losses(lambda i, engine: engine.try_edges(visits[i], count))

    def try_readers(self, readers: Sequence[int]) -> Float[Tensor, "trial batch"]:
        """``Engine.try_readers`` over all examples."""
        return self.losses(lambda _, engine: engine.try_readers(readers))
