"""Arguments and options that several commands share: model, device, prompts, scope, output."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ModelName: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="Model: built-in name, Hugging Face id, directory or .gguf file.")
]
TaskName: TypeAlias = Annotated[str, typer.Option("--task", "-t", help="Task: built-in name, or a .jsonl file of prompts.")]
Metric: TypeAlias = Annotated[
    str | None, typer.Option(help="Metric that the circuit must preserve (see `subcircuit metrics`). Default: the task's own.")
]
Bos: TypeAlias = Annotated[str, typer.Option(help="Beginning-of-sequence token: auto (as the tokenizer does), always or never.")]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Device: cpu, cuda, …; cuda:0=20,cpu stores 20 layers on the first and the others on the second. Default: cuda if "
        "there is one, else cpu."
    ),
]
Dtype: TypeAlias = Annotated[
    str | None, typer.Option(help="Number format: float32, float64, bfloat16, float16 or auto. Default: float32.")
]
Revision: TypeAlias = Annotated[str | None, typer.Option(help="Revision of a model on the hub: branch, tag or commit.")]
Drawn: TypeAlias = Annotated[int, typer.Option(help="Random seed for prompts and for stochastic methods.")]
Ablation: TypeAlias = Annotated[str, typer.Option(help="Values of cut edges: resample, zero, mean, mean-by-position or optimal.")]
Split: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SEARCH/VALIDATION/TEST",
        help="Shares of the prompts in percent; 100/0/0 searches on all. Default: 50/20/30 for a file; 16 validation and 64 "
        "test prompts for a built-in task.",
    ),
]
ScopeText: TypeAlias = Annotated[
    str, typer.Option(help='Level of the nodes: block, head, qkv or expert, with exceptions such as "qkv, m5=neuron, a9=block".')
]

# options for a circuit on disk: an option that is not given keeps the recorded value
CircuitDir: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="Circuit: a directory that `subcircuit discover` wrote, or a circuit file.")
]
ModelNow: TypeAlias = Annotated[
    str | None, typer.Option("--model", "-m", help="Model: name, directory or file. Default: as recorded.")
]
DtypeNow: TypeAlias = Annotated[str | None, typer.Option(help="Number format of the model. Default: as recorded.")]
RevisionNow: TypeAlias = Annotated[str | None, typer.Option(help="Revision of a model on the hub. Default: as recorded.")]

JsonSummary: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")]
JsonTable: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")]
JsonTables: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")]
