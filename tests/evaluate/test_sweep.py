"""Contests between methods against the searches that they run."""

import csv
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from subcircuit.engine import Zero, last_stream
from subcircuit.errors import SettingsError
from subcircuit.evaluate import (
    Contest,
    contend,
    curve,
    faithfulness,
    measure,
)
from subcircuit.report import Sweep, write_sweep
from subcircuit.search import Acdc, CleanCorrupted, Eap, RandomScores
from tests.evaluate.test_evaluation import problems
from tests.problems import random_problem


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_contest_runs_the_model_and_the_empty_circuit_once(monkeypatch: pytest.MonkeyPatch):
    found_on, judged_on = problems()
    methods, runs = [RandomScores(seed=4), RandomScores(seed=5)], list[torch.Tensor]()
    alone = [Contest(found_on, judged_on, batch_size=2).run(method).points for method in methods]
    module = import_module("subcircuit.evaluate.measure")
    monkeypatch.setattr(module, "last_stream", lambda *given: runs.append(given[2]) or last_stream(*given))
    contenders = contend(Contest(found_on, judged_on, batch_size=2), methods)
    assert [one.points for one in contenders] == alone
    for end in (found_on.graph.edges, torch.zeros_like(found_on.graph.edges)):
        assert sum(torch.equal(mask, end) for mask in runs) == len(judged_on.task) // 2


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
    with pytest.raises(SettingsError, match="which only resample ablation uses"):
        Contest(zero, judged_on).check([Eap(), CleanCorrupted()])
    counts = random_problem(found_on.model, found_on.graph, 3, [6, 5], 1, "accuracy", "resample")
    with pytest.raises(SettingsError, match="accuracy is a count"):
        Contest(counts, judged_on).check([Eap()])
    task = judged_on.task
    same = replace(judged_on, task=type(task)(**{**vars(task), "corrupted": task.clean}))
    with pytest.raises(SettingsError, match="faithfulness is undefined"):
        Contest(found_on, same).check([Eap()])
