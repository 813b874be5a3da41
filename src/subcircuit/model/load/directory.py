"""A checkpoint in a directory, in the Hugging Face layout: config.json, safetensors, tokenizer files.

Tensors are mapped from the files, not read by building a transformers model. Pickles are never opened and no code
that comes with a checkpoint is run.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from subcircuit.errors import ModelError
from subcircuit.model.load.cache import digest_of_files
from subcircuit.model.load.families import check_architecture
from subcircuit.model.load.quiet import first_line, reading

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_LAYERS = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of the checkpoint in ``folder``.

    Raises:
        ModelError: there is none, or it cannot be read.
        UnsupportedModelError: it is of an architecture that is not supported.
    """
    raw = _json(folder / "config.json", f"{folder} holds no config.json: it is not a Hugging Face checkpoint")
    check_architecture(raw.get("model_type"))
    for name, value in raw.items():
        # transformers makes lists of so many entries
        if "layer" in name and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"{folder / 'config.json'}: {name} is {value:,}, and no model has more than {_MOST_LAYERS:,} layers")
    with reading(f"{folder / 'config.json'} is not a valid {raw['model_type']} config"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that make up the checkpoint in ``folder``, whether they are there or not.

    Raises:
        ModelError: the index cannot be read or names files outside the directory.
    """
    if not (folder / INDEX).is_file():
        return (WEIGHTS,)
    shards = _json(folder / INDEX, "").get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX} names {name!r}, which is not a safetensors file in its own directory")
    if not names:
        raise ModelError(f"{folder / INDEX} names no weights")
    return tuple(names)


def read_tensors(folder: Path) -> Mapping[str, Tensor]:
    """Every tensor of the checkpoint in ``folder``, by name.

    Raises:
        ModelError: a file is missing, truncated or otherwise not safetensors.
    """
    tensors: dict[str, Tensor] = {}
    for name in weight_files(folder):
        if not (folder / name).is_file():
            raise ModelError(_without_weights(folder, name))
        try:
            tensors.update(load_file(folder / name))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{folder / name} is damaged or not a safetensors file: {first_line(error)}") from None
    return tensors


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the checkpoint in ``folder``; None where it has no tokenizer files.

    Raises:
        ModelError: there are tokenizer files, but they cannot be read.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    with reading(f"the tokenizer in {folder} cannot be read"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def digest_of_checkpoint(folder: Path) -> str:
    """sha256 over the config's and the weight files' digests."""
    files = [folder / name for name in ("config.json", *weight_files(folder))]
    return sha256("".join(digest_of_files([file]) for file in files).encode()).hexdigest()


def _json(file: Path, otherwise: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(otherwise)
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a JSON {type(value).__name__}, not an object")
    return value


def _without_weights(folder: Path, name: str) -> str:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles and name == WEIGHTS:
        return f"{folder} has its weights only as pickles ({pickles[0]}), which can run code and are never loaded: convert to safetensors"
    return f"{folder} lacks {name}"
