"""A checkpoint in a directory, in the Hugging Face layout: config.json, safetensors, tokenizer files.

The weights are in the files that transformers would choose: the file that the config names, else ``model.safetensors``, else the
shards of the index. Tensors are mapped from the files, without building a transformers model. Pickles are never opened, and code
in a checkpoint is never run.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from subcircuit.errors import ModelError
from subcircuit.model.load.cache import digest_of_files
from subcircuit.model.load.families import family_of
from subcircuit.model.load.transformers_calls import first_line, reading
from subcircuit.model.tensor_map import Family

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_MOST_LAYERS = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def read_config(folder: Path, own: Family | None = None) -> PreTrainedConfig:
    """The config of the checkpoint in ``folder``.

    Args:
        own: the caller's family, before the built-in ones; transformers need not know its ``model_type``.

    Raises:
        ModelError: the config is missing or cannot be read, or an adapter is beside it.
        UnsupportedModelError: the architecture is not supported.
    """
    _refuse_adapter(folder)
    raw = _json(folder / "config.json", f"{folder} holds no config.json: it is not a Hugging Face checkpoint")
    architecture = family_of(raw.get("model_type"), own).architecture
    for name, value in raw.items():
        # transformers makes lists of this length
        if "layer" in name and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"{folder / 'config.json'}: {name} is {value:,}, and no model has more than {_MOST_LAYERS:,} layers")
    with reading(f"{folder / 'config.json'} is not a valid {raw['model_type']} config"):
        if architecture in CONFIG_MAPPING:
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = PreTrainedConfig.from_dict(raw)
        config.model_type = architecture  # pyright: ignore[reportAttributeAccessIssue]  # as transformers does itself
        return config


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files of the checkpoint in ``folder``, whether they exist or not.

    Raises:
        ModelError: the config or the index cannot be read or names files outside the directory.
    """
    named = _json(folder / "config.json", f"{folder} holds no config.json").get("transformers_weights")
    if named is not None and not str(named).endswith(".index.json"):
        return (_beside(folder / "config.json", named),)
    if named is None and ((folder / WEIGHTS).is_file() or not (folder / INDEX).is_file()):
        # an index beside the one file is left over from an earlier save
        return (WEIGHTS,)
    index = folder / (INDEX if named is None else _beside(folder / "config.json", named, ".safetensors.index.json"))
    shards = _json(index, f"{folder} lacks {index.name}").get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names:
        raise ModelError(f"{index} lists no weight files")
    return tuple(_beside(index, name) for name in names)


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
    """The tokenizer of the checkpoint in ``folder``; None if it has no tokenizer files.

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


def _beside(source: Path, name: object, suffix: str = ".safetensors") -> str:
    """The name of a file beside ``source``, which names it."""
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
        raise ModelError(f"{source} names {name!r}, which is not a {suffix.removeprefix('.')} file in its own directory")
    return name


def _refuse_adapter(folder: Path) -> None:
    """Refuse an adapter, alone or beside its base, because adapters are not merged here."""
    if not (folder / ADAPTER).is_file():
        return
    base = _json(folder / ADAPTER, "").get("base_model_name_or_path")
    way = f"merge the adapter with peft, PeftModel.from_pretrained(model, {str(folder)!r}).merge_and_unload(), and save the merged model"
    if (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} contains a model (config.json) and an adapter to it ({ADAPTER}), and adapters are not loaded: {way}; or move "
            f"{ADAPTER} away to load the model without the adapter"
        )
    of, without = (f" to {base!r}", f"; or load {base!r} without the adapter") if base else ("", "")
    raise ModelError(f"{folder} contains an adapter ({ADAPTER}){of} and no model: {way}{without}")


def _json(file: Path, otherwise: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(otherwise)
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {first_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} contains a JSON {type(value).__name__}; expected an object")
    return value


def _without_weights(folder: Path, name: str) -> str:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles and name == WEIGHTS:
        return f"{folder} has weights only as pickles ({pickles[0]}), which can run code and are never loaded: convert them to safetensors"
    return f"{folder} lacks {name}"
