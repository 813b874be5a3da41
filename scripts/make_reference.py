"""Make docs/reference.md and docs/methods/*.md from docstrings: ``python scripts/make_reference.py``; a test says if they are old."""

import ast
import inspect
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import subcircuit
from subcircuit.search import METHODS

DOCS = Path(__file__).parent.parent / "docs"
_ARGUMENTS = ("Args", "Returns", "Raises")


def pages() -> dict[Path, str]:
    """Every page that is made, by its path."""
    made = {DOCS / "methods" / f"{name}.md": method_page(name) for name in METHODS}
    return {DOCS / "reference.md": reference(), **made}


def reference() -> str:
    """All that the package exports, by the folder it comes from."""
    parts = [
        "# Reference\n\nMade from docstrings by `python scripts/make_reference.py`. Everything is imported from `subcircuit` itself; "
        "[architecture.md](architecture.md) says what the folders are for.\n"
    ]
    for home, names in sorted(homes().items()):
        parts.append(f"## {home}\n")
        parts += [entry(name, getattr(subcircuit, name)) for name in sorted(names, key=str.lower)]
    return "\n".join(parts)


def homes() -> dict[str, list[str]]:
    """The names that the package exports, by the module that each comes from."""
    found: dict[str, list[str]] = {}
    stub = Path(subcircuit.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom):
            found.setdefault(f"subcircuit.{node.module}", []).extend(alias.name for alias in node.names)
    return found


def entry(name: str, value: Any) -> str:
    """One exported name: its signature and its docstring, and those of its public methods."""
    lines = [f"### {name}\n", _call(name, value), text_of(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        for inner, member in sorted(vars(value).items()):
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            told = inspect.getdoc(function) if inspect.isroutine(function) else None
            if not inner.startswith("_") and told:
                lines.append(f"- **`{inner}`**: {' '.join(told.partition(chr(10) * 2)[0].split())}")
    return "\n".join(lines) + "\n"


def _call(name: str, value: Any) -> str:
    """The signature, without types, which the code states."""
    if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
        return ""
    shown = []
    for parameter in inspect.signature(value).parameters.values():
        default = "" if parameter.default is inspect.Parameter.empty else f"={_default(parameter.default)}"
        shown.append({"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "") + parameter.name + default)
    return f"```\n{name}({', '.join(shown)})\n```\n"


def _default(value: Any) -> str:
    return (
        value.__name__ if callable(value) and hasattr(value, "__name__") else re.sub(r"<factory>|<object .*?>", "…", repr(value))
    )


def text_of(docstring: str) -> str:
    """A docstring as Markdown: sections in bold, their entries as lists, equations and examples as they stand."""
    blocks = []
    for block in docstring.split("\n\n"):
        head, _, rest = block.partition("\n")
        if head.rstrip(":") in _ARGUMENTS and head.endswith(":"):
            items = re.split(r"\n(?=\S)", dedent(rest))
            blocks.append(f"**{head.rstrip(':')}**\n\n" + "\n".join(f"- {' '.join(item.split())}" for item in items))
        elif block.startswith((">>>", "    ")):
            blocks.append(f"```\n{dedent(block)}\n```")
        else:
            blocks.append(block.replace("``", "`"))
    return "\n\n".join(blocks) + "\n"


def method_page(name: str) -> str:
    """What a method approximates, what it costs, when to use it, when it fails."""
    method = METHODS[name]
    module = sys.modules[method.__module__]
    cost, use, beware = advice(name)
    parts = [
        f"# {name}\n\n{method.description[0].upper()}{method.description[1:]}.\n",
        text_of(inspect.getdoc(module) or ""),
        "## When\n",
        f"- **cost** in plain forward passes, 8 prompts: {cost}\n- **use it** {use}\n- **beware**: {beware or 'it knows nothing'}\n",
        "## Settings\n",
        settings_table(method),
        f"`subcircuit discover --method {name} --set NAME=VALUE …`; from Python `sc.{method.__name__}(…)`. "
        "[All methods](../methods.md) · [on known circuits](../ground-truth.md)\n",
    ]
    return "\n".join(parts)


def advice(name: str) -> tuple[str, str, str]:
    """The row of docs/methods.md that speaks of a method."""
    rows = (DOCS / "methods.md").read_text(encoding="utf-8").partition("## When to use what")[2].splitlines()
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 4 and f"`{name}`" in re.sub(r"\]\([^)]*\)", "", cells[0]):
            return cells[1], cells[2], cells[3]
    raise LookupError(f"docs/methods.md does not say when to use {name}")


def settings_table(settings: type[Any]) -> str:
    """Settings with defaults and meanings, as the class tells them."""
    assert is_dataclass(settings)
    told = inspect.getdoc(settings) or ""
    arguments = told.partition("Args:\n")[2].partition("\n\n")[0]
    meanings = {}
    for item in re.split(r"\n(?=\S)", dedent(arguments)):
        names, _, meaning = item.partition(":")
        meanings |= {one.strip(): " ".join(meaning.split()).replace("``", "`").replace("|", "\\|") for one in names.split(",")}
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in fields(settings):
        default = "required" if field.default is MISSING else f"`{'none' if field.default is None else field.default}`"
        rows.append(f"| `{field.name}` | {default} | {meanings.get(field.name, '')} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the pages that are old."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
