"""Tasks from the user's own prompts: one JSON object per line, with the keys of auto-circuit.

    {"clean": "Mary and John left. John gave it to", "corrupt": "Mary and John left. Kate gave it to",
     "answers": [" Mary"], "wrong_answers": [" John"]}

`wrong_answers` may be left out. Token roles (see `Roles`) may be named in one of three ways; the first that a line has counts.
Positions are those of the text's own tokens from 0, a beginning-of-sequence token not counted:

    "roles": {"IO": [3], "S2": [7, 8]}      positions of each role
    "word_idxs": {"IO": 3}                  one position of each
    "seq_labels": ["The", "IO", …]          a role for each token from the first; labels that are no names are nobody's role

Blank lines are skipped. Files are UTF-8, with or without a byte order mark.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from subcircuit.entry import entry
from subcircuit.errors import PromptError, SettingsError
from subcircuit.io import digest_of
from subcircuit.model.transformer import Transformer
from subcircuit.nearby import nearby
from subcircuit.tasks.prompts import build_task
from subcircuit.tasks.roles import is_role
from subcircuit.tasks.task import PromptPair, Task
from subcircuit.tasks.tokenizer import BosPolicy

LONGEST_LINE = 2**20
LARGEST_FILE = 2**28
_REQUIRED = ("clean", "corrupt", "answers")
_OPTIONAL = ("wrong_answers", "roles", "word_idxs", "seq_labels")

_Places: TypeAlias = dict[str, tuple[int, ...]]


@entry
def jsonl(path: Path, model: Transformer, *, examples: int | None = None, bos: BosPolicy = "auto") -> Task:
    """A task of the pairs in a file.

    Args:
        path: of the file.
        model: whose tokenizer to use.
        examples: take the first so many pairs; None takes all.
        bos: see `make_encoder`.

    Raises:
        PromptError: the file cannot be read, is empty or too large, a line is not what it should be (the message names
            file and line), holds fewer pairs than asked for, or a pair fails one of `build_task`'s checks.
        SettingsError: not a positive number of examples.
    """
    if examples is not None and examples < 1:
        raise SettingsError(f"examples is {examples}; it must be at least 1.")
    numbered, digest = read_pairs(path)
    if not numbered:
        raise PromptError(f"{path.name} contains no prompts: write one JSON object per line.")
    if examples is not None and examples > len(numbered):
        raise PromptError(
            f"examples is {examples}, and {path.name} has only {len(numbered)} pairs: use fewer examples, or add pairs."
        )
    kept = numbered[:examples]
    return build_task(
        path.stem,
        [pair for _, pair, _ in kept],
        model,
        # the name alone: records are shared, and directories say who made them
        parameters={"file": path.name, "sha256": digest, "examples": len(kept)},
        bos=bos,
        labels=[f"pair {number} ({path.name}:{line})" for number, (line, _, _) in enumerate(kept, 1)],
        roles=[places for _, _, places in kept],
    )


def find_prompts(name: str, digest: str, folder: Path) -> tuple[Path | None, list[Path]]:
    """The file with this name and SHA-256 near a folder (see `nearby`), and files of that name with other content.

    Args:
        name: of the file, without a path.
        digest: SHA-256 of its bytes.
        folder: the folder near which the search looks.
    """
    others = []
    for path in nearby(name, folder):
        with suppress(OSError):
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                if digest_of(path) == digest:
                    return path, others
                others.append(path)
    return None, others


def read_pairs(path: Path) -> tuple[list[tuple[int, PromptPair, _Places]], str]:
    """Pairs with their line numbers and roles, and the file's SHA-256.

    Raises:
        PromptError: the file cannot be read or is too large, or a line is not what it should be.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise PromptError(f"{path} is not a file.")
    digest = sha256()
    try:
        with path.open("rb") as file:
            pairs = [
                (line, *_parse(text, f"{path.name}:{line}")) for line, text in _lines(file, path.name, digest) if text.strip()
            ]
    except OSError as why:
        raise PromptError(f"cannot read {path}: {why.strerror or why}.") from why
    return pairs, digest.hexdigest()


