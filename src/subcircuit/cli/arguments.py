"""What many commands are asked in the same words: where the model is, what it runs on, how results are told."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ModelName: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="Built-in name, Hugging Face id, directory or .gguf file.")
]
TaskName: TypeAlias = Annotated[str, typer.Option("--task", "-t", help="Built-in name, or a .jsonl file of prompts.")]
Metric: TypeAlias = Annotated[str | None, typer.Option(help="See `subcircuit metrics`. Default: the task's own.")]
Bos: TypeAlias = Annotated[str, typer.Option(help="Beginning-of-sequence token: auto (as the tokenizer does), always, never.")]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, …; cuda:0=20,cpu keeps 20 layers there and the others elsewhere. Default: cuda where there is one."
    ),
]
Dtype: TypeAlias = Annotated[str | None, typer.Option(help="float32, float64, bfloat16, float16, auto. Default: float32.")]
Revision: TypeAlias = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]
Drawn: TypeAlias = Annotated[int, typer.Option(help="Of the prompts, and of methods that draw.")]
Ablation: TypeAlias = Annotated[str, typer.Option(help="What cut edges carry: resample, zero, mean, mean-by-position, optimal.")]
Split: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SEARCH/VALIDATION/TEST",
        help="Shares of prompts in percent, none in two parts; 100/0/0 searches with all. Default: 50/20/30 of a file; 16 "
        "validation and 64 test prompts of a built-in task.",
    ),
]
ScopeText: TypeAlias = Annotated[
    str, typer.Option(help='What counts as a node: block, head, qkv, expert, or mixed: "qkv, m5=neuron, a9=block".')
]

# of a circuit that was found: what is not given is as its record says
CircuitDir: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` wrote, or a circuit file.")
]
ModelNow: TypeAlias = Annotated[str | None, typer.Option("--model", "-m", help="Where the model is now. Default: as recorded.")]
DtypeNow: TypeAlias = Annotated[str | None, typer.Option(help="Default: as recorded.")]
RevisionNow: TypeAlias = Annotated[str | None, typer.Option(help="Of a model on the hub. Default: as recorded.")]

JsonSummary: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")]
JsonTable: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")]
JsonTables: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")]
