"""Edited models on disk: a checkpoint without some nodes, or a directory that names a base model and the edges cut in it.

A checkpoint has the Hugging Face layout of its base checkpoint. The output weights of a removed node are set to zero, and so are
the input rows that only this node uses: the file keeps nothing of a removed head but keys and values that other heads share. All
other tensors are bit-identical to those of the base checkpoint.

A head or an MLP that is removed leaves a constant behind under mean and optimal ablation. It goes into the bias of the map
that the node wrote through, rounded to the checkpoint's own precision, as far as the family's tensor map has one:

    family                       heads                       MLPs
    gpt2                         always                      always
    gpt_neox                     ``attention_bias``          always
    llama                        ``attention_bias``          ``mlp_bias``
    qwen3, gemma2, gemma3_text   ``attention_bias``          none
    mistral, qwen2               none                        none

A name is a switch in the checkpoint's config. It also turns on the biases of all layers and of the queries, keys and values, or
of the whole MLP; those are zeros. Without a bias, the weights can hold only zero ablation.

Weights cannot express a cut edge, because the output of a head reaches every later reader or none. So the directory of a model
with cut edges holds ``circuit.json`` (the remaining edges), ``constants.safetensors`` (one vector per writer), and
``edited.json``, which names the base model and the digests that it must have.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.edit.parts import cut_stream
from subcircuit.edit.weights import WHOLE, is_whole_mlp, taken
from subcircuit.entry import default_modes, entry
from subcircuit.errors import CircuitFileError, EditError, ModelError
from subcircuit.graph import Circuit, Node
from subcircuit.graph.file import CIRCUIT_FILE
from subcircuit.io import write_json, write_text, write_whole
from subcircuit.model import Transformer, load_model
from subcircuit.model.components import unembed
from subcircuit.model.load.directory import WEIGHTS, read_tensors
from subcircuit.model.load.records import DIGEST, find_model
from subcircuit.model.tensor_map import Slot, StoredTensor, TensorMap
from subcircuit.model.tokens import Tokens

_COMPANIONS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")
_COMPANIONS += ("generation_config.json", "*.model", "LICENSE*", "NOTICE*")


def keeps_constants(model: Transformer, nodes: Sequence[Node]) -> bool:
    """Whether checkpoints like the model's can hold a constant for each of these nodes.

    Raises:
        EditError: checkpoints of its family cannot be written.
    """
    return all(_bias_of(_map_of(model), node) is not None for node in nodes)


def check_constants(model: Transformer, nodes: Sequence[Node], ablation: str) -> None:
    """Refuse an ablation that leaves constants where the model's family has no place for them.

    Raises:
        EditError: names the first such node; or checkpoints of the family cannot be written.
    """
    tensor_map = _map_of(model)
    for node in nodes:
        if _bias_of(tensor_map, node) is None:
            raise EditError(
                f"{ablation} ablation replaces {node} with a constant, and checkpoints of architecture "
                f"{model.config.architecture!r} have no output bias of {_WRITES[node.kind][0]} that could store it. "
                "Use --ablation zero, or --level edge."
            )


def _map_of(model: Transformer) -> TensorMap:
    if model.family is None or model.config.experts is not None:
        raise EditError(
            f"nodes cannot be removed from checkpoints of architecture {model.config.architecture!r}, which "
            f"{'are mixtures of experts' if model.config.experts else 'has no tensor map'}. "
            "Edges can be cut in any model: --level edge."
        )
    return model.family.tensor_map


_WRITES = {"attention": ("heads", "attention.b_O"), "mlp": ("MLPs", "mlp.b_out")}
"""By a node's kind: the name of such nodes in messages, and the bias of their output map."""


def _bias_of(tensor_map: TensorMap, node: Node) -> StoredTensor | None:
    """The bias of the map that a node writes through; None where the family has none."""
    return tensor_map.row_of(_WRITES[node.kind][1])


