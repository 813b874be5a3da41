"""The circuit of a model whose weights hold a mechanism and nothing else, derived from weights and values.

It applies to models without norms whose features are directions of the residual stream's own basis, such as compiled RASP
programs (Lindner et al. 2023, arXiv 2301.05062) and models with weights set by hand. From the logits backwards, an edge w → r
is true if all of these hold:

1. r belongs to the logits, or to a node that a true edge leads on from.
2. w carries something: on some prompt its value differs from the ablated value in a direction that r's weights read.
   Under Zero that is anything non-zero, under Resample only what varies between the paired prompts.
3. It is used: putting the ablated value in its place changes what r's node writes, with all other inputs of the node as
   they are on the clean prompt or all as they are on the corrupted one, in a direction and at a position that a true edge
   leads on from.

The second context of 3 keeps what is redundant: of two inputs to an OR, each matters where the other is false. Cost: a few
runs of one node per edge. It looks at one node at a time, and so owes nothing to the masked forward pass that it is
tested with. It fails where a mechanism hides in the sum of many small changes: each must exceed ``TOLERANCE``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.ablation import Ablation
from subcircuit.engine.plain_run import writer_values
from subcircuit.entry import entry
from subcircuit.errors import GraphError, UnsupportedModelError
from subcircuit.graph import MLP, Circuit, Graph, HeadInput, Logits, Reader
from subcircuit.model.attention import PARTS, attend, projection
from subcircuit.model.config import NoNorm
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.model.weights import MLPWeights
from subcircuit.tasks import Task, check_vocabulary

# features are 1 or fractions like 1/5; softmax leaks and steps of MLPs are below a thousandth
TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Use:
    """The directions and positions at which a writer's value is used."""

    directions: Bool[Tensor, " d_model"]
    places: Bool[Tensor, "batch pos"]


