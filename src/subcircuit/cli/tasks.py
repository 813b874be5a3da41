"""``subcircuit tasks``: the list of built-in tasks; ``subcircuit tasks show``: a task's prompts and a model's performance on them."""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, no_type_check

import typer
from rich.text import Text

from subcircuit.cli.arguments import Bos, Device, Dtype, ModelName, Revision
from subcircuit.cli.commands import Command, Group
from subcircuit.cli.console import messages, plain, print_json, print_rows, print_table, results
from subcircuit.text import inert

if TYPE_CHECKING:
    from subcircuit.model import Transformer
    from subcircuit.tasks import Competence, Task

PAIRS, PLACES, OPTIONS = 3, 3, 6  # how much is shown: pairs, places of a pair where answers are read, tokens of an answer
_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥"})

app = typer.Typer(name="tasks", cls=Group, invoke_without_command=True, add_completion=False)


@app.callback()
@no_type_check  # Typer passes a context that is not of the class by which it asks us to name it
def tasks(context: typer.Context) -> None:
    """List the built-in tasks. `subcircuit tasks show` runs one on a model."""
    if context.invoked_subcommand is not None:
        return
    from subcircuit.tasks import tasks as listed

    console = results()
    print_rows([(entry.name, entry.description) for entry in listed()], console)
    console.print()
    console.print(plain("Or a .jsonl file with one object per line: clean, corrupt, answers, wrong_answers."))


@app.command("show", cls=Command)
def show(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task: built-in name, or a .jsonl file of prompts.")],
    model: ModelName,
    examples: Annotated[int | None, typer.Option(help="Number of pairs to measure. Default: 8, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed for prompts.")] = 0,
    bos: Bos = "auto",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all pairs.")] = False,
) -> None:
    """Show pairs of a task as the model's tokens, and the model's performance on the task."""
    from subcircuit.cli.progress import watch
    from subcircuit.model import load_model
    from subcircuit.tasks import bos_policy, check_task, competence, load_task

    policy = bos_policy(bos)
    check_task(task)
    with watch(messages()) as watcher:
        watcher.say(f"loading {model}")
        transformer = load_model(model, revision=revision, device=device, dtype=dtype, report=watcher.say)
        prompts = load_task(task, transformer, examples=examples, seed=seed, bos=policy)
        watcher.say(f"measuring {len(prompts)} pairs of prompts")
        measured = competence(transformer, prompts)
    if json:
        print_json(_as_json(transformer, prompts, measured))
    else:
        _print(transformer, prompts, measured)


def _print(model: "Transformer", task: "Task", measured: Sequence["Competence"]) -> None:
    from subcircuit.tasks import shortfall

    console = results()
    for index, rows in enumerate(_pairs(model, task[:PAIRS])):
        console.print(plain(f"pair {index + 1}", "bold"))
        print_rows([(plain(f"  {name}", "dim"), content) for name, content in rows], console)
        console.print()
    console.print(plain(f"{model.name}, mean of {len(task)} pairs", "dim"))
    means = [(one.metric.name.replace("_", " "), *(f"{mean:z.3f}" for mean in one.means)) for one in measured]
    print_table(("metric", "clean", "corrupted"), means, console)
    console.print()
    lacking = shortfall(model, task, measured)
    if lacking is not None:
        console.print(plain(lacking, "bold red"))
        console.print()
    console.print(plain("A bar ends a token; · is a space, ↵ a line break. Right and wrong are the clean prompt's."), style="dim")


def _pairs(model: "Transformer", task: "Task") -> list[list[tuple[str, Text]]]:
    """For each pair, the names and contents of its rows."""
    shown = []
    for clean, corrupted, places in zip(task.clean.to_lists(), task.corrupted.to_lists(), _places(task), strict=True):
        rows = [("clean", _tokens(model, clean, corrupted)), ("corrupted", _tokens(model, corrupted, clean))]
        for pos, right, wrong in places[:PLACES]:
            # the last token is the usual position
            where = "" if pos == len(clean) - 1 else f" at {pos}"
            rows.append((f"right{where}", _options(model, right, "green")))
            rows += [(f"wrong{where}", _options(model, wrong, "red"))] if wrong else []
        if len(places) > PLACES:
            rows.append(("", plain(f"… {len(places) - PLACES} more places", "dim")))
        shown.append(rows)
    return shown


def _places(task: "Task") -> list[list[tuple[int, list[int], list[int]]]]:
    """For each pair, the answer positions with their right and wrong tokens."""
    answers, places = task.answers, [[] for _ in range(len(task))]
    for example, pos, right, is_right, wrong, is_wrong in zip(
        answers.example.tolist(),
        answers.pos.tolist(),
        answers.correct,
        answers.correct_mask,
        answers.wrong,
        answers.wrong_mask,
        strict=True,
    ):
        places[example].append((pos, right[is_right].tolist(), wrong[is_wrong].tolist()))
    return places


def _tokens(model: "Transformer", ids: Sequence[int], other: Sequence[int]) -> Text:
    """A prompt with a bar after each token; tokens that differ from the other prompt are highlighted."""
    text = Text()
    for token, counterpart in zip(ids, other, strict=True):
        text.append(_visible(model, token), "" if token == counterpart else "bold yellow")
        text.append("│ ", "dim")
    return text


def _options(model: "Transformer", ids: Sequence[int], style: str) -> Text:
    text = Text()
    for token in ids[:OPTIONS]:
        text.append(_visible(model, token), style)
        text.append("│ ", "dim")
    if len(ids) > OPTIONS:
        text.append(f"… {len(ids) - OPTIONS} more", "dim")
    return text


def _visible(model: "Transformer", token: int) -> str:
    return inert(_text(model, token).translate(_VISIBLE))


def _text(model: "Transformer", token: int) -> str:
    return str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))


def _as_json(model: "Transformer", task: "Task", measured: Sequence["Competence"]) -> dict[str, Any]:
    from subcircuit.tasks import shortfall

    def texts(ids: Sequence[int]) -> list[str]:
        return [_text(model, token) for token in ids]

    pairs = zip(task.clean.to_lists(), task.corrupted.to_lists(), _places(task), strict=True)
    return {
        "task": task.name,
        "model": model.name,
        "parameters": dict(task.parameters),
        "digest": task.digest,
        "metric": task.metric,
        "examples": len(task),
        "does_the_task": shortfall(model, task, measured) is None,
        "measured": {
            one.metric.name: dict(zip(("clean", "corrupted"), map(_number, one.means), strict=True)) for one in measured
        },
        "pairs": [
            {
                "clean": texts(clean),
                "corrupted": texts(corrupted),
                "answers": [{"pos": pos, "right": texts(right), "wrong": texts(wrong)} for pos, right, wrong in places],
                "measured": {
                    one.metric.name: {"clean": _number(float(one.clean[i])), "corrupted": _number(float(one.corrupted[i]))}
                    for one in measured
                },
            }
            for i, (clean, corrupted, places) in enumerate(pairs)
        ],
    }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if isfinite(value) else None
