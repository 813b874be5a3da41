"""Output in encodings other than UTF-8: missing characters are replaced by ASCII equivalents."""

import codecs
import sys
import unicodedata
from io import TextIOWrapper

HANDLER = "subcircuit-readable"

_ASCII = {
    "·": "-",
    "•": "*",
    "…": "...",
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "‖": "||",
    "│": "|",
    "→": "->",
    "↵": "\\n",
    "⇥": "\\t",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "∅": "0",
    "✓": "+",
    "✗": "x",
    "′": "'",
    "†": "+",
    "└": "`",
    "▁": "_",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}


def make_readable() -> None:
    """Make standard output and standard error accept any text in any encoding."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        # a stream may be closed, or replaced with one that is no file
        if isinstance(stream, TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors=HANDLER)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    """An ASCII equivalent of a character: the base letter of an accented letter, else a question mark."""
    if character in _ASCII:
        return _ASCII[character]
    name = unicodedata.name(character, "")
    if name.startswith("BOX DRAWINGS"):
        return "|" if "VERTICAL" in name else "-"
    if name.startswith("GREEK"):
        return name.rpartition(" ")[2].lower()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return plain or "?"
