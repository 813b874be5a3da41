"""Models with two experts whose weights were set by hand, in which routing is everything, or nothing.

One layer; attention writes nothing. The stream is a block of eight for the token and one for the answer. A prompt ends in
token 0 or 1, and the answer is 2 or 3. The router sends token 0 to expert 0 and token 1 to expert 1, in both models.

    by_routing     expert 0 writes answer 2 and expert 1 answer 3, whatever they read
    by_contents    both experts write answer 2 for token 0 and answer 3 for token 1: where a token goes makes no difference
"""

import torch
from torch import Tensor

from subcircuit.model import (
    AttentionWeights,
    Experts,
    LayerWeights,
    MixtureWeights,
    MLPWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
)
from subcircuit.tasks import Answer, Task, build_task_of_ids

_SIZE = 8


def by_routing() -> Transformer:
    """Who is asked decides what is answered."""
    either = _token(0) + _token(1)
    return _model([[(either, 2)], [(either, 3)]])


def by_contents() -> Transformer:
    """What is asked decides; everybody knows the answer."""
    both = [(_token(0), 2), (_token(1), 3)]
    return _model([both, both])


def planted_task(model: Transformer) -> Task:
    """Prompts that end in token 0 or 1, and in the other one when corrupted."""
    clean = [[4, 5, 0], [6, 4, 1], [7, 7, 0]]
    corrupted = [[*prompt[:-1], 1 - prompt[-1]] for prompt in clean]
    answers = [Answer(i, 2, (2 + prompt[-1],), (3 - prompt[-1],)) for i, prompt in enumerate(clean)]
    return build_task_of_ids("experts", clean, corrupted, answers, model, parameters={}, metric="logit_difference")


def _token(token: int) -> Tensor:
    return torch.eye(2 * _SIZE)[token]


def _expert(neurons: list[tuple[Tensor, int]]) -> MLPWeights:
    """Neurons, each with what it reads and the answer that it writes."""
    return MLPWeights(
        W_in=torch.stack([read for read, _ in neurons]),
        W_out=torch.stack([torch.eye(2 * _SIZE)[_SIZE + answer] for _, answer in neurons]),
    )


def _model(experts: list[list[tuple[Tensor, int]]]) -> Transformer:
    config = TransformerConfig(
        architecture="planted",
        n_layers=1,
        n_heads=1,
        n_kv_heads=1,
        d_model=2 * _SIZE,
        d_head=1,
        d_mlp=1,
        vocab=_SIZE,
        context=_SIZE,
        norm=NoNorm(),
        activation="relu",
        gated=False,
        learned_positions=False,
        rotary=(None,),
        windows=(None,),
        attention_scale=1.0,
        experts=Experts(2, 1, len(experts[0]), normalised=True, layers=(0,)),
    )
    nothing = torch.zeros(1, 1, 2 * _SIZE)
    mixture = MixtureWeights(torch.stack([_token(0), _token(1)]), tuple(_expert(neurons) for neurons in experts))
    weights = Weights(
        W_E=torch.eye(_SIZE, 2 * _SIZE),
        layers=(LayerWeights(AttentionWeights(nothing, nothing, nothing, nothing), NormWeights(), mixture, NormWeights()),),
        final_norm=NormWeights(),
        W_U=torch.eye(_SIZE, 2 * _SIZE).roll(_SIZE, 1),
    )
    check_weights(config, weights)
    return Transformer(config, weights, name="planted-experts")
