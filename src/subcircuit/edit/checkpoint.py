"""Writing a checkpoint without some of its nodes, in the Hugging Face layout of the one that it comes from.

What a removed node writes through is set to zero, and with it the rows that it alone reads with: of a removed head nothing is
left in the file but keys and values that other heads share. All other tensors are those of the checkpoint, bit by bit.
Constants are added to biases (``families.py``) and rounded to the checkpoint's own precision.
"""

import json
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.durable import write_whole
from subcircuit.edit.families import Layout, check_constants, layout_of, read_slices
from subcircuit.edit.weights import Node
from subcircuit.entry import entry
from subcircuit.errors import EditError
from subcircuit.graph import MLP, Head, Neuron
from subcircuit.model import Transformer
from subcircuit.model.config import TransformerConfig
from subcircuit.model.load.directory import WEIGHTS, read_tensors

_COMPANIONS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")
_COMPANIONS += ("generation_config.json", "*.model", "LICENSE*", "NOTICE*")


@entry
def write_checkpoint(
    model: Transformer, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"] | None, directory: Path
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files.

    Args:
        model: the whole model, as it was loaded from its checkpoint.
        nodes: to be removed.
        constants: what each writes from now on; None is nothing.
        directory: exists.

    Raises:
        EditError: the model was not read from a checkpoint, or its family has no place for a constant.
    """
    if model.folder is None:
        raise EditError(
            f"{model.name} was not read from a checkpoint on disk, so there is none to edit: save it with save_pretrained, "
            "and load it from there."
        )
    layout = layout_of(model.config.architecture)
    if constants is not None:
        check_constants(model.config.architecture, tuple(nodes), "mean or optimal")
    raw = json.loads((model.folder / "config.json").read_bytes())
    raw.pop("transformers_weights", None)  # the name of the file that is replaced
    tensors = _Tensors(dict(read_tensors(model.folder)), layout, model.config)
    for layer in sorted({node.layer for node in nodes}):
        tensors.remove_heads(layer, [node.head for node in nodes if isinstance(node, Head) and node.layer == layer])
        if MLP(layer) in nodes:
            tensors.remove_mlp(layer)
        tensors.remove_neurons(layer, [node.neuron for node in nodes if isinstance(node, Neuron) and node.layer == layer])
    if constants is not None:
        raw |= tensors.fill(nodes, constants.cpu())
    write_whole(directory / WEIGHTS, lambda file: save_file(tensors.by_name, file, metadata={"format": "pt"}))
    (directory / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in sorted(model.folder.iterdir()):
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in _COMPANIONS):
            shutil.copyfile(file, directory / file.name)


class _Tensors:
    """A checkpoint's tensors while they are being edited; those that change are copied first."""

    def __init__(self, by_name: dict[str, Tensor], layout: Layout, config: TransformerConfig):
        self.by_name, self._layout, self._config = by_name, layout, config
        inside = layout.prefix + layout.layer.format(0) + layout.attention_out + ".weight"
        self._prefix = layout.prefix if inside in by_name else ""

    def remove_heads(self, layer: int, heads: list[int]) -> None:
        """Nothing goes through these heads."""
        for name, rows in read_slices(self._layout, self._config, heads) if heads else ():
            self._clear(self._name(layer, name), rows, inputs=False)
        for head in heads:
            width = self._config.d_head
            self._clear(self._name(layer, self._layout.attention_out), slice(head * width, (head + 1) * width), inputs=True)

    def remove_mlp(self, layer: int) -> None:
        """Nothing comes out of this MLP, not even its bias."""
        everything = slice(None)
        for name in self._layout.mlp_in:
            self._clear(self._name(layer, name), everything, inputs=False)
        out = self._name(layer, self._layout.mlp_out)
        self._clear(out, everything, inputs=True)
        if out + ".bias" in self.by_name:
            self.by_name[out + ".bias"] = torch.zeros_like(self.by_name[out + ".bias"])

    def remove_neurons(self, layer: int, neurons: list[int]) -> None:
        """Nothing goes through these neurons; the MLP keeps its bias."""
        for neuron in neurons:
            for name in self._layout.mlp_in:
                self._clear(self._name(layer, name), slice(neuron, neuron + 1), inputs=False)
            self._clear(self._name(layer, self._layout.mlp_out), slice(neuron, neuron + 1), inputs=True)

    def fill(self, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"]) -> dict[str, bool]:
        """Constants into biases; returns the switches of the config that this takes."""
        switches = {bias for node in nodes if (bias := self._layout.bias_of(node)) != "always"}
        for layer in range(self._config.n_layers):
            for switch, maps in (
                ("attention_bias", (*self._layout.attention_in, self._layout.attention_out)),
                ("mlp_bias", (*self._layout.mlp_in, self._layout.mlp_out)),
            ):
                for name in maps if switch in switches else ():
                    self._give_bias(self._name(layer, name))
        for node, constant in zip(nodes, constants, strict=True):
            out = self._layout.attention_out if isinstance(node, Head) else self._layout.mlp_out
            name = self._name(node.layer, out) + ".bias"
            self.by_name[name] = (self.by_name[name].double() + constant.double()).to(self.by_name[name].dtype)
        return dict.fromkeys(sorted(switches), True)

    def _name(self, layer: int, name: str) -> str:
        return self._prefix + self._layout.layer.format(layer) + name

    def _clear(self, name: str, part: slice, inputs: bool) -> None:
        """Zero some inputs or some outputs of a map; the outputs with their biases."""
        weight = self.by_name[name + ".weight"].clone()
        (weight if inputs == self._layout.inputs_first else weight.mT)[part] = 0
        self.by_name[name + ".weight"] = weight
        if not inputs and name + ".bias" in self.by_name:
            bias = self.by_name[name + ".bias"].clone()
            bias[part] = 0
            self.by_name[name + ".bias"] = bias

    def _give_bias(self, name: str) -> None:
        weight = self.by_name[name + ".weight"]
        outputs = weight.shape[1 if self._layout.inputs_first else 0]
        self.by_name.setdefault(name + ".bias", torch.zeros(outputs, dtype=weight.dtype))
