"""The reset-model control: a model with the same numbers in other places (Conmy et al. 2023, arXiv 2304.14997, section 4).

The entries of every weight tensor are permuted among themselves. Norms, scales and the distribution of weights stay, what
was learned does not: a search that finds as good a circuit, or as much of a known one, in the reset model measures
something other than what the model learned.
"""

from dataclasses import replace

import torch
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.model import Transformer, map_tensors


@entry
def reset(model: Transformer, seed: int = 0) -> Transformer:
    """The model with the entries of each weight tensor permuted; tensors that are shared stay shared."""
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, Tensor] = {}

    def permute(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            done[id(tensor)] = tensor.flatten()[order].view(tensor.shape)
        return done[id(tensor)]

    return replace(model, weights=map_tensors(model.weights, permute), name=f"{model.name}, reset", revision=None, origin=None)
