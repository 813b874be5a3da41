"""A search is looked at while it runs: how far it is, its circuit so far, and its result when it is done."""

import json
from pathlib import Path

import pytest

from subcircuit.cli.circuits import shown_circuits
from subcircuit.cli.progress import in_words
from subcircuit.evaluate import discover
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.report.page import Ranking, circuit_document
from subcircuit.runs import ProgressFile, read_progress
from subcircuit.runs.lock import locked
from subcircuit.search import Acdc, Progress
from subcircuit.viewer.run_folders import now_at, progress_of, version_of
from tests.problems import random_task
from tests.tiny_models import tiny


@pytest.mark.slow
def test_a_search_is_seen_as_it_goes_and_its_result_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.runs.progress.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("subcircuit.runs.progress._SHARE", 0)
    model = tiny("gpt2")
    task, scope = random_task(model, 3, [6, 5]), Scope("block")
    progress_file = ProgressFile(tmp_path, Circuit.empty(Graph.of(model.config, scope)), in_words())
    seen: list[Circuit] = []
    versions = [version_of([tmp_path])]

    def on_step(step: Progress) -> None:
        progress_file.step(step)
        shown = shown_circuits([tmp_path])[0]
        assert shown.name == tmp_path.name
        told = progress_of([tmp_path])
        assert told["running"]
        assert told["share"] == step.share
        assert f"edges kept {step.numbers['edges kept']:,}" in told["words"]
        assert step.circuit is not None
        assert shown.circuit == step.circuit()
        assert not circuit_document(shown, Ranking.of(shown.circuit))["finished"]
        seen.append(shown.circuit)
        versions.append(told["version"])

    with locked(tmp_path):
        assert progress_of([tmp_path])["words"] == "searching"
        assert shown_circuits([tmp_path])[0].circuit.n_edges == 0
        found = discover(model, task, Acdc(0.01), metric="logit_difference", scope=scope, on_step=on_step)
    assert len({circuit.n_edges for circuit in seen}) > 2
    last, record = seen[-1].record, found.circuit.record
    assert last is not None
    assert record is not None
    assert (last.model, last.task, last.method, last.results) == (record.model, record.task, record.method, {})
    assert seen[-1].kept.equal(found.circuit.kept)
    assert len(set(versions)) == len(versions)
    # nobody is at work on it any more, and it is not done
    words = progress_of([tmp_path])["words"]
    assert words.startswith("stopped: ")
    assert not words.endswith("left")
    found.circuit.save(tmp_path)
    progress_file.end()
    assert now_at(tmp_path) == tmp_path
    (shown,) = shown_circuits([tmp_path])
    assert shown.circuit == found.circuit
    assert circuit_document(shown, Ranking.of(shown.circuit))["finished"]
    assert progress_of([tmp_path]) == {"version": version_of([tmp_path]), "running": False, "words": ""}


@pytest.mark.parametrize("change", [{"circuit": "../../elsewhere"}, {"share": "many"}, {"words": None, "circuit": 3}])
def test_what_is_no_view_of_a_search_is_left_alone(tmp_path: Path, change: dict[str, object]) -> None:
    ProgressFile(tmp_path, Circuit.empty(Graph.of(tiny("gpt2").config)), in_words())
    file = tmp_path / ".live" / "now.json"
    good = json.loads(file.read_text())
    assert read_progress(tmp_path) is not None
    file.write_text(json.dumps(good | change))
    assert read_progress(tmp_path) is None
    file.write_text("{" * 100_000)
    assert read_progress(tmp_path) is None