@entry
def write_checkpoint(
    model: Transformer, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"] | None, directory: Path
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files.

    Args:
        model: the whole model, as it was loaded from its checkpoint.
        nodes: to be removed.
        constants: the constant that replaces each node's output; None is zero.
        directory: an existing directory.

    Raises:
        EditError: the model was not read from a checkpoint, or its family has no place for a constant.
    """
    if model.folder is None:
        raise EditError(
            f"{model.name} was not read from a checkpoint on disk, so there is no checkpoint to edit: save the model with "
            "save_pretrained and load it from that directory."
        )
    if constants is not None:
        check_constants(model, nodes, "mean or optimal")
    tensor_map = _map_of(model)
    raw = json.loads((model.folder / "config.json").read_bytes())
    raw.pop("transformers_weights", None)  # the name of the file that is replaced
    tensors = _Tensors(dict(read_tensors(model.folder)), model, tensor_map)
    for layer, parts in taken(nodes).items():
        tensors.remove_heads(layer, list(parts.heads.values()))
        tensors.remove_neurons(layer, list(parts.neurons.values()))
    if constants is not None:
        raw |= tensors.fill(nodes, constants.cpu())
    write_whole(directory / WEIGHTS, lambda file: save_file(tensors.by_name, file, metadata={"format": "pt"}))
    write_text(directory / "config.json", json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    for file in sorted(model.folder.iterdir()):
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in _COMPANIONS):
            write_whole(directory / file.name, lambda copy, file=file: shutil.copyfile(file, copy))


class _Tensors:
    """A checkpoint's tensors while they are being edited, through the weights that are views of them; those that change are copied first."""

    def __init__(self, by_name: dict[str, Tensor], model: Transformer, tensor_map: TensorMap):
        self.by_name, self._config, self._map = by_name, model.config, tensor_map
        self._names = tensor_map.names_in(by_name)
        slots = tensor_map.slots(model.config, self._names)
        self._slots = {weight: slot for slot in slots for weight in slot.weights}
        self._copied: set[str] = set()

    def remove_heads(self, layer: int, heads: list[int]) -> None:
        """Set the weights of these heads to zero, except keys and values that other heads share."""
        group = self._config.heads_per_kv
        alone = [kv for kv in range(self._config.n_kv_heads) if set(range(kv * group, (kv + 1) * group)) <= set(heads)]
        for weights, rows in ((("W_Q", "b_Q", "W_O"), heads), (("W_K", "b_K", "W_V", "b_V"), alone)):
            self._clear([f"layers.{layer}.attention.{name}" for name in weights], rows)

    def remove_neurons(self, layer: int, neurons: list[slice]) -> None:
        """Set the weights of these neurons to zero; for a whole MLP its output bias too."""
        whole = is_whole_mlp(neurons)
        names = ("W_in", "W_gate", "W_out", "b_in", "b_gate", *(("b_out",) if whole else ()))
        self._clear(
            [f"layers.{layer}.mlp.{name}" for name in names],
            WHOLE if whole else [row for part in neurons for row in range(self._config.d_mlp)[part]],
        )

    def fill(self, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"]) -> dict[str, bool]:
        """Write constants into biases; return the config switches that they need."""
        switches = {row.switch for node in nodes if (row := _bias_of(self._map, node)) is not None and row.switch is not None}
        dtype = self.by_name[self._names[self._slots["W_E"].name]].dtype
        for slot in dict.fromkeys(self._slots.values()):
            if slot.row.switch in switches and slot.name not in self._names:
                self._names[slot.name] = self._new_name(slot)
                self.by_name[self._names[slot.name]] = torch.zeros(slot.shape, dtype=dtype)
        for node, constant in zip(nodes, constants, strict=True):
            view = self._view(f"layers.{node.layer}.{_WRITES[node.kind][1]}")
            view.copy_((view.double() + constant.double()).to(view.dtype))
        return dict.fromkeys(sorted(switches), True)

    def _clear(self, weights: Sequence[str], rows: list[int] | slice) -> None:
        """Zero rows of those of the weights that there are."""
        for weight in weights if rows else ():
            if weight in self._slots and self._slots[weight].name in self._names:
                self._view(weight)[rows] = 0

    def _view(self, weight: str) -> Tensor:
        """A weight as a view of the tensor that holds it, which is a copy of the checkpoint's."""
        slot = self._slots[weight]
        name = self._names[slot.name]
        if name not in self._copied:
            self._copied.add(name)
            self.by_name[name] = self.by_name[name].clone()
        return slot.views(self.by_name[name])[slot.weights.index(weight)]

    def _new_name(self, slot: Slot) -> str:
        prefixed = any(name.startswith(self._map.prefix) for name in self.by_name)
        return self._map.prefix + slot.name if prefixed else slot.name


EDITED_FILE: Final = "edited.json"


class EditedFile(BaseModel):
    """The content of ``edited.json``."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    model: str
    revision: str | None
    config: str
    dtype: str


@dataclass(frozen=True, eq=False)
class CutModel:
    """A model with cut edges.

    Args:
        model: the base model, with unchanged weights.
        circuit: the remaining edges, with the constants that cut edges carry.
    """

    model: Transformer
    circuit: Circuit

    def __post_init__(self) -> None:
        if self.circuit.constants is None:
            raise EditError("a model with edges cut needs a circuit with constants, because the cut edges carry them")

    @default_modes()
    def __call__(self, tokens: Tokens) -> Float[Tensor, "batch pos vocab"]:
        """Logits at every position; meaningless past a prompt's end."""
        return unembed(self.model.config, self.model.weights, self.stream(tokens))

    @default_modes()
    def stream(self, tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the last layer, before the final norm."""
        kept = self.circuit.kept.to(torch.promote_types(self.model.dtype, torch.float32))
        assert self.circuit.constants is not None
        return cut_stream(self.model, self.circuit.graph, kept, tokens, self.circuit.constants)

    def save(self, directory: str | Path) -> None:
        """Write the directory that `load_edited` reads."""
        directory = Path(directory)
        self.circuit.save(directory)
        content = EditedFile(
            format=1,
            model=self.model.name,
            revision=self.model.revision,
            config=self.model.config.digest,
            dtype=str(self.model.dtype).removeprefix("torch."),
        )
        write_json(directory / EDITED_FILE, content.model_dump(mode="json"))


@entry
def load_edited(
    directory: str | Path, model: str | Path | Transformer | None = None, *, device: str | torch.device | None = None
) -> CutModel:
    """A model with edges cut, from the directory that it was saved in.

    Args:
        model: the base model or its path; None finds it by its recorded name and digest, also near the directory.
        device: device to load it on.

    Raises:
        CircuitFileError: the directory does not hold one, or it is damaged.
        ModelError: the config or the weights of the base model differ from the recorded ones.
        UnknownNameError: the base model cannot be found by its name.
    """
    directory = Path(directory)
    recorded = _read(directory / EDITED_FILE)
    if not isinstance(model, Transformer):
        hub = (
            None
            if model is not None or recorded.revision is None or recorded.revision.startswith("sha256:")
            else recorded.revision
        )
        model = load_model(model or _source(recorded, directory), revision=hub, device=device, dtype=recorded.dtype)
    if model.config.digest != recorded.config:
        raise ModelError(
            f"{directory} is an edit of {recorded.model}, and {model.name} has another config: give the model that was edited"
        )
    if recorded.revision is not None and model.revision != recorded.revision:
        raise ModelError(
            f"{directory} is an edit of {recorded.model} at revision {recorded.revision}, and {model.name} is at revision "
            f"{model.revision}, with other weights: load the recorded revision"
        )
    circuit = Circuit.load(directory / CIRCUIT_FILE)
    if unlike := circuit.graph.unlike_model(model.config):
        raise ModelError(f"{directory}: the circuit belongs to another model than {model.name}; their graphs differ in {unlike}")
    if circuit.graph.shape.positions:
        raise ModelError(f"{directory}: the circuit has nodes at single positions, and a wrapper cuts edges at all positions")
    if circuit.constants is None or circuit.constants.shape[1] != model.config.d_model or not circuit.constants.isfinite().all():
        raise CircuitFileError(f"{directory}: the circuit has no constants of width {model.config.d_model}, all of them finite")
    return CutModel(model, circuit)


def _source(recorded: EditedFile, directory: Path) -> str:
    if recorded.revision is None or not recorded.revision.startswith(DIGEST):
        return recorded.model
    return find_model(recorded.model, recorded.revision, directory) or recorded.model


def _read(file: Path) -> EditedFile:
    try:
        return EditedFile.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CircuitFileError(
            f"{file} does not exist, so {file.parent} is not a model with edges cut. A model with "
            "nodes removed is a checkpoint: load it with load_model"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CircuitFileError(f"{file}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise CircuitFileError(f"{file}: cannot be read: {error}") from None
