"""Mixtures of experts: how they are stored, whom the router chooses, and what the config's switches do."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model import Experts, MixtureWeights, MLPWeights, Tokens, Transformer, check_weights, load_model
from subcircuit.model.components import mixture, mlp, route
from subcircuit.model.weights import named_tensors
from tests.model.load.test_families import hf_logits, largest_difference, our_logits
from tests.oracles import NodeByNode, mixture_of_one
from tests.tiny_models import CONTEXT, tiny, tiny_hf

MIXED = ("mixtral", "qwen2_moe", "qwen3_moe")


def weights_of(model: Transformer, layer: int) -> MixtureWeights:
    weights = model.weights.layers[layer].mlp
    assert isinstance(weights, MixtureWeights)
    return weights


@pytest.mark.parametrize("family", MIXED)
def test_each_expert_in_files_and_all_in_one_tensor_are_the_same_model(family: str, tmp_path):
    hf = tiny_hf(family, 2)
    hf.save_pretrained(tmp_path)
    assert any("gate_up_proj" in name for name in hf.state_dict())
    assert not any("gate_up_proj" in name for name in load_file(tmp_path / "model.safetensors"))
    in_one, apart = load_model(hf, device="cpu"), load_model(tmp_path, device="cpu")
    assert in_one.config == apart.config
    for (name, one), (other_name, other) in zip(named_tensors(in_one.weights), named_tensors(apart.weights), strict=True):
        assert name == other_name
        assert torch.equal(one, other), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", MIXED)
def test_a_mixture_is_its_chosen_experts_by_their_shares(family: str, dtype: torch.dtype):
    model = tiny(family, 1, torch.float64)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # experts are chosen among numbers that both precisions have
    model, x = model.to(dtype=dtype).to(dtype=torch.float64), x.to(dtype).double()
    layer = model.config.experts.layers[-1]  # pyright: ignore[reportOptionalMemberAccess]
    weights = weights_of(model, layer)
    run = NodeByNode(model, None, None, None).plain  # pyright: ignore[reportArgumentType]
    expected = torch.stack([mixture_of_one(model, weights, row, run) for row in x.flatten(0, 1)]).view_as(x)
    found = mixture(model.config, weights_of(model.to(dtype=dtype), layer), x.to(dtype))
    assert found.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    else:
        assert float((found - expected).abs().median()) < 0.02 * float(expected.std())


def test_equal_logits_go_to_experts_of_lower_number():
    experts = Experts(5, 2, 4, normalised=False, layers=(0,))
    tied = MixtureWeights(torch.tensor([[0.0], [1.0], [2.0], [1.0], [1.0]]), ())
    routing = route(experts, tied, torch.tensor([[1.0], [0.0], [-1.0]]))
    assert routing.experts.tolist() == [[2, 1], [0, 1], [0, 1]]
    assert routing.shares[1].tolist() == pytest.approx([0.2, 0.2])
    again = route(replace(experts, normalised=True), tied, torch.tensor([[0.0]]))
    assert again.shares.tolist() == [[0.5, 0.5]]


def test_an_expert_reads_the_rows_that_go_to_it_and_no_other(monkeypatch: pytest.MonkeyPatch):
    model, seen = tiny("mixtral", 3), []
    plain = mlp
    monkeypatch.setattr("subcircuit.model.components.mlp", lambda c, w, x, n: seen.append(len(x)) or plain(c, w, x, n))
    x = torch.randn(10, 32, generator=torch.Generator().manual_seed(1))
    mixture(model.config, weights_of(model, 0), x)
    assert sum(seen) == 2 * len(x)


@pytest.mark.parametrize(
    ("family", "changes", "layers"),
    [
        ("qwen2_moe", {"norm_topk_prob": True, "mlp_only_layers": []}, (0, 1, 2)),
        ("qwen2_moe", {"qkv_bias": False, "decoder_sparse_step": 3}, (2,)),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, (0, 2)),
        ("qwen3_moe", {"norm_topk_prob": False, "num_experts_per_tok": 4, "attention_bias": True}, (1,)),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 4, "decoder_sparse_step": 1}, (0, 1, 2)),
        ("qwen3_moe", {"mlp_only_layers": [0, 1, 2]}, ()),
        ("mixtral", {"num_experts_per_tok": 1, "sliding_window": 4}, (0, 1, 2)),
    ],
)
def test_config_switches_are_heeded(family: str, changes: dict[str, Any], layers: tuple[int, ...]):
    hf = tiny_hf(family, **changes)
    tokens, ours = Tokens.from_lists([list(range(CONTEXT))]), load_model(hf, device="cpu")
    assert (ours.config.experts.layers if ours.config.experts else ()) == layers
    assert tuple(i for i, layer in enumerate(ours.weights.layers) if isinstance(layer.mlp, MixtureWeights)) == layers
    assert largest_difference(our_logits(ours, tokens), hf_logits(hf, tokens), tokens.lengths) <= 1e-4


def test_more_choices_than_experts_are_refused():
    hf = tiny_hf("mixtral")
    hf.config.num_experts_per_tok = 5
    with pytest.raises(UnsupportedModelError, match=r"num_experts_per_tok = 5 is not between 1 and the 4 experts"):
        load_model(hf)


def test_experts_that_are_missing_are_named():
    model = tiny("mixtral")
    first, *rest = model.weights.layers
    fewer = replace(weights_of(model, 0), experts=weights_of(model, 0).experts[:3])
    with pytest.raises(ModelError, match="the config has 4 experts in layer 0, the weights have 3"):
        check_weights(model.config, replace(model.weights, layers=(replace(first, mlp=fewer), *rest)))
    plain = MLPWeights(torch.zeros(20, 32), torch.zeros(20, 32))
    with pytest.raises(ModelError, match="the config has 4 experts in layer 0, the weights have 0"):
        check_weights(model.config, replace(model.weights, layers=(replace(first, mlp=plain), *rest)))


def test_digests_of_models_without_experts_are_those_of_before_there_were_any():
    config = tiny("llama").config
    fields = repr(config).removesuffix(", experts=None)") + ")"
    assert "experts" not in fields
    assert config.digest == sha256(fields.encode()).hexdigest()[:16]
    assert config.digest != replace(config, experts=Experts(4, 2, 8, normalised=True, layers=(0,))).digest
