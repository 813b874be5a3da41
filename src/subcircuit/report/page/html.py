"""The page as one file of HTML: style, script and, in a report, data inside; nothing is fetched from anywhere else.

Scripts are small ES modules in ``static/``. They are joined by writing one after the other, without their ``import`` and
``export`` words; a browser lets nothing run but what the policy names by its digest.
"""

import base64
import html
import json
import re
from functools import cache
from hashlib import sha256
from importlib import resources

from subcircuit.report.page.arrays import Json

# each imports from those before it alone
MODULES = (
    "dom",
    "data",
    "state",
    "layout",
    "paint",
    "scene",
    "map",
    "chart",
    "pattern",
    "prompt",
    "lists",
    "side",
    "source",
    "controls",
    "main",
)
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class) )", re.MULTILINE)

# beside what the scripts and styles need, nothing: no forms, no frames, no addresses
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'"


@cache
def static(name: str) -> str:
    """A file of the page, as it is in the package."""
    return resources.files("subcircuit.report.page").joinpath("static", name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """All modules as one."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", static(f"{name}.js"))) for name in MODULES)


def report_html(title: str, content: Json) -> str:
    """A page that holds its data and works from disk.

    Args:
        title: of the window.
        content: what the page shows.
    """
    style, code = static("page.css"), script()
    policy = f"{NOTHING_ELSE}; script-src '{_digest(code)}'; style-src '{_digest(style)}'; img-src data:"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    data = f'<script type="application/json" id="document">{inert_json(content)}</script>'
    return _page(title, head, f'{data}\n<script type="module">{code}</script>')


def served_html(title: str, token: str) -> str:
    """The page that a server sends: style, script and data are fetched from it.

    Args:
        token: to be sent back with whatever makes the server work.
    """
    head = f'<meta name="subcircuit-token" content="{html.escape(token)}">\n<link rel="stylesheet" href="page.css">'
    return _page(title, head, '<script type="module" src="page.js"></script>')


def inert_json(content: Json) -> str:
    """JSON in ASCII that can stand inside a script element: no tag or comment can begin in it, no line end in a string."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(title: str, head: str, tail: str) -> str:
    parts = {"{head}": head, "{title}": html.escape(title), "{tail}": tail}
    return re.sub(r"\{(head|title|tail)\}", lambda match: parts[match[0]], static("page.html"))


def _digest(code: str) -> str:
    return "sha256-" + base64.b64encode(sha256(code.encode()).digest()).decode("ascii")
