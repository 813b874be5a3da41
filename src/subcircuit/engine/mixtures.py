"""Mixtures of experts in parts: a router and experts that each read an input of their own, and what experts write.

    g = shares that the router gives for its own input (``model/experts.py``), 0 for experts that are not chosen
    expert e writes g_e f_e(norm(x_e)),   the shared one σ(W_shared · norm(x_s)) f_shared(norm(x_s))

The router writes nothing: an edge into it acts through the shares of all experts. An expert runs at those positions alone
where its share is not zero.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import Expert, Graph
from subcircuit.model.components import AS_IT_IS, Nonlinear, mlp, normalize
from subcircuit.model.experts import route, shared_expert
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import MixtureWeights


def mixture_weights(model: Transformer, layer: int) -> MixtureWeights:
    """The weights of a layer's MLP, which resolves into experts."""
    weights = model.weights.layers[layer].mlp
    assert isinstance(weights, MixtureWeights)
    return weights


def normed(model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """What a layer's router or experts make of an input first."""
    norm = model.weights.layers[layer].mlp_norm
    assert norm is not None
    return normalize(x, model.config.norm, norm)


def shares(model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows expert"]:
    """What the router multiplies each expert's output with, for normalised inputs."""
    experts, flat = model.config.experts, x.flatten(0, -2)
    assert experts is not None
    routing = route(experts, mixture_weights(model, layer), flat)
    of_all = routing.shares.new_zeros(len(flat), experts.n).scatter(1, routing.experts, routing.shares)
    return of_all.view(*x.shape[:-1], experts.n)


def expert_writes(
    model: Transformer,
    layer: int,
    expert: int | None,
    x: Float[Tensor, "*#rows d_model"],
    share: Float[Tensor, "*#rows"] | None,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows d_model"]:
    """What one expert writes for normalised inputs.

    Args:
        expert: its number; None is the shared one.
        x, share: one of them may be the same over leading axes (1) where the other is not; the shared expert's share is
            its own and not given.
    """
    weights = mixture_weights(model, layer)
    if expert is None or share is None:
        written = shared_expert(model.config, weights, x.flatten(0, -2), nonlinear)
        assert written is not None
        return written.view_as(x)
    wanted = share != 0
    for axis, size in enumerate(x.shape[:-1]):
        wanted = wanted.any(axis, keepdim=True) if size == 1 else wanted
    places = wanted.expand(x.shape[:-1]).nonzero(as_tuple=True)
    out = torch.zeros_like(x).index_put(places, mlp(model.config, weights.experts[expert], x[places], nonlinear))
    return nonlinear.gate(share[..., None], out)


def mixture_writes(
    model: Transformer,
    graph: Graph,
    layer: int,
    router: Float[Tensor, "*rows d_model"],
    experts: Sequence[Float[Tensor, "*rows d_model"]],
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "writer *rows d_model"]:
    """What all experts of a layer write.

    Args:
        router, experts: the normalised input of each, in the graph's order.
    """
    given = shares(model, layer, router)
    numbers = experts_in(graph, layer)
    return torch.stack(
        [
            expert_writes(model, layer, number, x, None if number is None else given[..., number], nonlinear)
            for number, x in zip(numbers, experts, strict=True)
        ]
    )


def experts_in(graph: Graph, layer: int) -> list[int | None]:
    """The experts of a layer in the order of its writers."""
    return [writer.expert for writer in graph.writers if isinstance(writer, Expert) and writer.layer == layer]
