"""Standard output that is not UTF-8: every command prints something readable and succeeds."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import subcircuit
from subcircuit.cli.encoding import HANDLER, make_readable
from tests.cli.conftest import Output

Run = Callable[..., Output]
SOURCE = Path(subcircuit.__file__).parent


BETWEEN = b"--- next command ---"
CODE = f"""
import json, sys
from subcircuit.cli.main import run
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        run()
    except SystemExit as end:
        assert not end.code, words
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.buffer.write({BETWEEN!r})
        stream.buffer.flush()
"""


def printed(encoding: str, commands: list[list[str]]) -> list[tuple[bytes, bytes]]:
    """Standard output and error of each command, one after another in one process, all of which succeed."""
    # a locale without UTF-8, as far as Python lets one have it
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if encoding == "locale" else {}
    chosen = plain or {"PYTHONIOENCODING": encoding}
    words = [sys.executable, "-c", CODE, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, check=False, timeout=120, env={**os.environ, **chosen})
    assert done.returncode == 0, done.stderr
    *out, after_out = done.stdout.split(BETWEEN)
    *err, after_err = done.stderr.split(BETWEEN)
    assert not after_out + after_err
    return list(zip(out, err, strict=True))


def shown(file: Path) -> str:
    """The strings of a module, without its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told)
    return "".join(node.value for node in constants if isinstance(node.value, str))


@pytest.mark.slow
def test_every_character_of_the_package_has_an_equivalent() -> None:
    make_readable()
    special = {c for file in SOURCE.rglob("*.py") for c in shown(file) if not c.isascii()} - {"\N{REPLACEMENT CHARACTER}"}
    lost = {character for character in special if "?" in character.encode("ascii", HANDLER).decode("ascii")}
    assert not lost
    assert special
    assert "Zoë · 3 → 4 …".encode("ascii", HANDLER) == b"Zoe - 3 -> 4 ..."
    assert "Zoë · 3 → 4 …".encode("cp1252", HANDLER).decode("cp1252") == "Zoë · 3 -> 4 …"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "locale"])
def test_commands_print_in_any_encoding(encoding: str, subcircuit: Run) -> None:
    search = ["discover", "--model", "tiny-induction-ioi", "--task", "induction", "--metric", "logit_difference"]
    commands = [[*search, "--method", "eap", "--out", "found"], ["show", "found"], ["metrics"], ["discover", "--help"], []]
    (found, _), *others = printed(encoding, commands)
    written = "cp1252" if encoding == "cp1252" else "ascii"
    assert "8 pairs of prompts" in found.decode(written)
    assert len(others) == 4
    assert all(out.decode(written).strip() and not err for out, err in others)
