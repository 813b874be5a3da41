from dataclasses import replace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.engine.readout import Needs, Readout, read, readout_of
from subcircuit.model import Transformer
from subcircuit.model.components import unembed
from tests.tiny_models import attention_only, tiny

FIELDS = ("columns", "normalizer", "mixture", "logits")


def widened(model: Transformer, vocab: int, seed: int, bias: bool, cap: float | None) -> Transformer:
    """``model`` with another unembedding, large enough to be read in several pieces."""
    generator = torch.Generator().manual_seed(seed)
    W_U = torch.randn(vocab, model.config.d_model, generator=generator, dtype=model.dtype)
    b_U = torch.randn(vocab, generator=generator, dtype=model.dtype) if bias else None
    return replace(
        model,
        config=replace(model.config, vocab=vocab, logit_softcap=cap),
        weights=replace(model.weights, W_E=W_U, W_U=W_U, b_U=b_U),
    )


def all_needs(vocab: int, answers: int, seed: int, logits: bool = False) -> Needs:
    generator = torch.Generator().manual_seed(seed)
    mixture = (3 * torch.randn(answers, vocab, generator=generator, dtype=torch.float64)).softmax(-1)
    return Needs(torch.randint(vocab, (3,), generator=generator), True, mixture, logits)


def exact(model: Transformer, stream: Tensor, needs: Needs) -> Readout:
    wide = model.to(dtype=torch.float64)
    return readout_of(unembed(wide.config, wide.weights, stream.double()), needs)


def random_stream(model: Transformer, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, model.config.d_model, generator=torch.Generator().manual_seed(seed), dtype=model.dtype)


def assert_close(found: Readout, expected: Readout, tolerance: float) -> None:
    for name in FIELDS:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            # relative to a logit's size, of about 6 here: differences of logits may vanish, their errors do not
            torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=6 * tolerance)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    family=st.sampled_from(["gpt2", "llama_gqa", "gemma2", "attention_only_bare"]),
    vocab=st.sampled_from([1, 2, 61, 511, 512, 513, 1500, 3000]),
    trials=st.sampled_from([(), (1,), (5,), (2, 3), (700,)]),
    answers=st.integers(1, 4),
    bias=st.booleans(),
    cap=st.sampled_from([None, 4.0]),
    logits=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_reading_equals_the_definition_on_all_logits(
    family: str, vocab: int, trials: tuple[int, ...], answers: int, bias: bool, cap: float | None, logits: bool, seed: int
):
    model = widened(tiny(family), vocab, seed, bias, cap)
    needs = all_needs(vocab, answers, seed, logits)
    stream = random_stream(model, *trials, answers, seed=seed)
    assert_close(read(model, stream, needs), exact(model, stream, needs), 1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3", "attention_only"])
def test_float64_is_read_in_float64(family: str):
    model = tiny(family, dtype=torch.float64)
    needs, stream = all_needs(model.config.vocab, 3, 0), random_stream(model, 4, 3)
    assert_close(read(model, stream, needs), exact(model, stream, needs), 1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_do_not_overflow_or_swallow_small_terms(dtype: torch.dtype):
    model = widened(attention_only(), 3000, 0, bias=True, cap=None).to(dtype=dtype)
    needs, stream = all_needs(3000, 3, 0), random_stream(model, 4, 3)
    assert_close(read(model, stream, needs), exact(model, stream, needs), 2e-2)


def test_what_is_not_asked_for_is_not_there():
    model = tiny("gemma2")
    stream = random_stream(model, 2, 3)
    needs = all_needs(model.config.vocab, 3, 0, logits=True)
    for name in FIELDS:
        only = Needs(**{name: getattr(needs, name)})
        found = read(model, stream, only)
        assert [f for f in FIELDS if getattr(found, f) is not None] == [name]
        assert_close(found, exact(model, stream, only), 1e-6)


@pytest.mark.parametrize("gap", [50.0, 89.0, 500.0, 1e6])
def test_one_logit_far_above_all_earlier_ones_does_not_overflow(gap: float):
    model = widened(attention_only(bare=True), 2000, 0, bias=True, cap=None)
    b_U = cast(Tensor, model.weights.b_U).clone()
    b_U[1999] += gap
    model = replace(model, weights=replace(model.weights, b_U=b_U))
    stream = random_stream(model, 600, 2)
    needs = Needs(normalizer=True)
    assert_close(read(model, stream, needs), exact(model, stream, needs), 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("cap", [None, 4.0])
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(bad: float, cap: float | None):
    model = widened(tiny("gpt2"), 700, 0, bias=False, cap=cap)
    needs, stream = all_needs(700, 2, 0), random_stream(model, 5, 2)
    expected = read(model, stream, needs)
    stream[3, 1, 0] = bad
    found = read(model, stream, needs)
    others = torch.ones(5, 2, dtype=torch.bool)
    others[3, 1] = False
    for name in ("columns", "normalizer", "mixture"):
        assert not getattr(found, name)[3, 1].isfinite().any(), name
        torch.testing.assert_close(getattr(found, name)[others], getattr(expected, name)[others])


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "gemma2", "attention_only_bare"])
@pytest.mark.parametrize("logits", [True, False])
def test_gradients_are_those_of_the_definition(family: str, logits: bool):
    model = tiny(family, dtype=torch.float64)
    needs = all_needs(model.config.vocab, 3, 0, logits)
    one, other = (random_stream(model, 2, 3).requires_grad_() for _ in range(2))

    def total(readout: Readout) -> Tensor:
        parts = [getattr(readout, name) for name in FIELDS]
        return torch.stack([part.double().sin().sum() for part in parts if part is not None]).sum()

    (found,) = torch.autograd.grad(total(read(model, one, needs)), one)
    (expected,) = torch.autograd.grad(total(exact(model, other, needs)), other)
    torch.testing.assert_close(found, expected)


def test_reading_without_gradients_accepts_a_stream_that_has_them():
    model = tiny("gpt2")
    needs, stream = all_needs(model.config.vocab, 3, 0), random_stream(model, 2, 3)
    with torch.no_grad():
        found = read(model, stream.clone().requires_grad_(), needs)
    assert_close(found, read(model, stream, needs), 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 300), st.booleans())
def test_a_trial_reads_the_same_whatever_it_is_batched_with(trials: int, capped: bool):
    model = widened(tiny("llama_gqa"), 3000, 0, bias=True, cap=5.0 if capped else None)
    needs, stream = all_needs(3000, 3, 0), random_stream(model, trials, 3)
    together, alone = read(model, stream, needs), read(model, stream[1], needs)
    assert_close(
        Readout(*(value if value is None else value[1] for value in (getattr(together, f) for f in FIELDS))), alone, 1e-6
    )


def test_a_mixture_meets_each_unembedding_once():
    model = tiny("llama_gqa")
    needs = all_needs(model.config.vocab, 3, 0)
    first = needs.direction(model.weights.W_U)
    assert needs.direction(model.weights.W_U) is first
    wide = model.to(dtype=torch.float64)
    torch.testing.assert_close(needs.direction(wide.weights.W_U), cast(Tensor, needs.mixture) @ wide.weights.W_U)
