"""Judgements against their parts, agreements against plain sets, contests against the searches they run."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from subcircuit.engine import Zero
from subcircuit.engine.memory import peak_memory
from subcircuit.errors import GraphError, SettingsError
from subcircuit.evaluate import (
    Contest,
    agreements,
    completeness,
    curve,
    discover,
    evaluate_circuit,
    faithfulness,
    judge,
    measure,
    models_that_differ,
    random_connected_circuit,
)
from subcircuit.graph import Circuit, Graph, Scope, TopN
from subcircuit.report import Sweep, write_sweep
from subcircuit.search import Acdc, CleanCorrupted, Eap, RandomScores
from tests.problems import random_problem, random_task
from tests.tiny_models import tiny


def problems(seed: int = 3):
    """Two problems of one model; faithfulness by divergence is defined for any prompts."""
    model = tiny("llama_gqa", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    found_on = random_problem(model, graph, seed, [6, 5, 7], 1, "logit_difference", "resample")
    return found_on, random_problem(model, graph, seed + 1, [6, 5, 7, 6], 1, "kl_divergence", "resample")


def test_a_judgement_is_its_parts():
    found_on, judged_on = problems()
    circuit = Eap().search(found_on).select(TopN(30, "signed")).prune()
    judged = judge(judged_on, circuit, random_circuits=3, seed=5)
    expected = evaluate_circuit(judged_on, circuit)
    assert judged.evaluation.means == pytest.approx(expected.means)
    assert judged.completeness == pytest.approx(completeness(judged_on, circuit))
    others = [random_connected_circuit(circuit.graph, circuit.n_edges, 5 + i) for i in range(3)]
    values = faithfulness(measure(judged_on, others)).tolist()
    assert judged.random == pytest.approx(values)
    assert judged.random_mean == pytest.approx(np.mean(values))
    assert min(values) <= judged.random_interval.low <= judged.random_interval.high <= max(values)
    assert circuit.scores is not None
    assert judged.curve == curve(judged_on, circuit.scores)
    with pytest.raises(SettingsError, match="random circuits is 0"):
        judge(judged_on, circuit, random_circuits=0)


def test_a_search_that_leaves_edges_untried_has_no_curve():
    found_on, judged_on = problems()
    circuit = Acdc(threshold=0.01).search(found_on).circuit
    assert judge(judged_on, circuit, random_circuits=1).curve is None


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.booleans())
def test_agreements_are_those_of_sets_and_of_scipy(seed, gaps):
    graph = Graph.of(tiny("attention_only").config)
    generator = torch.Generator().manual_seed(seed)
    circuits = []
    for _ in range(3):
        kept = graph.edges & (torch.rand(graph.edges.shape, generator=generator) < 0.3)
        scores = torch.randn(graph.edges.shape, generator=generator).round(decimals=1)
        untried = torch.rand(graph.edges.shape, generator=generator) < (0.5 if gaps else 0.0)
        circuits.append(Circuit(graph, kept, scores.masked_fill(untried | ~graph.edges, torch.nan)))
    pairs = agreements(circuits)
    assert [(p.left, p.right) for p in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        left, right = circuits[pair.left], circuits[pair.right]
        a, b = set(left.names), set(right.names)
        assert (pair.shared, pair.only_left, pair.only_right) == (len(a & b), len(a - b), len(b - a))
        assert pair.jaccard == pytest.approx(len(a & b) / len(a | b))
        assert left.scores is not None
        assert right.scores is not None
        both = [(x, y) for x, y in zip(left.scores.flatten().tolist(), right.scores.flatten().tolist(), strict=True)]
        both = [(x, y) for x, y in both if x == x and y == y]
        assert pair.scored == len(both)
        assert pair.rank_correlation == pytest.approx(spearmanr(*zip(*both, strict=True)).statistic)  # pyright: ignore


def test_what_cannot_be_compared_is_refused_or_left_open():
    graph, other = (Graph.of(tiny(name).config) for name in ("attention_only", "gpt2"))
    with pytest.raises(GraphError, match="different graphs"):
        agreements([Circuit.full(graph), Circuit.full(other)])
    with pytest.raises(SettingsError, match="takes two"):
        agreements([Circuit.full(graph)])
    (pair,) = agreements([Circuit.full(graph), Circuit.empty(graph)])
    assert (pair.jaccard, pair.scored, pair.rank_correlation) == (0.0, 0, None)


def test_circuits_of_different_models_are_told_apart():
    """By weights in one dtype, else by revision, else by name; of a circuit without a record nothing is said."""
    graph = Graph.of(tiny("gpt2").config)
    circuit = discover(tiny("gpt2"), random_task(tiny("gpt2"), 1, [6, 5]), Eap(), metric="logit_difference").circuit
    assert circuit.record is not None and circuit.record.model.weights is not None
    own = circuit.record.model.model_copy(update={"revision": "sha256:" + "0" * 64})

    def of(**other: object) -> Circuit:
        assert circuit.record is not None
        return replace(circuit, record=circuit.record.model_copy(update={"model": own.model_copy(update=other)}))

    assert models_that_differ([of(), Circuit.full(graph), of(name="elsewhere"), of(dtype="bfloat16", weights="b")]) == ()
    for other in (
        {"weights": "b"},
        {"dtype": "bfloat16", "revision": "sha256:1"},
        {"weights": None, "revision": None, "name": "n"},
    ):
        (warning,) = models_that_differ([Circuit.full(graph), of(), of(**other)])
        assert warning.startswith("circuit 3 was found in ") and "circuit 2 in " in warning


def test_a_contest_judges_what_the_searches_find(tmp_path: Path):
    found_on, judged_on = problems()
    contest = Contest(found_on, judged_on, by="absolute", thresholds=(0.2, 0.001))
    methods = [Eap(), RandomScores(seed=4), Acdc()]
    contest.check(methods)
    contenders = [contest.run(settings) for settings in methods]
    assert [c.method for c in contenders] == ["eap", "random", "acdc"]
    expected = curve(judged_on, Eap().search(found_on).scores, "absolute")
    assert contenders[0].curve == expected
    assert contenders[0].kl_at(1.0) == expected.points[3].kl
    circuits = [Acdc(threshold=threshold).search(found_on).circuit for threshold in (0.2, 0.001)]
    values = faithfulness(measure(judged_on, circuits)).tolist()
    assert [point.faithfulness for point in contenders[2].points] == pytest.approx(values)
    assert [point.edges for point in contenders[2].points] == [circuit.n_edges for circuit in circuits]
    assert contenders[2].curve is None
    assert contenders[2].kl_at(1.0) is None
    written(Sweep.of(contest, contenders, methods), tmp_path / "sweep")


def written(sweep: Sweep, directory: Path) -> None:
    write_sweep(sweep, directory)
    content = json.loads((directory / "sweep.json").read_text())
    with (directory / "points.csv").open() as file:
        points = list(csv.DictReader(file))
    assert [m["method"] for m in content["methods"]] == ["eap", "random", "acdc"]
    told = [(m["method"], p["faithfulness"]) for m in content["methods"] for p in m["points"]]
    assert [(p["method"], float(p["faithfulness"])) for p in points] == told
    assert content["found_on"]["digest"] != content["judged_on"]["digest"]
    assert sweep.rows[-1][0] == "acdc"
    svg = (directory / "sweep.svg").read_text()
    assert all(f">{name}<" in svg for name in ("eap", "random", "acdc", "faithfulness", "seconds"))
    assert (directory / "sweep.png").stat().st_size > 10_000


def test_a_contest_refuses_before_it_runs():
    found_on, judged_on = problems()
    zero = replace(found_on, ablation=Zero())
    with pytest.raises(SettingsError, match="only the ablation resample"):
        Contest(zero, judged_on).check([Eap(), CleanCorrupted()])
    counts = random_problem(found_on.model, found_on.graph, 3, [6, 5], 1, "accuracy", "resample")
    with pytest.raises(SettingsError, match="accuracy is a count"):
        Contest(counts, judged_on).check([Eap()])
    task = judged_on.task
    same = replace(judged_on, task=type(task)(**{**vars(task), "corrupted": task.clean}))
    with pytest.raises(SettingsError, match="faithfulness is undefined"):
        Contest(found_on, same).check([Eap()])


def test_peak_memory_sees_what_was_taken():
    with peak_memory(torch.device("cpu")) as small:
        torch.ones(10)
    with peak_memory(torch.device("cpu")) as large:
        torch.ones(200_000_000)
    if small.size is None or large.size is None:
        pytest.skip("this system does not tell")
    assert 0.7e9 < large.size - small.size < 1.2e9
