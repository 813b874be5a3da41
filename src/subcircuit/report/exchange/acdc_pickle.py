"""Edges that the ACDC authors' program pickled: a list of ``((child hook, index, parent hook, index), effect)``.

A pickle is a program. Each operation is checked before the pickle is loaded, and only tuples, lists, strings and numbers are
allowed; the unpickler refuses all imports. Edges between the hooks inside one component (a head's query and its result) are
bookkeeping of the program and are left out.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, NoReturn

from subcircuit.errors import CircuitFileError
from subcircuit.graph import Circuit, Scope
from subcircuit.io import read_bytes
from subcircuit.report.exchange.target import Gathered, Target, number

_LARGEST = 1 << 26
_MOST_REMEMBERED = 1 << 22
_HARMLESS = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE"),
    }
)
_BLOCK = re.compile(
    r"blocks\.(\d{1,6})\.(hook_[qkv]_input|hook_mlp_in|hook_mlp_out|hook_resid_pre|hook_resid_post|attn\.hook_\w{1,6})"
)


class _Nothing(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError("imports are refused")


def read_acdc_pickle(path: Path, target: Target) -> Circuit:
    """Read a circuit, at scope ``qkv``; embeddings are split if the file names ``hook_pos_embed``.

    Raises:
        CircuitFileError: the pickle contains anything but tuples, strings and numbers, or is not such a list.
    """
    edges = _entries(path, _unpickle(path))
    split = any("hook_pos_embed" in (child, parent) for child, _, parent, _, _ in edges)
    gathered = Gathered(path, target.graph(Scope(split_embeddings=split)))
    last = target.config.n_layers - 1
    for child, child_index, parent, parent_index, effect in edges:
        reader, writer = _reader(child, child_index, last), _writer(parent, parent_index, split)
        if reader is not None and writer is not None:
            gathered.add(writer, reader, kept=True, score=effect)
        elif not _inside(child, parent):
            raise CircuitFileError(f"{path}: {parent[:60]!r} -> {child[:60]!r} is not an edge of the ACDC program")
    return gathered.circuit()


def _unpickle(path: Path) -> object:
    content = read_bytes(path, _LARGEST)
    try:
        for operation, argument, _ in pickletools.genops(content):
            too_far = operation.name == "LONG_BINPUT" and isinstance(argument, int) and argument > _MOST_REMEMBERED
            if operation.name not in _HARMLESS or too_far:
                raise CircuitFileError(
                    f"{path}: the pickle contains {operation.name}, not only tuples, strings and numbers, and was not loaded, because a pickle can "
                    "run any code"
                )
        return _Nothing(io.BytesIO(content)).load()
    except CircuitFileError:
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        raise CircuitFileError(f"{path} cannot be read as a pickle: {type(error).__name__}") from None


def _entries(path: Path, content: object) -> list[tuple[str, int | None, str, int | None, float]]:
    if not isinstance(content, list):
        raise CircuitFileError(f"{path} does not contain a list of edges")
    return [_entry(path, item) for item in content]


def _entry(path: Path, item: Any) -> tuple[str, int | None, str, int | None, float]:
    match item:
        case ((str() as child, child_index, str() as parent, parent_index), effect):
            score = float("nan") if effect is None else number(path, effect, "an effect")
            return child, _head(path, child_index), parent, _head(path, parent_index), score
        case _:
            raise CircuitFileError(f"{path}: an entry is not ((child hook, index, parent hook, index), effect)")


def _head(path: Path, index: Any) -> int | None:
    """The head that an index ``(None, None, 3)`` names; None for ``(None,)``."""
    match index:
        case None | (None,) | ():
            return None
        case (None, None, int() as head):
            return head
        case _:
            raise CircuitFileError(f"{path}: an index is neither (None,) nor (None, None, head)")


def _reader(hook: str, head: int | None, last: int) -> str | None:
    match = _BLOCK.fullmatch(hook)
    if match is None:
        return None
    layer, place = int(match[1]), match[2]
    if place == "hook_resid_post" and layer == last:
        return "logits"
    if place == "hook_mlp_in":
        return f"m{layer}"
    return f"a{layer}.h{head}<{place[5]}>" if place.endswith("_input") else None


def _writer(hook: str, head: int | None, split: bool) -> str | None:
    if hook in ("hook_embed", "hook_pos_embed"):
        return ("token_embed" if hook == "hook_embed" else "pos_embed") if split else "embed"
    match = _BLOCK.fullmatch(hook)
    if match is None:
        return None
    layer, place = int(match[1]), match[2]
    if place == "hook_resid_pre" and layer == 0:
        return "embed"
    return f"a{layer}.h{head}" if place == "attn.hook_result" else f"m{layer}" if place == "hook_mlp_out" else None


def _inside(child: str, parent: str) -> bool:
    """Whether both hooks belong to one layer, or one is the sum of the embeddings."""
    ends = [_BLOCK.fullmatch(hook) for hook in (child, parent)]
    if ends[0] is None or ends[1] is None:
        return ends[0] is not None and ends[0][2] == "hook_resid_pre" and parent in ("hook_embed", "hook_pos_embed")
    return ends[0][1] == ends[1][1]