def _lines(file: BinaryIO, name: str, digest: Any) -> Iterator[tuple[int, str]]:
    read, number = 0, 0
    while raw := file.readline(LONGEST_LINE + 1):
        number, read = number + 1, read + len(raw)
        digest.update(raw)
        if len(raw) > LONGEST_LINE:
            raise PromptError(f"{name}:{number}: the line is longer than {LONGEST_LINE} bytes: write one pair per line.")
        if read > LARGEST_FILE:
            raise PromptError(f"{name} is larger than {LARGEST_FILE} bytes: split the file.")
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as why:
            raise PromptError(f"{name}:{number}: not UTF-8 (byte {why.start} of the line); save the file as UTF-8.") from why


def _parse(text: str, where: str) -> tuple[PromptPair, _Places]:
    try:
        item = json.loads(text, object_pairs_hook=lambda items: _distinct(items, where))
    except (ValueError, RecursionError) as why:
        reason = (
            f"{why.msg} at column {why.colno}" if isinstance(why, json.JSONDecodeError) else "its nesting or numbers are absurd"
        )
        raise PromptError(f"{where}: not JSON: {reason}. Each line is one object such as {_EXAMPLE}") from why
    if not isinstance(item, dict):
        raise PromptError(f"{where}: a line must be a JSON object; this is {_kind(item)}. For example {_EXAMPLE}")
    for key in _REQUIRED:
        if key not in item:
            raise PromptError(f"{where}: {key!r} is missing. Required: {', '.join(_REQUIRED)}; optional: {', '.join(_OPTIONAL)}.")
    for key in item:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise PromptError(
                f"{where}: unknown key {key!r}. Required: {', '.join(_REQUIRED)}; optional: {', '.join(_OPTIONAL)}."
            )
    pair = PromptPair(
        _text(item, "clean", where),
        _text(item, "corrupt", where),
        _texts(item, "answers", where),
        _texts(item, "wrong_answers", where) if item.get("wrong_answers") is not None else (),
    )
    return pair, _places(item, where)


def _places(item: dict[str, Any], where: str) -> _Places:
    key = next((key for key in ("roles", "word_idxs", "seq_labels") if item.get(key) is not None), None)
    if key is None:
        return {}
    if key == "seq_labels":
        labels = _texts(item, key, where)
        return {role: tuple(p for p, label in enumerate(labels) if label == role) for role in labels if is_role(role)}
    if not isinstance(item[key], dict):
        raise PromptError(f'{where}: {key!r} must be an object such as {{"IO": 3}}; this is {_kind(item[key])}.')
    return {role: _positions(value, f"{where}: role {role!r}") for role, value in item[key].items()}


def _positions(value: Any, where: str) -> tuple[int, ...]:
    positions = value if isinstance(value, list) else [value]
    if not all(type(position) is int for position in positions):
        raise PromptError(f"{where} must be a position such as 3 or a list of positions; this is {_kind(value)}.")
    return tuple(positions)


def _distinct(items: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    keys = [key for key, _ in items]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise PromptError(f"{where}: key {twice!r} occurs twice; remove one.")
    return dict(items)


def _text(item: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(item[key], str):
        raise PromptError(f"{where}: {key!r} must be text; this is {_kind(item[key])}.")
    return item[key]


def _texts(item: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = item[key]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise PromptError(f'{where}: {key!r} must be a list of texts such as [" Mary"]; this is {_kind(value)}.')
    return tuple(value)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list" if all(isinstance(item, str) for item in value) else "a list of other things"
        case _:
            return "an object"


_EXAMPLE = '{"clean": "…", "corrupt": "…", "answers": [" Mary"], "wrong_answers": [" John"]}.'
