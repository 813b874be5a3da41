"""The parts on their own, where a whole forward pass would not show what they promise."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import ModelError
from subcircuit.model import Rotary, Tokens, check_weights, named_tensors
from subcircuit.model.components import (
    attention_mask,
    embed,
    embed_positions,
    embed_tokens,
    rms_norm,
    rotate,
    soft_cap,
    unembed,
)
from tests.tiny_models import CONTEXT, FAMILIES, VOCAB, tiny


@given(st.integers(0, 10**4), st.integers(0, 10**4), st.integers(0, 500))
def test_rotated_products_depend_on_distance_alone(query: int, key: int, shift: int):
    rotary = Rotary((1.0, 0.1, 0.001))
    q, k = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(query))

    def product(a: int, b: int) -> torch.Tensor:
        return rotate(q, torch.tensor([a]), rotary) @ rotate(k, torch.tensor([b]), rotary).mT

    torch.testing.assert_close(product(query, key), product(query + shift, key + shift))


def test_rotation_is_multiplication_by_a_unit_number():
    x = torch.randn(5, 7, dtype=torch.float64)
    frequencies = (0.7, 0.2, 0.05)
    turned = rotate(x, torch.arange(5), Rotary(frequencies, scaling=1.5))
    angles = torch.arange(5)[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    expected = torch.complex(x[:, :3], x[:, 3:6]) * torch.polar(torch.full_like(angles, 1.5), angles)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag, x[:, 6:]], dim=-1))


def test_a_rotation_at_some_positions_is_those_rows_of_the_rotation_at_all():
    x, rotary = torch.randn(2, 9, 6), Rotary((0.7, 0.2, 0.05))
    some = torch.tensor([1, 4, 8])
    assert torch.equal(rotate(x[:, some], some, rotary), rotate(x, torch.arange(9), rotary)[:, some])


@given(st.integers(1, 20), st.one_of(st.none(), st.integers(1, 25)))
def test_a_mask_shows_the_latest_keys_of_the_window(length: int, window: int | None):
    model = tiny("attention_only")
    config = replace(model.config, windows=(window, None))
    positions = torch.arange(length)
    seen = attention_mask(positions, positions, config, 0)
    for query in range(length):
        first = 0 if window is None else max(0, query - window + 1)
        assert seen[query].nonzero().flatten().tolist() == list(range(first, query + 1))
    assert attention_mask(positions, positions, tiny("bidirectional").config, 0).all()


def test_rms_norm_in_half_precision_keeps_small_inputs():
    x = torch.full((1, 64), 1e-4, dtype=torch.float16)  # whose square underflows
    torch.testing.assert_close(rms_norm(x, torch.ones(64, dtype=torch.float16), 1e-12), torch.ones_like(x), atol=2e-2, rtol=0)


def test_a_soft_cap_is_the_identity_near_zero_and_never_exceeds_the_cap():
    x = torch.linspace(-100, 100, 1001, dtype=torch.float64)
    assert soft_cap(x, None) is x
    assert soft_cap(x, 5.0).abs().max() <= 5.0
    assert math.isclose(soft_cap(torch.tensor(0.01, dtype=torch.float64), 5.0).item(), 0.01, rel_tol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_the_embedding_add_up_and_columns_are_columns(family: str):
    model = tiny(family)
    ids = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    stream = embed(model.config, model.weights, ids)
    torch.testing.assert_close(stream, embed_tokens(model.config, model.weights, ids) + embed_positions(model.weights, ids))
    columns = torch.tensor([3, 17, 3])
    some = unembed(model.config, model.weights, stream, columns)
    torch.testing.assert_close(some, unembed(model.config, model.weights, stream)[..., columns])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_a_name_and_a_checked_shape(family: str):
    model = tiny(family)
    check_weights(model.config, model.weights)
    names = [name for name, _ in named_tensors(model.weights)]
    assert len(names) == len(set(names))
    with pytest.raises(ModelError, match="W_E has shape"):
        check_weights(replace(model.config, vocab=VOCAB + 1), model.weights)


def test_slices_of_a_batch_are_cut_to_their_longest_prompt():
    tokens = Tokens.from_lists([[1, 2, 3, 4], [5, 6], [7]])
    some = tokens[1:]
    assert len(some) == 2
    assert some.ids.tolist() == [[5, 6], [7, 0]]
    assert some.lengths.tolist() == [2, 1]


def test_configs_have_one_digest_each():
    digests = {tiny(family).config.digest for family in FAMILIES}
    assert len(digests) == len(FAMILIES)
    assert tiny("llama", 1).config.digest == tiny("llama", 2).config.digest
