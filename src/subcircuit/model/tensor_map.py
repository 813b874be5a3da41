"""Tensor maps from a checkpoint's tensors to weights. One per family, for reading and for writing.

Each row of a map names a tensor of the file and the weights that are views of it, so one row gives both directions:

    reading    weight = offset + view of the stored tensor
    writing    view of the stored tensor = weight − offset

Reading copies only weights that are not contiguous in the file. Both directions are exact, except for weights with an offset
(Gemma stores gains of 1 + g as g) or divided by their layer's number (a switch of GPT-2): writing them rounds.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from subcircuit.errors import ModelError
from subcircuit.model.config import TransformerConfig
from subcircuit.model.weights import Weights, shape_of, weights_of_names

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MOST_NAMES = 6


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, or one per layer or per expert.

    Its rows are the weights' rows: a row is one dimension of a query, of a key, of a value or of a head's output, or one neuron.

    Args:
        name: name in the file; ``{expert}`` stands for an expert's number.
        weights: the weights whose rows it holds, one after the other, by their dotted names in `Weights`, inside `LayerWeights` for
            tensors of a layer. With ``{expert}`` in them and not in ``name`` the tensor holds all experts along its first axis.
        transposed: the weights' rows are the tensor's columns.
        by_head: rows are ordered by head: those of the first weight's head 0, of the second's head 0, then those of head 1.
        offset: number added to the stored value.
        switch: field of the checkpoint's config that tells whether the tensor exists; None is always.
        optional: if the tensor is missing, later rows of the map hold its weights.
    """

    name: str
    weights: tuple[str, ...]
    transposed: bool = False
    by_head: bool = False
    offset: float = 0.0
    switch: str | None = None
    optional: bool = False


def linear(name: str, weight: str, bias: bool | str, *, transposed: bool = False) -> tuple[StoredTensor, ...]:
    """The rows of a linear map: its matrix, and its bias where there is one.

    Args:
        name: of both tensors, without ``.weight`` and ``.bias``.
        weight: of both weights, with ``{}`` for ``W`` and ``b``.
        bias: always, never, or by a field of the checkpoint's config.
        transposed: the matrix's rows are the tensor's columns.
    """
    matrix = StoredTensor(f"{name}.weight", (weight.format("W"),), transposed)
    if not bias:
        return (matrix,)
    return matrix, StoredTensor(f"{name}.bias", (weight.format("b"),), switch=bias if isinstance(bias, str) else None)


