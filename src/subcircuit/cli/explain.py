"""``subcircuit explain``: the role of each node of a circuit, in the order of computation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, ModelNow, RevisionNow
from subcircuit.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from rich.text import Text

    from subcircuit.explain import Component, Explanation, Route

TOP = 20
_ROUTES, _TOKENS, _LONGEST = 4, 4, 12


def explain(
    path: CircuitDir,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory for the explanation and the figure. Default: the circuit's directory."),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of nodes to explain, largest effect first; 0 for all.")] = TOP,
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Number of pairs of prompts. Default: as many as in the search.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for new prompts. Default: the run's test prompts.")] = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Explain the role of each node of a circuit, with the evidence."""
    from subcircuit.cli.console import messages, print_json
    from subcircuit.cli.problem import Overrides, to_look_at
    from subcircuit.cli.progress import watch
    from subcircuit.explain import explain_circuit
    from subcircuit.graph import Circuit

    if top < 0:
        raise SettingsError(f"--top {top}: expected a number of nodes, or 0 for all")
    circuit, directory = Circuit.load(path), _directory(path, out)
    with watch(messages()) as watcher:
        given = Overrides(model, revision, device, dtype, task, examples, seed)
        problem = to_look_at(path, circuit, given, watcher.say)
        if problem.task.roles is None:
            watcher.say("warning: these prompts declare no token roles, so only START and END have names (see docs/explain.md)")
        watcher.say(f"explaining {len(circuit.nodes)} nodes on {len(problem.task)} pairs of prompts")
        explanation = explain_circuit(problem.model, circuit, problem.task, on_step=watcher.step)
    written = _write(explanation, directory)
    if json:
        print_json(explanation.model_dump(mode="json"))
    else:
        _tell(explanation, top, written)


def _directory(path: Path, out: Path | None) -> Path:
    """The output directory, checked before any work."""
    directory = path if out is None else out
    if not directory.is_dir() and (out is None or directory.exists()):
        raise OutputError(f"{directory} is not a directory: choose one for the explanation and the figure with --out")
    return directory


def _write(explanation: "Explanation", directory: Path) -> list[Path]:
    from subcircuit.report import draw_attention
    from subcircuit.report.style import save_figure

    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [explanation.save(directory)]
        if any(component.head for component in explanation.components.values()):
            written += save_figure(draw_attention(explanation), directory, "attention")
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror or error}") from None
    return written


def _tell(explanation: "Explanation", top: int, written: Sequence[Path]) -> None:
    from subcircuit.cli.console import plain, print_rows, results
    from subcircuit.explain import largest

    console, told = results(), largest(explanation, top)
    console.print(
        plain(
            f"{explanation.model} on {explanation.examples} pairs of {explanation.task}: logit difference "
            f"{explanation.logit_difference:+z.2f}. Effects are in logits, of corrupting a node; shares, of all that the circuit "
            "lets into a node."
        ),
        style="dim",
    )
    left = len(explanation.components) - len(told)
    if left:
        console.print(plain(f"{left} nodes with smaller effects are not told of; --top 0 tells of all."), style="dim")
    console.print()
    rows: list[tuple[str | Text, ...]] = []
    for name in told:
        component = explanation.components[name]
        rows += [(name, _heading(component)), *(("", f"{title:<7} {text}") for title, text in _rows(component)), ("", "")]
    print_rows(rows, console)
    for file in written:
        # a path that is folded can be neither clicked nor copied
        console.print(plain(f"wrote   {file}"), soft_wrap=True)


def _heading(component: "Component") -> "Text":
    from subcircuit.cli.console import plain

    text = plain(component.label, "bold" if component.label != "unclear" else "dim")
    if component.effect is not None and component.direct is not None:
        text.append(f"   effect {component.effect:+z.2f}, direct {component.direct:+z.2f}, at {component.acts_at}", "dim")
    return text


def _rows(component: "Component") -> list[tuple[str, str]]:
    rows = [("", component.evidence)]
    if component.reads:
        rows.append(("reads", _routes(component.reads)))
    if component.writes and component.writes.up:
        rows.append(("writes", f"+ {_words(component.writes.up)}   − {_words(component.writes.down)}"))
    rows += [
        ("neuron", f"{one.neuron} ({one.effect:+z.2f}) fires on {_words(one.fires_on)}, writes {_words(one.writes.up)}")
        for one in component.neurons[:1]
    ]
    if component.feeds:
        rows.append(("feeds", _routes(component.feeds)))
    return rows


def _routes(routes: "Sequence[Route]") -> str:
    shown = [
        f"{route.node}{f'<{route.composition.lower()}>' if route.composition in 'QKV' else ''} {route.share:z.0%}"
        for route in routes[:_ROUTES]
    ]
    return ", ".join(shown) + (f", … {len(routes) - _ROUTES} more" if len(routes) > _ROUTES else "")


def _words(words: Sequence[str]) -> str:
    return " ".join(repr(word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…") for word in words[:_TOKENS])
