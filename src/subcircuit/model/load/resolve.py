"""Loading of a model from a name, a path, a hub id or a transformers model in memory."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from subcircuit.entry import entry
from subcircuit.errors import ModelError, SettingsError, UnknownNameError
from subcircuit.model.load.builtin import BUILT_IN, SHIPPED, BuiltIn, installed_parts, origin_of
from subcircuit.model.load.directory import digest_of_checkpoint, read_config, read_tensors, read_tokenizer
from subcircuit.model.load.families import family_of, read_model
from subcircuit.model.load.gguf import converted
from subcircuit.model.load.hub import NotOnHubError, download
from subcircuit.model.load.memory import read_module
from subcircuit.model.placement import DeviceShare, parse_devices, usable
from subcircuit.model.tensor_map import Family
from subcircuit.model.transformer import Transformer

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@entry
def load_model(
    source: str | Path | torch.nn.Module,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    family: Family | None = None,
    report: Callable[[str], None] | None = None,
) -> Transformer:
    """A decoder-only transformer.

    Args:
        source: a built-in name (``"smollm2-135m"``), a directory in the Hugging Face layout, a ``.gguf`` file, an id on
            the Hugging Face hub, or a transformers model in memory, whose weights are copied once a forward pass on a few
            tokens has shown that they are all that it computes with.
        revision: of a hub id: branch, tag or commit.
        device: None is ``"cuda"`` if there is one, else ``"cpu"``. Of several, separated by commas, the first computes and the
            others store layers (``"cuda:0=20,cpu"``, see ``model/placement.py``).
        dtype: ``"float32"``, ``"float64"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``, the checkpoint's own; None is
            float32, because rounding in half precision is larger than the effects of single edges.
        tokenizer: replacement for the checkpoint's own tokenizer; a transformers model comes with none.
        family: a family for an architecture that is not built in; it takes precedence over the built-in families.
        report: called with a message before slow work (converting a GGUF file).

    Raises:
        UnknownNameError: ``source`` is none of these; or an unknown dtype.
        SettingsError: the device does not exist, or a revision is given for a model that is not on the hub.
        ModelError: the checkpoint cannot be read, or a model in memory computes something other than its weights do.
        UnsupportedModelError: the architecture, or a setting of its config, is not implemented.

    Examples:
        >>> model = load_model("smollm2-135m")  # doctest: +SKIP
    """
    shares, precision = _devices(device), _dtype(dtype)
    if isinstance(source, str | Path):
        model = _from_name(source, revision, report, family)
    else:
        _only_for_hub(revision, "a transformers model")
        model = _from_memory(source, family)
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    return replace(model.spread(shares, precision or model.dtype), tokenizer=tokenizer)


def _from_name(
    source: str | Path, revision: str | None, report: Callable[[str], None] | None, family: Family | None
) -> Transformer:
    name, path = str(source), Path(source).expanduser()
    # a Path is always a path, never a built-in name
    if name in BUILT_IN and isinstance(source, str):
        return _built_in(BUILT_IN[name], revision, report)
    if name in SHIPPED and isinstance(source, str):
        _only_for_hub(revision, f"{name}, which comes with subcircuit,")
        return _from_directory(SHIPPED[name].folder, name, None)
    if path.is_dir():
        _only_for_hub(revision, "a directory")
        # only the folder's own name, because records and pictures are shared
        return _from_directory(path, path.resolve().name, None, family)
    if path.is_file():
        _only_for_hub(revision, "a file")
        return _from_file(path, report)
    if isinstance(source, Path) or _looks_like_a_path(name):
        raise ModelError(f"there is no file or directory {name!r}")
    try:
        return _from_hub(name, name, revision, family)
    except NotOnHubError as why:
        raise UnknownNameError("model", name, (*BUILT_IN, *SHIPPED), f"Not found: {why}.") from None


def _built_in(model: BuiltIn, revision: str | None, report: Callable[[str], None] | None) -> Transformer:
    parts = installed_parts(model)
    try:
        packaged = parts and revision is None
        found = _from_gguf(parts, model.name, report) if packaged else _from_hub(model.hub, model.name, revision)
        dtype = str(found.dtype).removeprefix("torch.")
        return replace(found, origin=origin_of(model, parts if packaged else (), dtype))
    except NotOnHubError as why:
        raise ModelError(
            f"{model.name} ({model.hub}) cannot be downloaded: {why}. It is also a package: {model.installation}"
        ) from None


def _from_memory(module: torch.nn.Module, family: Family | None) -> Transformer:
    ours = read_module(module, family)
    path = Path(ours.name).exists() or _looks_like_a_path(ours.name)
    return replace(ours, name=Path(ours.name).name if path else ours.name)


def _from_file(file: Path, report: Callable[[str], None] | None) -> Transformer:
    if file.suffix.lower() != ".gguf":
        raise ModelError(f"{file} is a file, but not a .gguf file: give the directory that holds config.json and the weights")
    return _from_gguf((file,), file.name, report)


def _from_gguf(parts: tuple[Path, ...], name: str, report: Callable[[str], None] | None) -> Transformer:
    folder, digest = converted(parts, report)
    return _from_directory(folder, name, f"sha256:{digest}")


def _from_hub(hub_id: str, name: str, revision: str | None, family: Family | None = None) -> Transformer:
    folder, commit = download(hub_id, revision, family)
    return _from_directory(folder, name, commit, family)


def _from_directory(folder: Path, name: str, revision: str | None, own: Family | None = None) -> Transformer:
    config, tensors = read_config(folder, own), read_tensors(folder)
    if revision is None:
        # unlike a cache, a user's directory may change, and overwriting a mapped file would change or kill the process
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        revision = f"sha256:{digest_of_checkpoint(folder)}"
    family = family_of(config.model_type, own)
    model = Transformer(*read_model(config, tensors, family), read_tokenizer(folder), name, revision)
    return replace(model, folder=folder, family=family)


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name or name.lower().endswith(".gguf")


def _only_for_hub(revision: str | None, what: str) -> None:
    if revision is not None:
        raise SettingsError(f"revision is {revision!r}, but {what} has no revisions: only models on the hub have them")


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The requested dtype; None is the checkpoint's own."""
    if dtype == "auto":
        return None
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UnknownNameError("dtype", dtype, (*DTYPES, "auto"))
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise SettingsError(f"{dtype} is not a dtype that models run in; choose from {', '.join(DTYPES)}")
    return dtype


def _devices(device: str | torch.device | None) -> tuple[DeviceShare, ...]:
    if device is None:
        return (DeviceShare(torch.device("cuda" if torch.cuda.is_available() else "cpu")),)
    return parse_devices(device) if isinstance(device, str) else (DeviceShare(usable(device)),)