@dataclass(frozen=True)
class Slot:
    """A row of a map for one layer and one expert.

    Args:
        name: of the tensor, without the map's prefix.
        weights, shapes: which weights it holds, by their dotted names in `Weights`, and their shapes.
        stacked: how many experts are along its first axis; None where there is no such axis.
        row: of the map.
    """

    name: str
    weights: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    stacked: int | None
    row: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in the file."""
        experts = self.stacked or 1
        rows = sum(self._rows) // experts
        columns = self.shapes[0][-1:] if self._is_matrix else ()
        matrix = (*columns, rows) if self.row.transposed else (rows, *columns)
        return matrix if self.stacked is None else (experts, *matrix)

    def views(self, stored: Tensor) -> tuple[Tensor, ...]:
        """The weights as views of a tensor of this shape: writes to them change the tensor."""
        rows = stored.mT if self.row.transposed else stored
        if self.row.by_head:
            return rows.unflatten(0, (self.shapes[0][0], -1)).split([shape[1] for shape in self.shapes], dim=1)
        sizes = self._rows
        if self.stacked is not None:
            each = len(sizes) // self.stacked
            parts = [part for expert in rows for part in expert.split(sizes[:each])]
        else:
            parts = rows.split(sizes)
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))

    @property
    def _is_matrix(self) -> bool:
        return self.weights[0].rpartition(".")[2].startswith("W_")

    @property
    def _rows(self) -> list[int]:
        return [prod(shape[:-1] if self._is_matrix else shape) for shape in self.shapes]


@dataclass(frozen=True)
class TensorMap:
    """All tensors of a family's checkpoints.

    Args:
        tensors: the tensors outside the layers.
        layer: prefix of the names of a layer's tensors; ``{layer}`` stands for its number.
        per_layer: the tensors of a layer. Rows for weights that the config does not need are skipped.
        prefix: prefix of the names of the decoder's tensors, left out of ``layer`` and of rows; some checkpoints lack it.
        ignored: a regular expression for tensors that are no weights (masks and frequencies that old versions saved).
        aliases: regular expressions for parts of names, each with the part that this map has instead.
        queries_divided: field of the checkpoint's config that says whether attention scores of layer l are divided by l + 1. Scores
            are linear in queries, so reading divides these.
    """

    tensors: tuple[StoredTensor, ...]
    layer: str
    per_layer: tuple[StoredTensor, ...]
    prefix: str = ""
    ignored: str = r"(?!)"
    aliases: tuple[tuple[str, str], ...] = ()
    queries_divided: str | None = None

    def read(self, config: TransformerConfig, raw: "PreTrainedConfig", tensors: Mapping[str, Tensor]) -> Weights:
        """The weights of a checkpoint, in its dtype.

        Args:
            raw: the checkpoint's own config, whose switches say which tensors there are.
            tensors: by their names in the file.

        Raises:
            ModelError: names a tensor that is missing or misshapen, or those for which there is no use.
        """
        names = self.names_in(tensors)
        unread, weights = set(names), dict[str, Tensor]()
        tied = bool(getattr(raw, "tie_word_embeddings", False))
        for slot in self.slots(config, names):
            if not _is_on(slot.row.switch, raw) or (tied and slot.weights == ("W_U",) and slot.name not in names):
                continue
            if slot.name not in names:
                raise _missing(slot.name, names)
            stored = tensors[names[slot.name]]
            if tuple(stored.shape) != slot.shape:
                raise ModelError(f"tensor {slot.name} has shape {tuple(stored.shape)}; the config requires {slot.shape}")
            unread.discard(slot.name)
            views = slot.views(stored)
            weights |= {weight: _offset(view, slot.row.offset) for weight, view in zip(slot.weights, views, strict=True)}
        _refuse_unread(unread)
        if self.queries_divided is not None and _is_on(self.queries_divided, raw):
            _divide_queries(weights, config.n_layers)
        # a checkpoint that says it is tied and yet holds a second, different matrix is not tied (as in transformers)
        if tied and ("W_U" not in weights or torch.equal(weights["W_U"], weights["W_E"])):
            weights["W_U"] = weights["W_E"]
        return weights_of_names(weights)

    def names_in(self, tensors: Collection[str]) -> dict[str, str]:
        """A dict from the map's names to the file's, for all tensors of a file that are weights.

        Raises:
            ModelError: two of the file's names are one of the map's.
        """
        names: dict[str, str] = {}
        for stored in tensors:
            if not re.search(self.ignored, stored):
                name = stored.removeprefix(self.prefix)
                for alias, instead in self.aliases:
                    name = re.sub(alias, instead, name)
                if name in names:
                    raise ModelError(f"the checkpoint stores one tensor under two names: {names[name]} and {stored}")
                names[name] = stored
        return names

    def slots(self, config: TransformerConfig, names: Collection[str]) -> Iterator[Slot]:
        """Every tensor that a model with this config has or may have, whatever the switches of its rows.

        Args:
            names: the map's names of tensors in the file; rows that are optional and not among them are passed over.
        """
        held: set[str] = set()
        for slot in self._every_slot(config):
            if held.isdisjoint(slot.weights) and (slot.name in names or not slot.row.optional):
                held.update(slot.weights)
                yield slot

    def row_of(self, weight: str) -> StoredTensor | None:
        """The row for a layer's weight, such as ``"attention.b_O"``; None where the family has no such weight."""
        return next((row for row in self.per_layer if weight in row.weights), None)

    def _every_slot(self, config: TransformerConfig) -> Iterator[Slot]:
        for row in self.tensors:
            yield from _slots(config, row, "", "")
        for layer in range(config.n_layers):
            for row in self.per_layer:
                yield from _slots(config, row, self.layer.format(layer=layer), f"layers.{layer}.")