@dataclass(frozen=True, eq=False)
class _Derivation:
    """A model on all prompts at once; ``uses`` fills up from the logits backwards.

    Args:
        runs: every writer's value on the clean prompts, and on the corrupted ones.
        ablated: the values that cut edges carry.
    """

    model: Transformer
    graph: Graph
    answers: Bool[Tensor, "batch pos"]
    runs: tuple[Float[Tensor, "writer batch pos d_model"], ...]
    ablated: Float[Tensor, "writer batch pos d_model"]
    uses: dict[int, list[Use]] = field(default_factory=dict)

    def edges(self) -> Iterator[tuple[int, int]]:
        """True edges, from the logits backwards."""
        for unit in reversed(range(len(self.graph.units))):
            for reader in self.graph.readers_in[unit]:
                yield from ((writer, reader) for writer in self._writers_into(reader))

    def _writers_into(self, index: int) -> Iterator[int]:
        reader = self.graph.readers[index]
        read, places = directions_read(self.model, reader), self._places(reader)
        for writer in self.graph.edges[:, index].nonzero().flatten().tolist():
            carries = bool(((self.runs[0][writer] - self.ablated[writer])[..., read].abs() > TOLERANCE).any())
            if carries and self._is_used(reader, writer):
                self.uses.setdefault(writer, []).append(Use(read, places))
                yield writer

    def _is_used(self, reader: Reader, writer: int) -> bool:
        """Whether what the reader's node writes changes, where it is used, when the ablated value takes the writer's place."""
        for others in self.runs:
            found = self._found(others, reader)
            without = found - others[writer]
            clean, cut = (without + carried[writer] for carried in (self.runs[0], self.ablated))
            if bool(self._changed(reader, found, clean, cut).any()):
                return True
        return False

    def _places(self, reader: Reader) -> Bool[Tensor, "batch pos"]:
        """The positions at which a reader's input matters: those of its node's output, or for keys and values the attended ones."""
        places = torch.zeros_like(self.answers)
        if not isinstance(reader, HeadInput) or reader.part == "q":
            for use in self._uses_of(reader):
                places |= use.places
            return places
        read, found = directions_read(self.model, reader), self._found(self.runs[0], reader)
        for pos in range(places.shape[1]):
            probe = found.clone()
            probe[:, pos, read] += 1
            places[:, pos] = self._changed(reader, found, found, probe).any(-1)
        return places

    def _found(self, values: Float[Tensor, "writer batch pos d_model"], reader: Reader) -> Float[Tensor, "batch pos d_model"]:
        """The whole input of a reader."""
        return values[self.graph.edges[:, self.graph.reader_index[reader]]].sum(0)

    def _changed(
        self,
        reader: Reader,
        found: Float[Tensor, "batch pos d_model"],
        before: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
    ) -> Bool[Tensor, "batch pos"]:
        """Where the node's output differs, and is used, between two inputs of this reader; its others find ``found``."""
        change = (self._node(reader, found, before) - self._node(reader, found, after)).abs() > TOLERANCE
        changed = torch.zeros_like(self.answers)
        for use in self._uses_of(reader):
            changed |= change[..., use.directions].any(-1) & use.places
        return changed

    def _uses_of(self, reader: Reader) -> list[Use]:
        if isinstance(reader, Logits):
            return [Use(directions_read(self.model, reader), self.answers)]
        return [use for owner in self.graph.writers_of(reader) for use in self.uses.get(owner, [])]

    def _node(
        self, reader: Reader, found: Float[Tensor, "batch pos d_model"], mine: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the reader's node writes (the logits: the stream) for ``mine`` at this reader and ``found`` at its others."""
        match reader:
            case HeadInput(layer, head, own):
                q, k, v = (mine[None] if part == own else found[None] for part in PARTS)
                return attend(self.model, layer, q, k, v).writes[head]
            case MLP(layer):
                return feed_forward(self.model, layer, mine)
            case Logits():
                return mine
            case _:
                raise AssertionError("derived at scope qkv")


@entry
def derive(model: Transformer, graph: Graph, task: Task, ablation: Ablation) -> Circuit:
    """The true edges of a model whose weights hold a mechanism and nothing else.

    Args:
        model: without norms, of few directions.
        graph: its graph, at scope ``qkv``.
        task: all prompts that the circuit must cover, and the positions of answers.
        ablation: the value that cut edges carry.

    Raises:
        UnsupportedModelError: the model has norms, or attention biases that belong to no head.
        GraphError: the graph is at another scope.
    """
    if not isinstance(model.config.norm, NoNorm) or any(layer.attention.b_O is not None for layer in model.weights.layers):
        raise UnsupportedModelError(f"{model.name}: truth is derived for models without norms and output biases of attention.")
    if graph.scope.level != "qkv" or graph.scope.kv != "per_query_head":
        raise GraphError(f"truth is derived at scope qkv with an input per query head, not {graph.scope}.")
    check_vocabulary(model, task)
    answers = torch.zeros(task.clean.ids.shape, dtype=torch.bool)
    answers[task.answers.example, task.answers.pos] = True
    runs = tuple(writer_values(model, graph, tokens) for tokens in (task.clean, task.corrupted))
    derivation = _Derivation(model, graph, answers, runs, ablation.values(model, graph, task.corrupted))
    kept = torch.zeros_like(graph.edges)
    for writer, reader in derivation.edges():
        kept[writer, reader] = True
    return Circuit(graph, kept).prune()


def directions_read(model: Transformer, reader: Reader) -> Bool[Tensor, " d_model"]:
    """The directions of the residual stream that a reader's weights read."""
    match reader:
        case HeadInput(layer, head, part) if part is not None:
            matrix = projection(model, layer, part, (head,))[0]
        case MLP(layer):
            mlp = model.weights.layers[layer].mlp
            assert isinstance(mlp, MLPWeights)
            matrix = mlp.W_in
        case Logits():
            matrix = model.weights.W_U
        case _:
            raise AssertionError("derived at scope qkv")
    return (matrix != 0).any(0)
