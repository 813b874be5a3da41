"""A model with edges cut, kept as what it is: the base model, a circuit, and the constants that cut edges carry.

Weights cannot express a cut edge: what a head writes reaches every later reader or none. So an edited directory holds
``circuit.json`` (the edges that are left), ``constants.safetensors`` (one vector for each writer), and ``edited.json``, which names
the base model and the digests that it must have.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from subcircuit.edit.parts import cut_stream
from subcircuit.entry import default_modes, entry
from subcircuit.errors import CircuitFileError, EditError, ModelError
from subcircuit.graph import Circuit
from subcircuit.graph.file import CIRCUIT_FILE
from subcircuit.model import Transformer, load_model
from subcircuit.model.components import unembed
from subcircuit.model.load.find import DIGEST, find_model
from subcircuit.model.tokens import Tokens

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
    """A model of which only some edges are left.

    Args:
        model: the base model; its weights are as they were.
        circuit: the edges that are left, with the constants that cut edges carry.
    """

    model: Transformer
    circuit: Circuit

    def __post_init__(self) -> None:
        if self.circuit.constants is None:
            raise EditError("a model with edges cut needs a circuit with constants: they are what cut edges carry")

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
        text = json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        (directory / EDITED_FILE).write_text(text, encoding="utf-8")


@entry
def load_edited(
    directory: str | Path, model: str | Path | Transformer | None = None, *, device: str | torch.device | None = None
) -> CutModel:
    """A model with edges cut, from the directory that it was saved in.

    Args:
        model: the base model or where it is now; None looks for it by its recorded name and digest, near the directory too.
        device: to load it on.

    Raises:
        CircuitFileError: the directory does not hold one, or it is damaged.
        ModelError: the base model is another: its config or its weights are not those recorded.
        UnknownNameError: it is not to be had under its name.
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
            f"{directory} is an edit of {recorded.model}, and {model.name} has another config: give the model it was"
        )
    if recorded.revision is not None and model.revision != recorded.revision:
        raise ModelError(
            f"{directory} is an edit of {recorded.model} in revision {recorded.revision}, and {model.name} is {model.revision}: "
            "its weights are others"
        )
    circuit = Circuit.load(directory / CIRCUIT_FILE)
    if unlike := circuit.graph.unlike_model(model.config):
        raise ModelError(f"{directory}: the circuit is not of {model.name}; their graphs differ in {unlike}")
    if circuit.graph.shape.places:
        raise ModelError(f"{directory}: the circuit has nodes at single places, and a wrapper cuts edges at all positions")
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
            f"{file}: there is no model with edges cut here. Models with nodes removed are checkpoints: load them with load_model"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CircuitFileError(f"{file}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise CircuitFileError(f"{file}: cannot be read: {error}") from None