@dataclass(frozen=True)
class Family:
    """Checkpoints of one architecture.

    Args:
        architecture: ``model_type`` in their config.
        config: from their config to ours.
        tensor_map: of their files.
    """

    architecture: str
    config: Callable[["PreTrainedConfig"], TransformerConfig]
    tensor_map: TensorMap


def _slots(config: TransformerConfig, row: StoredTensor, at: str, inside: str) -> Iterator[Slot]:
    """A row for one layer: one slot, or one per expert."""
    weights = tuple(inside + weight for weight in row.weights)
    if not all(_asked_for(config, weight) for weight in weights):
        return
    experts = range(config.experts.n) if config.experts is not None and "{expert}" in weights[0] else None
    if experts is None:
        yield Slot(at + row.name, weights, tuple(shape_of(config, weight) for weight in weights), None, row)
        return
    of_each = [tuple(weight.format(expert=expert) for weight in weights) for expert in experts]
    shapes = tuple(shape_of(config, weight) for weight in of_each[0])
    if "{expert}" not in row.name:
        yield Slot(at + row.name, tuple(w for each in of_each for w in each), shapes * len(of_each), len(of_each), row)
        return
    for expert, each in zip(experts, of_each, strict=True):
        yield Slot(at + row.name.format(expert=expert), each, shapes, None, row)


def _asked_for(c: TransformerConfig, weight: str) -> bool:
    """Whether a model with this config has this weight, if tensors of biases are there."""
    first, _, rest = weight.removeprefix("layers.").partition(".")
    name = rest.rpartition(".")[2]
    if rest.startswith("mlp."):
        mixed = c.experts is not None and int(first) in c.experts.layers
        if rest.startswith(("mlp.W_router", "mlp.experts.")):
            return mixed
        if rest.startswith(("mlp.W_shared", "mlp.shared.")):
            return mixed and c.experts is not None and c.experts.d_shared > 0
        return not mixed and c.d_mlp > 0 and (c.gated or not name.endswith("gate"))
    absent = {"q_norm": not c.qk_norms, "k_norm": not c.qk_norms, "W_pos": not c.learned_positions}
    return not absent.get(name or first, "_post_norm." in weight and not c.post_norms)


def _is_on(switch: str | None, raw: "PreTrainedConfig") -> bool:
    return switch is None or bool(getattr(raw, switch))


def _offset(view: Tensor, offset: float) -> Tensor:
    if not offset:
        return view.contiguous()
    # in bfloat16 the sum would lose small numbers; the caller casts the result
    return offset + (view if view.element_size() >= 4 else view.float())


def _divide_queries(weights: dict[str, Tensor], n_layers: int) -> None:
    for layer in range(1, n_layers):
        for name in weights.keys() & {f"layers.{layer}.attention.W_Q", f"layers.{layer}.attention.b_Q"}:
            weights[name] = weights[name] / (layer + 1)


def _missing(name: str, names: Mapping[str, str]) -> ModelError:
    near = get_close_matches(name, names, n=2)
    hint = f"; nearest are {' and '.join(names[one] for one in near)}" if near else ""
    return ModelError(f"the checkpoint has no tensor {name}, which its config requires{hint}")


def _refuse_unread(unread: set[str]) -> None:
    if unread:
        shown = ", ".join(sorted(unread)[:_MOST_NAMES]) + (", …" if len(unread) > _MOST_NAMES else "")
        raise ModelError(f"the checkpoint has {len(unread)} tensors that do not belong to its config: {shown}")
