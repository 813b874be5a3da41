"""A transformer whose circuit is known because its weights were set by hand: induction by two heads.

Two layers of four attention heads, no MLPs, no norms. The residual stream is four blocks of eight: the token, the
position, the token before, the answer. A prompt of distinct tokens ends in one that it has seen, "x A B y z A", and the
answer is what followed then, "B":

    a0.h1   attends from every position to the one before it and copies its token:    block 0 there → block 2 here
    a1.h2   attends from a token to where the token before is the same one, and copies the token found there to block 3

and the unembedding reads block 3 alone. The other heads are small noise. Corrupted prompts are of other tokens with the
same pattern. The true edges are those that carry tokens along this way:

    embed->a0.h1<v>   a0.h1->a1.h2<k>   embed->a1.h2<q>   embed->a1.h2<v>   a1.h2->logits

Queries and keys of a0.h1 read positions alone, which are the same in clean and corrupted prompts.
"""

import random

import torch
from torch import Tensor

from subcircuit.graph import Circuit, Graph
from subcircuit.model import (
    AttentionWeights,
    LayerWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
)
from subcircuit.tasks import Answer, Task, build_task_of_ids

TRUE_EDGES = ("embed->a0.h1<v>", "a0.h1->a1.h2<k>", "embed->a1.h2<q>", "embed->a1.h2<v>", "a1.h2->logits")
_SIZE, _HEADS = 8, 4
_TOKEN, _POSITION, _BEFORE, _ANSWER = (slice(_SIZE * block, _SIZE * (block + 1)) for block in range(4))


def planted(noise: float = 0.05) -> Transformer:
    """The model; ``noise`` is the size of the other heads' weights."""
    config = TransformerConfig(
        architecture="planted",
        n_layers=2,
        n_heads=_HEADS,
        n_kv_heads=_HEADS,
        d_model=4 * _SIZE,
        d_head=_SIZE,
        d_mlp=0,
        vocab=_SIZE,
        context=_SIZE,
        norm=NoNorm(),
        activation="relu",
        gated=False,
        learned_positions=True,
        rotary=(None, None),
        windows=(None, None),
        attention_scale=1.0,
    )
    eye, generator = torch.eye(_SIZE), torch.Generator().manual_seed(0)

    def block(place: slice, matrix: Tensor) -> Tensor:
        full = torch.zeros(_SIZE, 4 * _SIZE)
        full[:, place] = matrix
        return full

    def layer(head: int, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> LayerWeights:
        stacks = [noise * torch.randn(_HEADS, _SIZE, 4 * _SIZE, generator=generator) for _ in range(4)]
        for stack, matrix in zip(stacks, (q, k, v, o), strict=True):
            stack[head] = matrix
        return LayerWeights(AttentionWeights(*stacks), NormWeights())

    # position i asks for key i, and position j answers to j + 1
    before = layer(1, block(_POSITION, 20 * eye), block(_POSITION, eye.roll(1, 0)), block(_TOKEN, eye), block(_BEFORE, eye))
    induction = layer(2, block(_TOKEN, 4 * eye), block(_BEFORE, eye), block(_TOKEN, eye), block(_ANSWER, eye))
    weights = Weights(
        W_E=block(_TOKEN, eye),
        layers=(before, induction),
        final_norm=NormWeights(),
        W_U=block(_ANSWER, 4 * eye),
        W_pos=block(_POSITION, eye),
    )
    check_weights(config, weights)
    return Transformer(config, weights, name="planted")


def planted_task(model: Transformer, examples: int = 8, seed: int = 0) -> Task:
    """Pairs of prompts that the model answers by its circuit."""
    rng = random.Random(seed)
    clean, corrupted, answers = [], [], []
    for example in range(examples):
        length, where = 6, rng.randrange(0, 4)
        for prompts in (clean, corrupted):
            tokens = rng.sample(range(_SIZE), length - 1)
            prompts.append([*tokens, tokens[where]])
        while corrupted[-1][where] == clean[-1][where] or corrupted[-1][where + 1] == clean[-1][where + 1]:
            tokens = rng.sample(range(_SIZE), length - 1)
            corrupted[-1] = [*tokens, tokens[where]]
        answers.append(Answer(example, length - 1, (clean[-1][where + 1],), (corrupted[-1][where + 1],)))
    return build_task_of_ids("planted", clean, corrupted, answers, model, parameters={"seed": seed}, metric="logit_difference")


def planted_circuit(model: Transformer) -> Circuit:
    """The true edges."""
    return Circuit.of_edges(Graph.of(model.config), TRUE_EDGES)
