"""``--workers`` and ``--ray``: the processes that share a command's work."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from subcircuit.runs.pool import Pool

PANEL = "Several processes; the result does not depend on them"

Workers: TypeAlias = Annotated[
    int, typer.Option(help="Number of worker processes; each has a copy of the model.", rich_help_panel=PANEL)
]
Ray: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster for the workers: host:port, auto, or local to start one here.",
        rich_help_panel=PANEL,
    ),
]


def pool_of(workers: int, ray: str | None, say: Callable[[str], None]) -> "Pool":
    """The pool of ``--workers`` and ``--ray``.

    Args:
        say: warned of threads that get in each other's way.

    Raises:
        SettingsError: there is no such pool.
    """
    import torch

    from subcircuit.runs.pool import Pool

    pool, threads, cores = Pool(workers, ray), torch.get_num_threads(), os.cpu_count() or 1
    if ray is None and workers > 1 and cores < workers * threads:
        say(
            f"warning: {workers} workers with {threads} threads each share {cores} cores and slow each other down: "
            f"set OMP_NUM_THREADS={max(1, cores // workers)}"
        )
    return pool
