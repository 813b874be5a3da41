"""GGUF files, read by transformers and converted once to a safetensors checkpoint in the cache.

Reading dequantises every tensor and takes seconds per hundred megabytes. The converted checkpoint, in float32, is mapped
immediately. The cache stores it under the digest of the GGUF file.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.extras import require
from subcircuit.model.load.cache import cache_directory, digest_of_files, make_directory
from subcircuit.model.load.directory import WEIGHTS
from subcircuit.model.load.families import family_of
from subcircuit.model.load.transformers_calls import quiet, reading

_MAGIC = b"GGUF"
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "head_dim",
    "vocab_size",
    "num_experts",
    "num_local_experts",
)


def converted(parts: Sequence[Path], report: Callable[[str], None] | None = None) -> tuple[Path, str]:
    """The directory of the converted checkpoint, made if it is not in the cache, and the GGUF file's sha256.

    Args:
        parts: the file, or its pieces in order.
        report: called when a conversion starts.

    Raises:
        MissingExtraError: it is not converted yet, and gguf or accelerate is not installed.
        ModelError: the file is not GGUF or damaged, or the cache cannot be written.
        UnsupportedModelError: its architecture is not supported.
    """
    try:
        with parts[0].open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(f"{parts[0]} is not a GGUF file")
        digest = digest_of_files(parts)
    except OSError as error:
        raise ModelError(f"{parts[0]} cannot be read: {error.strerror}") from None
    target = directory_of(digest)
    if target.is_dir():
        return target, digest
    require("gguf")
    if report is not None:
        report(f"converting {parts[0].name} once; the result is kept in {target.parent}")
    return make_directory(target, lambda folder: _convert(parts, folder)), digest


def directory_of(digest: str) -> Path:
    """The cache directory for the conversion of the GGUF file with this sha256."""
    return cache_directory() / "gguf" / digest[:32]


def _convert(parts: Sequence[Path], folder: Path) -> None:
    if len(parts) == 1:
        _read_and_save(parts[0], folder)
        return
    whole = folder / "joined.gguf"
    with whole.open("wb") as stream:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, stream)
    _read_and_save(whole, folder)
    whole.unlink()


def _read_and_save(file: Path, folder: Path) -> None:
    # the slowest import, needed only once per file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "local_files_only": True}
    with reading(f"{file.name} cannot be read as GGUF"):
        reader = _reader(file)
        _refuse_scaled_rotary(reader)
        _refuse_layers_without_tensors(reader, file)
        config = AutoConfig.from_pretrained(**source)
        family_of(config.model_type)
        _refuse_more_than_it_holds(config, file)
        loaded: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills them with random numbers
        raise ModelError(f"{file.name} lacks {', '.join(sorted(info['missing_keys'])[:6])}")
    config = model.config
    del config.quantization_config  # the tensors are plain float32 now
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    with quiet():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _reader(file: Path) -> Any:
    """A reader that refuses a list longer than its file, which gguf would read as zeros."""
    from gguf import GGUFReader

    class Bounded(GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("the file ends before the tensors that it lists")
            return super()._get(offset, dtype, count, override_order)

    return Bounded(file)


def _refuse_layers_without_tensors(reader: Any, file: Path) -> None:
    """transformers makes lists of as many entries as a config has layers."""
    for name, field in reader.fields.items():
        if name.endswith(".block_count") and int(field.contents()) > len(reader.tensors):
            raise ModelError(
                f"{file.name} cannot be read as GGUF: it states {field.contents():,} layers, more than fit in the file"
            )


def _refuse_more_than_it_holds(config: Any, file: Path) -> None:
    """Refuse a header that states a larger model than fits in the file, before allocating that size."""
    of = {name: getattr(config, name, None) or 0 for name in _SIZES}
    inside = max(of["intermediate_size"], of["num_attention_heads"] * of["head_dim"], of["vocab_size"])
    experts = max(1, of["num_experts"], of["num_local_experts"])
    # no format packs more than eight weights into a byte
    if of["hidden_size"] * inside * experts > 8 * file.stat().st_size:
        told = ", ".join(f"{name} {size:,}" for name, size in of.items() if size)
        raise ModelError(f"{file.name} cannot be read as GGUF: it states more tensors than fit in the file: {told}")


def _refuse_scaled_rotary(reader: Any) -> None:
    """Refuse settings that transformers silently ignores in a GGUF file."""
    tensors = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    fields = [name for name in reader.fields if name.endswith(".rope.scaling.type") and reader.fields[name].contents() != "none"]
    if dropped := tensors + fields:
        raise UnsupportedModelError(
            f"a GGUF file with scaled rotary frequencies ({', '.join(dropped)}) is not supported: load the original checkpoint"
        )
