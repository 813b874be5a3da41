"""Submissions to MIB: what is written is what the benchmark asks for, and what it would turn down is found here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subcircuit.errors import CircuitFileError, GraphError, SettingsError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.report.exchange.mib_submission import PERCENTAGES, check_submission, write_submission
from tests.graph.strategies import record
from tests.report.exchange.mib_reader import read_json, read_pt

GRAPH = Graph(GraphShape(6, 8, 4), Scope())


def scored(task: str, model: str, n_edges: int = 10) -> Circuit:
    scores = torch.randn(GRAPH.edges.shape, generator=torch.Generator().manual_seed(3)).masked_fill(~GRAPH.edges, torch.nan)
    kept = torch.zeros_like(GRAPH.edges)
    where = GRAPH.edges.nonzero()[:n_edges]
    kept[where[:, 0], where[:, 1]] = True
    base = record()
    told = base.model_copy(
        update={
            "model": base.model.model_copy(update={"name": model, "d_model": 16}),
            "task": base.task.model_copy(update={"name": task}),
        }
    )
    return Circuit(GRAPH, kept, scores, told)


def test_scores_become_one_file_a_folder(tmp_path: Path) -> None:
    circuits = [scored("ioi", "openai-community/gpt2"), scored("arc_easy", "meta-llama/Llama-3.1-8B"), scored("sva", "smollm2")]
    entries = write_submission(circuits, tmp_path / "all")
    assert sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.*")) == [
        "arc-easy_llama3/importances.pt",
        "ioi_gpt2/importances.pt",
        "sva_smollm2/importances.pt",
    ]
    assert [(entry.name, bool(entry.warnings)) for entry in entries] == [
        ("arc-easy_llama3", False),
        ("ioi_gpt2", False),
        ("sva_smollm2", True),
    ]
    theirs = read_pt(tmp_path / "all" / "ioi_gpt2" / "importances.pt")
    scores = circuits[0].scores
    assert scores is not None
    assert torch.equal(theirs.scores[GRAPH.edges], scores[GRAPH.edges])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["absolute", "signed"])
def test_nine_circuits_hold_the_best_edges(by: str, tmp_path: Path) -> None:
    circuit = scored("ioi", "gpt2")
    (entry,) = write_submission(
        [circuit], tmp_path / "nine", select=True, by="signed" if by == "signed" else "absolute", suffix=".json"
    )
    assert entry.sizes == tuple(int(GRAPH.n_edges * share / 100) for share in PERCENTAGES)
    assert circuit.scores is not None
    sizes = circuit.scores[GRAPH.edges] if by == "signed" else circuit.scores[GRAPH.edges].abs()
    for share, size in zip(PERCENTAGES, entry.sizes, strict=True):
        kept = read_json(tmp_path / "nine" / "ioi_gpt2" / f"circuit_{share:g}.json").in_graph[GRAPH.edges]
        assert int(kept.sum()) == size
        assert size == 0 or sizes[kept].min() >= sizes[~kept].max()


def test_of_several_circuits_the_largest_that_fits_is_taken(tmp_path: Path) -> None:
    given = [replace(scored("ioi", "gpt2", n), scores=None) for n in (1, 5, 40, 200)]
    (entry,) = write_submission(given, tmp_path / "several")
    allowed = [int(GRAPH.n_edges * share / 100) for share in PERCENTAGES]
    assert entry.sizes == tuple(max(n for n in (1, 5, 40, 200) if n <= most) for most in allowed)
    with pytest.raises(SettingsError, match="none of 2 circuits has at most"):
        write_submission(given[2:], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_submitted_is_refused(tmp_path: Path) -> None:
    whole = scored("ioi", "gpt2")
    with pytest.raises(GraphError, match="edges have no score"):
        write_submission([replace(whole, scores=None)], tmp_path / "a")
    with pytest.raises(SettingsError, match="record"):
        write_submission([replace(whole, record=None)], tmp_path / "a")
    with pytest.raises(SettingsError, match="at least one"):
        write_submission([], tmp_path / "a")
    blocks = Graph(GRAPH.shape, Scope("block"))
    with pytest.raises(GraphError, match="scope"):
        write_submission([Circuit(blocks, blocks.edges, blocks.edges.float(), whole.record)], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_check_finds_what_would_be_turned_down(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(CircuitFileError, match=words):
            check_submission(root)

    root = tmp_path / "root"
    refused("not a folder")
    root.mkdir()
    refused("is empty")
    write_submission([scored("ioi", "gpt2")], root / "x", select=True)
    folder = (root / "x" / "ioi_gpt2").rename(root / "ioi_gpt2")
    (root / "x").rmdir()
    assert len(check_submission(root)[0].sizes) == 9
    (folder / "circuit_50.pt").rename(root / "circuit_50.pt")
    refused("is not a folder")
    (root / "circuit_50.pt").unlink()
    refused("contains 8 files")
    (folder / "circuit_50.pt").write_bytes((folder / "circuit_20.pt").read_bytes())
    (folder / "circuit_0.1.pt").write_bytes((folder / "circuit_0.2.pt").read_bytes())
    refused("more than 0.1 %")
    (folder / "notes.txt").touch()
    refused("only .json and .pt files")
    (folder / "notes.txt").unlink()
    (folder / "circuit_1.pt").write_bytes(b"nothing")
    refused("circuit_1.pt")
