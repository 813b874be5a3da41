from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import SettingsError
from subcircuit.model import Tokens, Transformer
from subcircuit.tasks import Answer, Competence, Task, build_task_of_ids, competence, induction
from tests.problems import random_task
from tests.tiny_models import FAMILIES, tiny


def by_hand(model: Transformer, task: Task, prompts: Tokens) -> dict[str, list[float]]:
    """The three metrics prompt by prompt, from probabilities and logits as they are defined."""
    found: dict[str, list[list[float]]] = {"logit_difference": [], "probability_difference": [], "accuracy": []}
    answers = task.answers
    for example, ids in enumerate(prompts.to_lists()):
        logits = model(Tokens.from_lists([ids]))[0].double()
        rows: dict[str, list[float]] = {name: [] for name in found}
        for answer in (answers.example == example).nonzero()[:, 0].tolist():
            z = logits[answers.pos[answer]]
            p = z.softmax(-1)
            right = answers.correct[answer][answers.correct_mask[answer]]
            wrong = answers.wrong[answer][answers.wrong_mask[answer]]
            rows["logit_difference"].append(float(z[right].mean() - z[wrong].mean()))
            rows["probability_difference"].append(float(p[right].mean() - p[wrong].mean()))
            rows["accuracy"].append(float(z[right].min() > z[wrong].max()))
        for name, values in rows.items():
            found[name].append([sum(values) / len(values)])
    return {name: [row[0] for row in rows] for name, rows in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=2)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5), each=st.integers(1, 3))
def test_competence_is_the_metrics_on_both_sides(family: str, dtype: torch.dtype, seed: int, lengths: list[int], each: int):
    model = tiny(family, seed=1, dtype=dtype)
    task = random_task(model, seed, lengths, each)
    measured = competence(model, task, batch_size=2)
    for side in ("clean", "corrupted"):
        expected = by_hand(model, task, getattr(task, side))
        assert [one.metric.name for one in measured] == list(expected)
        for one in measured[:2] if dtype == torch.bfloat16 else measured:
            tolerance = 0.15 if dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(
                getattr(one, side), torch.tensor(expected[one.metric.name], dtype=torch.float64), atol=tolerance, rtol=tolerance
            )


def test_batches_make_no_difference():
    model = tiny("llama_gqa")
    task = random_task(model, 0, [5, 9, 3, 7, 4], 2)
    whole, pieces = competence(model, task, batch_size=100), competence(model, task, batch_size=2)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one.clean, other.clean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.corrupted, other.corrupted, atol=1e-5, rtol=1e-5)


def names(measured: tuple[Competence, ...]) -> list[str]:
    return [one.metric.name for one in measured]


def test_the_task_s_own_metric_comes_first_if_it_tells_anything():
    model = tiny("gpt2")
    task = induction(model, examples=2, length=4)
    three = ["logit_difference", "probability_difference", "accuracy"]
    assert names(competence(model, task)) == three
    assert names(competence(model, replace(task, metric="greater_than"))) == ["greater_than", *three]
    assert names(competence(model, replace(task, metric="accuracy"))) == ["accuracy", *three[:2]]


def test_tasks_without_wrong_answers_have_a_likelihood():
    model = tiny("gpt2")
    task = build_task_of_ids("one", [[2, 3]], [[4, 3]], [Answer(0, 1, (5,))], model, parameters={})
    (measured,) = competence(model, task)
    assert measured.metric.name == "negative_log_likelihood"
    expected = -float(model(task.clean)[0, 1].double().log_softmax(-1)[5])
    assert measured.means[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(SettingsError, match="no wrong answer"):
        competence(model, replace(task, metric="logit_difference"))
    with pytest.raises(SettingsError, match="batch_size is 0"):
        competence(model, task, batch_size=0)
