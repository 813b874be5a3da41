"""Validation: scikit-learn and sets of names are the oracles; on planted models exact searches find what was planted."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from subcircuit.engine import Ablation, Mean, Resample, Zero
from subcircuit.errors import NoGradientError, SettingsError
from subcircuit.evaluate import (
    Conditions,
    Refusal,
    Validation,
    needed,
    overlap,
    recovery,
    recovery_of_circuits,
    validate,
    validate_all,
)
from subcircuit.graph import Circuit, HeadInput
from subcircuit.report import Validations
from subcircuit.report.validation_figure import draw_table
from subcircuit.search import (
    Acdc,
    CleanCorrupted,
    Eap,
    EapIgInputs,
    Exact,
    Method,
    Problem,
    RandomScores,
    Result,
    scored,
)
from subcircuit.tasks import metric
from subcircuit.truth import PLANTED, Case, case, planted_case

ABLATIONS = pytest.mark.parametrize("ablation", [Zero(), Resample()], ids=["zero", "resample"])
PLAIN = sorted(name for name, planted in PLANTED.items() if not planted.redundant)


def problem_of(made: Case, name: str | None = None) -> Problem:
    return Problem(made.model, made.graph, made.task, metric(name or made.task.metric), made.ablation)


@pytest.mark.slow
@ABLATIONS
@pytest.mark.parametrize("name", [*PLAIN, "tracr-reverse"])
def test_exact_searches_find_circuits_without_stand_ins(name: str, ablation: Ablation) -> None:
    made = case(name, ablation)
    for settings in (Acdc(), Exact()):
        found = validate(made, settings, Conditions(thresholds=(1e-6, 100.0)))
        areas = (found.edges.roc.auc, found.edges.roc.auc_pessimistic, found.edges.average_precision)
        assert areas == pytest.approx((1, 1, 1)), settings
        _, best = found.edges.best
        assert (best.precision, best.recall, best.f1, best.mistakes) == (1, 1, 1, 0)
        assert best.found == found.true_edges == found.edges.positives == made.circuit.n_edges
        for part in (found.inputs, found.nodes):
            assert part is None or part.roc.auc == pytest.approx(1)


@pytest.mark.slow
def test_chance_finds_half() -> None:
    made = planted_case("inhibition", Zero())
    areas = [validate(made, RandomScores(seed)).edges.roc.auc for seed in range(30)]
    assert sum(areas) / len(areas) == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@ABLATIONS
def test_scores_are_judged_as_scikit_learn_judges_them(ablation: Ablation) -> None:
    made = planted_case("negative", ablation)
    found = validate(made, Exact(), Conditions(metric("logit_difference")))
    scores = Exact().search(problem_of(made, "logit_difference"))
    true, edges = set(made.circuit.names), Circuit.full(made.graph).edges
    truth, values = [str(edge) in true for edge in edges], [abs(scores[edge]) for edge in edges]
    assert found.edges.roc.auc == pytest.approx(roc_auc_score(truth, values))
    assert found.edges.average_precision == pytest.approx(average_precision_score(truth, values))
    # a head's input counts once more, with the largest score that leads into it
    for reader in (reader for reader in made.graph.readers if isinstance(reader, HeadInput)):
        into = [edge for edge in edges if edge.reader == reader]
        truth.append(any(str(edge) in true for edge in into))
        values.append(max(abs(scores[edge]) for edge in into))
    assert found.inputs is not None
    assert found.inputs.roc.auc == pytest.approx(roc_auc_score(truth, values))
    assert found.inputs.positives == sum(truth)


def test_the_best_circuit_is_that_of_the_highest_f1() -> None:
    made = planted_case("induction", Resample())
    scores = RandomScores(3).search(problem_of(made))
    found = recovery(made.circuit, scores.scores)
    f1 = {}
    for threshold in scores.scores[made.graph.edges].tolist():
        circuit = Circuit(made.graph, made.graph.edges & (scores.scores >= threshold))
        right = len(set(circuit.names) & set(made.circuit.names))
        f1[threshold] = 2 * right / (circuit.n_edges + made.circuit.n_edges)
    threshold, best = found.best
    assert best.f1 == pytest.approx(max(f1.values())) == f1[threshold]
    assert best.mistakes == best.found - best.right + made.circuit.n_edges - best.right


@pytest.mark.slow
def test_a_sweep_of_thresholds_is_judged_circuit_by_circuit() -> None:
    made, thresholds = planted_case("inhibition", Zero()), (0.7, 1e-6, 0.3)
    found = validate(made, Acdc(threshold=9.0), Conditions(thresholds=thresholds))
    circuits = [Acdc(threshold).search(problem_of(made)).circuit for threshold in thresholds]
    assert found.edges.thresholds == thresholds
    assert found.edges.overlaps == tuple(overlap(made.circuit, circuit) for circuit in circuits)
    assert len({circuit.n_edges for circuit in circuits}) > 1
    # by ascending recall, and what is found of the rest when everything is taken
    points = sorted((one.recall, one.precision) for one in found.edges.overlaps)
    points.append((1.0, made.circuit.n_edges / made.graph.n_edges))
    area, before = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - before) * max(precision for at, precision in points if at == recall)
        before = recall
    assert found.edges.average_precision == pytest.approx(area)


@pytest.mark.slow
@ABLATIONS
def test_what_stands_in_for_something_counts_neither_way(ablation: Ablation) -> None:
    made = planted_case("or-gate", ablation)
    must = needed(made)
    assert must.names == ["m0->logits"]
    found = Acdc(1e-6).search(problem_of(made)).circuit
    # one of the two heads does for the search, and is not asked for
    assert must.n_edges < found.n_edges < made.circuit.n_edges
    assert overlap(made.circuit, found).recall < 1
    assert overlap(must, found, accepted=made.circuit).recall == 1
    for settings in (Acdc(), Exact()):
        judged = validate(made, settings, Conditions(thresholds=(1e-6,)))
        assert judged.redundant
        assert judged.true_edges == made.circuit.n_edges
        assert (judged.edges.positives, judged.edges.negatives) == (1, made.graph.n_edges - made.circuit.n_edges)
        assert judged.edges.roc.auc == 1


def test_parts_that_are_accepted_are_left_out_of_scores_too() -> None:
    made = planted_case("or-gate", Zero())
    must, scores = needed(made), torch.rand(made.graph.edges.shape, generator=torch.Generator().manual_seed(1))
    left_out = set(made.circuit.names) - set(must.names)
    edges = [edge for edge in Circuit.full(made.graph).edges if str(edge) not in left_out]
    truth, values = [str(e) in must.names for e in edges], [float(scores[made.graph.find(e)]) for e in edges]
    assert recovery(must, scores, accepted=made.circuit).roc.auc == pytest.approx(roc_auc_score(truth, values))
    sweep = [(t, Circuit(made.graph, made.graph.edges & (scores >= t))) for t in (0.2, 0.5, 0.8)]
    for (_, circuit), one in zip(sweep, recovery_of_circuits(must, sweep, accepted=made.circuit).overlaps, strict=True):
        assert one.found == len(set(circuit.names) - left_out)
        assert one.right == len(set(circuit.names) & set(must.names))


@dataclass(frozen=True)
class Alike(Method):
    """A ranking that tells nothing apart."""

    name = "alike"

    def search(self, problem: Problem, progress: object = None, journal: object = None) -> Result:
        return scored(problem, lambda: torch.ones(problem.graph.edges.shape))


def test_scores_that_are_all_alike_are_told() -> None:
    made = planted_case("and-gate", Zero())
    assert not validate(made, RandomScores()).note
    blind = validate(made, Alike())
    assert blind.note == "all edges score alike"
    assert blind.edges.roc.auc == 0.5


def test_a_method_without_a_gradient_is_no_result() -> None:
    made = planted_case("and-gate", Zero())
    with pytest.raises(NoGradientError, match="squared_error is a distance"):
        validate(made, Eap())
    attempts = list(validate_all({"and-gate": lambda ablation: made}, [Zero()], [Eap(), EapIgInputs()]))
    assert [getattr(one, "no_gradient", None) for one in attempts] == [True, None]
    table = Validations(tuple(attempts))
    assert table.rows[0] == ("eap", "no gradient", *["–"] * 6)
    assert table.rows[1][1] == "1.000"
    assert table.summary[0] == ("eap", "no gradient", "no gradient", "0 of 1", "0.0")
    assert "| and-gate | no gradient | 1.00 |" in table.to_markdown()
    words = [text.get_text() for axes in draw_table(attempts).axes for text in axes.texts]
    assert words == ["no\ngradient", "1.00"]


def test_a_table_tells_what_does_not_go_together() -> None:
    said: list[str] = []
    cases: dict[str, Callable[[Ablation], Case]] = {
        "and-gate": lambda ablation: planted_case("and-gate", ablation),
        "nothing": lambda ablation: case("induction", Mean()),
        "induction": lambda ablation: planted_case("induction", ablation),
    }
    conditions = Conditions(metric("logit_difference"), most_edges=20)
    methods = (Exact(), CleanCorrupted(), RandomScores())
    attempts = list(validate_all(cases, [Zero(), Resample()], methods, conditions, said.append))
    assert len(attempts) == len(cases) * 2 * len(methods)
    assert said[0] == "and-gate, zero (1 of 6)"
    notes = {(one.case, one.method, one.ablation): one.note for one in attempts if isinstance(one, Refusal)}
    assert "which only resample ablation uses" in notes["induction", "clean-corrupted", "zero"]
    assert (
        "exact is slow on 29 edges, so it is not run among all cases: choose induction alone"
        in notes["induction", "exact", "resample"]
    )
    assert "not under mean" in notes["nothing", "random", "zero"]
    assert ("induction", "random", "zero") not in notes
    # the one logit of the gate has no wrong answer to compare with
    assert {(one.case, one.method) for one in attempts if isinstance(one, Validation)} == {
        ("and-gate", "random"),
        ("induction", "random"),
        ("induction", "clean-corrupted"),
    }
    assert "no wrong answer" in notes["and-gate", "exact", "zero"]


def test_mistakes() -> None:
    with pytest.raises(SettingsError, match="thresholds is empty"):
        Conditions(thresholds=())
    made = planted_case("and-gate", Resample())
    with pytest.raises(SettingsError, match="count, so its gradient is zero"):
        validate(made, Eap(), Conditions(metric("match")))


def test_methods_that_look_away_are_judged_all_the_same() -> None:
    """Chance needs no metric: what is judged is its ranking, whatever was to be measured."""
    made = planted_case("induction", Resample())
    one, other = (validate(made, RandomScores(), Conditions(metric(name))) for name in ("squared_error", "match"))
    assert one.edges == other.edges
    found = RandomScores().search(problem_of(made))
    assert one.nodes == recovery(made.circuit, found.scores, "nodes", "absolute")
