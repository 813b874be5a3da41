import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.engine.readout import readout_of
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.search.objective import Units, objective
from subcircuit.tasks import METRICS, Answer, Answers, Metric, metric
from subcircuit.tasks.own_metrics import own_metric
from tests.oracles import metric_of_answer


@st.composite
def answer_lists(draw: st.DrawFn) -> tuple[int, list[Answer]]:
    """A vocabulary size, and answers of up to four examples with unequal numbers of tokens."""
    vocab = draw(st.integers(4, 40))
    answers = []
    for example in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 3))):
            ids = draw(st.permutations(range(vocab)))
            n_correct, n_wrong = draw(st.integers(1, 2)), draw(st.integers(1, 2))
            answers.append(Answer(example, 0, tuple(ids[:n_correct]), tuple(ids[n_correct : n_correct + n_wrong])))
    return vocab, answers


def random_logits(*shape: int, seed: int, cap: float | None = None) -> Tensor:
    logits = 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METRICS))
@settings(deadline=None, max_examples=40)
@given(
    made=answer_lists(), trials=st.sampled_from([(), (3,), (2, 2)]), cap=st.sampled_from([None, 3.0]), seed=st.integers(0, 999)
)
def test_metrics_are_their_definitions(
    name: str, made: tuple[int, list[Answer]], trials: tuple[int, ...], cap: float | None, seed: int
):
    vocab, listed = made
    logits, reference = (
        random_logits(*trials, len(listed), vocab, seed=seed, cap=cap),
        random_logits(len(listed), vocab, seed=seed + 1),
    )
    bound = metric(name).bind(Answers.from_list(listed), reference)
    loss = bound(readout_of(logits, bound.needs))
    assert loss.dtype == torch.float64
    expected = torch.tensor(
        [
            [metric_of_answer(name, z, m, a.correct, a.wrong) for z, m, a in zip(trial, reference.tolist(), listed, strict=True)]
            for trial in logits.view(-1, len(listed), vocab).tolist()
        ],
        dtype=torch.float64,
    ).view(*trials, len(listed))
    torch.testing.assert_close(metric(name).value(loss), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", list(METRICS))
def test_loss_grows_as_the_circuit_gets_worse(name: str):
    answers = Answers.from_list([Answer(0, 0, (0,), (1,))])
    model = torch.tensor([[5.0, 0.0, 0.0]])
    bound = metric(name).bind(answers, model)
    good, bad = (bound(readout_of(z, bound.needs)).item() for z in (model, torch.tensor([[0.0, 5.0, 0.0]])))
    assert good < bad
    assert metric(name).direction == ("lower" if metric(name).sign == 1 else "higher")


@pytest.mark.parametrize("name", list(METRICS))
def test_nan_is_never_hidden(name: str):
    listed = [Answer(0, 0, (0,), (1,)), Answer(0, 1, (0,), (1,)), Answer(1, 0, (0,), (1,))]
    answers, logits = Answers.from_list(listed), random_logits(3, 5, seed=0)
    bound = metric(name).bind(answers, logits)
    logits = logits.clone()
    logits[1, 0] = float("nan")
    loss = bound(readout_of(logits, bound.needs))
    assert loss.isnan().tolist() == [False, True, False]
    assert answers.per_example(loss).isnan().tolist() == [True, False]
    assert answers.mean(loss).isnan()


def largest(logits: Tensor) -> Tensor:
    """A metric of one's own."""
    return logits.max(-1).values


@pytest.mark.parametrize(
    "made", [*METRICS.values(), own_metric(largest), objective(metric("probability_difference"), Units(2.0, 3.0))], ids=str
)
def test_another_process_measures_the_same(made: Metric):
    answers, model = Answers.from_list([Answer(0, 0, (0, 2), (1,)), Answer(1, 0, (1,), (0, 3))]), random_logits(2, 6, seed=1)
    bounds = [each.bind(answers, model) for each in (made, pickle.loads(pickle.dumps(made)))]
    mine, sent = (bound(readout_of(random_logits(3, 2, 6, seed=2), bound.needs)) for bound in bounds)
    assert torch.equal(mine, sent)


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if m.differentiable])
def test_differentiable_metrics_have_the_gradient_of_finite_differences(name: str):
    answers = Answers.from_list([Answer(0, 0, (0, 2), (1,)), Answer(1, 0, (1,), (0, 3))])
    bound = metric(name).bind(answers, random_logits(2, 6, seed=1))
    logits = random_logits(2, 2, 6, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: bound(readout_of(z, bound.needs)), logits)


def test_a_model_compared_with_itself_diverges_by_nothing_however_sure_it_is():
    answers = Answers.from_list([Answer(0, 0, (0,))])
    certain = torch.tensor([[2000.0, 0.0, -2000.0]], dtype=torch.float64)
    for name in ("kl_divergence", "js_divergence"):
        bound = metric(name).bind(answers, certain)
        assert bound(readout_of(certain, bound.needs)).item() == 0


def test_ties_count_as_documented():
    answers = Answers.from_list([Answer(0, 0, (1,), (2,))])
    tied = torch.tensor([[0.0, 3.0, 3.0]])
    accuracy, match = metric("accuracy").bind(answers), metric("match").bind(answers, torch.tensor([[0.0, 3.0, 2.0]]))
    assert metric("accuracy").value(accuracy(readout_of(tied, accuracy.needs))).item() == 0
    assert metric("match").value(match(readout_of(tied, match.needs))).item() == 1


@settings(deadline=None, max_examples=40)
@given(made=answer_lists(), seed=st.integers(0, 999))
def test_means_go_over_answers_first_and_over_examples_then(made: tuple[int, list[Answer]], seed: int):
    _, listed = made
    answers = Answers.from_list(listed)
    values = random_logits(2, 3, len(listed), seed=seed)
    examples = [[i for i, a in enumerate(listed) if a.example == e] for e in range(answers.n_examples)]
    expected = torch.stack([values[..., which].mean(-1) for which in examples], -1)
    torch.testing.assert_close(answers.per_example(values), expected)
    torch.testing.assert_close(answers.mean(values), expected.mean(-1))


def test_metrics_that_contrast_refuse_answers_without_wrong_ones():
    answers = Answers.from_list([Answer(0, 0, (1,), (2,)), Answer(1, 0, (1,))])
    for m in METRICS.values():
        if m.contrasts:
            with pytest.raises(SettingsError, match=rf"{m.name} .* pair 2 has no wrong answer.*negative_log_likelihood"):
                m.bind(answers, torch.zeros(2, 4))
        else:
            m.bind(answers, torch.zeros(2, 4))


def test_metrics_that_compare_ask_for_the_models_logits():
    answers = Answers.from_list([Answer(0, 0, (1,), (2,))])
    for m in METRICS.values():
        if m.compares:
            with pytest.raises(SettingsError, match="reference"):
                m.bind(answers)
        else:
            m.bind(answers)


def test_a_mistyped_metric_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'kl_divergence'"):
        metric("kl_divergance")
