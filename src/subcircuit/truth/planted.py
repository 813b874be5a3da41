"""Transformers with weights set by hand: small textbook mechanisms with a known circuit.

Every feature is a direction of its own in the residual stream, there is no norm, and attention is sharp (scores of 30
against 0). A head is a list of features that it matches and a list of features that it carries. In each layer an additional
head carries tokens to directions that nothing reads, so a search must also cut edges that carry values without an effect.

The mechanisms follow Olsson et al. 2022 (arXiv 2209.11895, induction), Wang et al. 2022 (arXiv 2211.00593, duplicate token,
inhibition and mover heads) and McDougall et al. 2023 (arXiv 2310.04625, a head that lowers what another has copied).

Attention scores are ``SHARP`` against 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TypeAlias

import torch
from torch import Tensor

from subcircuit.engine.ablation import Ablation, Zero
from subcircuit.errors import UnknownNameError
from subcircuit.graph import Circuit, Graph
from subcircuit.model import (
    AttentionWeights,
    LayerWeights,
    MLPWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
)
from subcircuit.tasks import Answer, Task, build_task_of_ids
from subcircuit.truth.case import Case

SHARP = 30.0

Pairs: TypeAlias = list[tuple[Tensor, Tensor]]
"""A direction read and a direction written, or a query direction and the key direction that it attends to."""

Head: TypeAlias = tuple[Pairs, Pairs]
"""The features that a head matches, and those that it carries."""


@dataclass(frozen=True)
class FeatureStream:
    """The residual stream's features, and constructors of heads from them.

    Args:
        spaces: number of directions of each kind of feature.
    """

    spaces: dict[str, int]

    def direction(self, space: str, index: int = 0) -> Tensor:
        """The unit vector of a feature."""
        names = list(self.spaces)
        start = sum(self.spaces[name] for name in names[: names.index(space)])
        return torch.eye(sum(self.spaces.values()))[start + index]

    def match(self, query: str, key: str, back: int = 0, strength: float = SHARP) -> Pairs:
        """Attend where the key's feature is the query's (or the one ``back`` before it)."""
        count = self.spaces[query] - back
        return [(strength * self.direction(query, i + back), self.direction(key, i)) for i in range(count)]

    def carry(self, source: str, target: str, gain: float = 1.0) -> Pairs:
        """Read features in one space and write them to another."""
        return [(self.direction(source, i), gain * self.direction(target, i)) for i in range(self.spaces[source])]

    def model(
        self, name: str, embedding: Sequence[Tensor], layers: Sequence[Sequence[Head]], mlp: MLPWeights | None = None
    ) -> Transformer:
        """The mechanism's heads and one idle head per layer; the logits read ``out``.

        Args:
            embedding: a row per token.
            layers: each layer's heads, as many in every layer.
            mlp: of every layer: give one only to models of one layer.
        """
        layers = [[*heads, ([], self.carry("token", "idle"))] for heads in layers]
        d_head = max(len(pairs) for heads in layers for head in heads for pairs in head)
        W_E, W_U = torch.stack(list(embedding)), torch.zeros(len(embedding), len(embedding[0]))
        for token in range(self.spaces["out"]):
            W_U[token] = self.direction("out", token)
        config = TransformerConfig(
            architecture="planted",
            n_layers=len(layers),
            n_heads=len(layers[0]),
            n_kv_heads=len(layers[0]),
            d_model=W_E.shape[1],
            d_head=d_head,
            d_mlp=0 if mlp is None else len(mlp.W_in),
            vocab=len(W_E),
            context=self.spaces["pos"],
            norm=NoNorm(),
            activation="relu",
            gated=False,
            learned_positions=True,
            rotary=(None,) * len(layers),
            windows=(None,) * len(layers),
            attention_scale=1.0,
        )
        W_pos = torch.stack([self.direction("pos", i) for i in range(self.spaces["pos"])])
        norm = None if mlp is None else NormWeights()
        blocks = tuple(LayerWeights(_attention(heads, d_head, W_E.shape[1]), NormWeights(), mlp, norm) for heads in layers)
        weights = Weights(W_E, blocks, NormWeights(), W_U, W_pos)
        check_weights(config, weights)
        return Transformer(config, weights, name=name)


def _attention(heads: Sequence[Head], d_head: int, d_model: int) -> AttentionWeights:
    def stacked(kind: int, side: int) -> Tensor:
        rows = torch.zeros(len(heads), d_head, d_model)
        for index, head in enumerate(heads):
            for row, pair in enumerate(head[kind]):
                rows[index, row] = pair[side]
        return rows

    return AttentionWeights(W_Q=stacked(0, 0), W_K=stacked(0, 1), W_V=stacked(1, 0), W_O=stacked(1, 1))


SOURCE = "weights set by hand"

Prompt: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Planted:
    """A mechanism.

    Args:
        name: of its case.
        description: the function that it computes.
        make: returns the model and its task.
        varying: true edges whose values vary between prompts.
        constant: true edges that carry the same value on every prompt, mostly positions. The circuit under Resample omits them.
        redundant: some parts of the mechanism can replace each other.
    """

    name: str
    description: str
    make: Callable[[], tuple[Transformer, Task]]
    varying: tuple[str, ...]
    constant: tuple[str, ...]
    redundant: bool = False


def planted_case(name: str, ablation: Ablation) -> Case:
    """The case of a planted mechanism under an ablation.

    Raises:
        UnknownNameError: there is no such mechanism.
    """
    if name not in PLANTED:
        raise UnknownNameError("planted mechanism", name, tuple(PLANTED))
    planted = PLANTED[name]
    model, task = planted.make()
    edges = planted.varying + (planted.constant if isinstance(ablation, Zero) else ())
    circuit = Circuit.of_edges(Graph.of(model.config), edges)
    return Case(name, planted.description, model, task, ablation, circuit, planted.redundant, SOURCE)


def _task(
    name: str,
    model: Transformer,
    prompts: Sequence[Prompt],
    corrupted: Sequence[Prompt],
    answers: Sequence[int],
    roles: Sequence[Mapping[str, tuple[int, ...]]],
) -> Task:
    """One answer at the last position; those of other prompts are wrong."""
    last = len(prompts[0]) - 1
    return build_task_of_ids(
        name,
        prompts,
        corrupted,
        [Answer(i, last, (answer,), tuple({*answers} - {answer})) for i, answer in enumerate(answers)],
        model,
        parameters={},
        metric="squared_error",
        roles=roles,
    )


def _later(prompts: Sequence[Prompt], by: int) -> list[Prompt]:
    """The prompts shifted by a number of places, as counterparts."""
    return [*prompts[by:], *prompts[:by]]


def _tokens(stream: FeatureStream, count: int, *others: str) -> list[Tensor]:
    """Embeddings of ``count`` tokens and of markers, each with its feature; all have the feature ``one``."""
    one = stream.direction("one")
    return [stream.direction("token", i) + one for i in range(count)] + [stream.direction(other) + one for other in others]


def _induction() -> tuple[Transformer, Task]:
    stream = FeatureStream({"token": 5, "pos": 5, "one": 1, "bos": 1, "before": 5, "out": 5, "idle": 5})
    previous = stream.match("pos", "pos", back=1), stream.carry("token", "before")
    induction = stream.match("token", "before"), stream.carry("token", "out")
    model = stream.model("planted-induction", _tokens(stream, 5, "bos"), [[previous], [induction]])
    prompts = [(5, *three, three[which]) for three in permutations(range(5), 3) for which in (0, 1)]
    earlier = [p.index(p[4]) for p in prompts]
    answers = [p[where + 1] for p, where in zip(prompts, earlier, strict=True)]
    roles = [{"same": (where,), "next": (where + 1,)} for where in earlier]
    return model, _task("planted-induction", model, prompts, _later(prompts, 41), answers, roles)


def _inhibition() -> tuple[Transformer, Task]:
    stream = FeatureStream(
        {"token": 4, "pos": 5, "one": 1, "name": 1, "bos": 1, "end": 1, "twice": 5, "inhibited": 5, "out": 4, "idle": 4}
    )
    names = [row + stream.direction("name") for row in _tokens(stream, 4)]
    duplicate = stream.match("token", "token"), stream.carry("pos", "twice")
    inhibition = stream.match("pos", "pos", back=1), stream.carry("twice", "inhibited")
    # a name draws attention, twice as much is lost where half of a duplicate's attention came from
    mover = (
        stream.match("one", "name") + stream.match("inhibited", "pos", strength=-4 * SHARP),
        stream.carry("token", "out"),
    )
    embedding = [*names, *_tokens(stream, 0, "bos", "end")]
    model = stream.model("planted-inhibition", embedding, [[duplicate], [inhibition], [mover]])
    prompts = [(4, a, b, second, 5) for a, b in permutations(range(4), 2) for second in (a, b)]
    roles = [{"IO": (1 if p[3] == p[2] else 2,), "S1": (1 if p[3] == p[1] else 2,), "S2": (3,)} for p in prompts]
    return model, _task("planted-inhibition", model, prompts, _later(prompts, 7), [p[1] + p[2] - p[3] for p in prompts], roles)


def _gate(name: str, places: tuple[int, int], both: bool) -> tuple[Transformer, Task]:
    """Two heads at the end, each reading whether token 1 (not 0) stands in its place, and an MLP over what they wrote."""
    stream = FeatureStream({"token": 2, "pos": 4, "one": 1, "bos": 1, "end": 1, "first": 1, "second": 1, "out": 1, "idle": 2})
    heads = [
        (
            [(SHARP * stream.direction("pos", 3), stream.direction("pos", place))],
            [(stream.direction("token", 1), stream.direction(to))],
        )
        for place, to in zip(places, ("first", "second"), strict=True)
    ]
    seen, out = stream.direction("first") + stream.direction("second"), stream.direction("out")
    # with two inputs of 0 or 1, relu(sum − 1) is their AND, and what relu(sum) has beyond it is their OR
    mlp = MLPWeights(
        W_in=torch.stack([seen, seen]),
        W_out=torch.stack([out * (not both), out * (1 if both else -1)]),
        b_in=torch.tensor([0.0, -1.0]),
    )
    model = stream.model(name, _tokens(stream, 2, "bos", "end"), [heads], mlp)
    prompts = [(2, *two, 3) for two in product((0, 1), repeat=2)]
    corrupted = _later(prompts, 1)
    if not both:
        # an OR is redundant where both of its inputs are on, and stop being so
        prompts, corrupted = prompts[2:], prompts[:2]
    # the one logit says whether the gate is open; the token that stands for it is the right answer on every prompt
    return model, _task(name, model, prompts, corrupted, [0] * len(prompts), [{"A": (1,), "B": (2,)}] * len(prompts))


def _negative() -> tuple[Transformer, Task]:
    stream = FeatureStream({"token": 4, "pos": 4, "one": 1, "bos": 1, "end": 1, "out": 4, "idle": 4})
    copy = [(SHARP * stream.direction("pos", 3), stream.direction("pos", 1))], stream.carry("token", "out")
    negative = stream.match("out", "token"), stream.carry("token", "out", gain=-0.5)
    model = stream.model("planted-negative", _tokens(stream, 4, "bos", "end"), [[copy], [negative]])
    prompts = [(4, *two, 5) for two in permutations(range(4), 2)]
    roles = [{"A": (1,), "B": (2,)}] * len(prompts)
    return model, _task("planted-negative", model, prompts, _later(prompts, 5), [p[1] for p in prompts], roles)


_GATE = ("embed->a0.h0<v>", "embed->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits")
_GATE_POSITIONS = ("embed->a0.h0<q>", "embed->a0.h0<k>", "embed->a0.h1<q>", "embed->a0.h1<k>")

PLANTED: dict[str, Planted] = {
    planted.name: planted
    for planted in (
        Planted(
            "induction",
            "a b … a -> b: a previous-token head, and an induction head that reads its keys from it",
            _induction,
            ("embed->a0.h0<v>", "a0.h0->a1.h0<k>", "embed->a1.h0<q>", "embed->a1.h0<v>", "a1.h0->logits"),
            ("embed->a0.h0<q>", "embed->a0.h0<k>"),
        ),
        Planted(
            "inhibition",
            "of two names the one that is not repeated: duplicate-token, inhibition and mover heads",
            _inhibition,
            (
                "embed->a0.h0<q>",
                "embed->a0.h0<k>",
                "a0.h0->a1.h0<v>",
                "a1.h0->a2.h0<q>",
                "embed->a2.h0<v>",
                "a2.h0->logits",
            ),
            ("embed->a0.h0<v>", "embed->a1.h0<q>", "embed->a1.h0<k>", "embed->a2.h0<q>", "embed->a2.h0<k>"),
        ),
        Planted(
            "or-gate",
            "whether the first token is on: two heads see it, and an MLP needs one of them",
            lambda: _gate("planted-or-gate", (1, 1), both=False),
            _GATE,
            _GATE_POSITIONS,
            redundant=True,
        ),
        Planted(
            "and-gate",
            "whether both tokens are on: a head sees each, and an MLP needs both",
            lambda: _gate("planted-and-gate", (1, 2), both=True),
            _GATE,
            _GATE_POSITIONS,
        ),
        Planted(
            "negative",
            "the first token again: a head copies it, a later one lowers what was copied by half",
            _negative,
            (
                "embed->a0.h0<v>",
                "a0.h0->logits",
                "a0.h0->a1.h0<q>",
                "embed->a1.h0<k>",
                "embed->a1.h0<v>",
                "a1.h0->logits",
            ),
            ("embed->a0.h0<q>", "embed->a0.h0<k>"),
        ),
    )
}
