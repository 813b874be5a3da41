"""Relevance patching: each rule on its own, and all of them against autograd through a forward pass that spells them out."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import run_circuit
from subcircuit.errors import SettingsError
from subcircuit.graph import Graph
from subcircuit.model import LayerNorm, MixtureWeights, NoNorm, NormWeights, RMSNorm
from subcircuit.model.components import activate, attention_mask, norm_eps, normalize, rotate, soft_cap
from subcircuit.model.transformer import feed_forward
from subcircuit.search.eap import Eap
from subcircuit.search.relp import RELEVANCE, Relp, frozen_norm, half_each, proportional
from subcircuit.units.gradients import norm_pull_back
from tests.oracles import mixture_of_one
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores, assert_scores_or_refused
from tests.search.test_eap import problems
from tests.tiny_models import FAMILIES, tiny

ACTIVATIONS = ["gelu", "gelu_tanh", "relu", "silu"]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pulled_back(function, gradient, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, gradient)


# ---- one rule at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "weights"),
    [
        (LayerNorm(1e-5), NormWeights(random(8, seed=1), random(8, seed=2))),
        (LayerNorm(1e-5), NormWeights()),
        (RMSNorm(1e-3), NormWeights(random(8, seed=1))),
        (RMSNorm(1e-3), NormWeights()),
        (NoNorm(), NormWeights()),
    ],
)
def test_a_norm_is_the_linear_map_with_its_scale_frozen(norm, weights):
    x, direction = random(3, 8, seed=3) + 1, random(3, 8, seed=4)
    torch.testing.assert_close(frozen_norm(x, norm, weights), normalize(x, norm, weights))
    centre = isinstance(norm, LayerNorm)
    variance = x.var(-1, correction=0, keepdim=True) if centre else x.pow(2).mean(-1, keepdim=True)
    scale = 1.0 if isinstance(norm, NoNorm) else 1 / (variance + norm_eps(norm)).sqrt()
    moved = direction - direction.mean(-1, keepdim=True) if centre else direction
    along = moved * scale * (1.0 if weights.gain is None else weights.gain)
    _, found = torch.autograd.functional.jvp(lambda x: frozen_norm(x, norm, weights), x, direction)
    torch.testing.assert_close(found, along)
    gradient = random(3, 8, seed=5)
    (expected,) = pulled_back(lambda x: frozen_norm(x, norm, weights), gradient, x)
    torch.testing.assert_close(norm_pull_back(norm, weights, x, gradient, frozen=True), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_proportional_to_its_input(activation):
    x = torch.cat([random(50) * 3, torch.tensor([1e-30, -1e-30, 40.0, -40.0])])
    torch.testing.assert_close(proportional(x, activation), activate(x, activation), atol=1e-12, rtol=1e-9)
    (found,) = pulled_back(lambda x: proportional(x, activation), torch.ones_like(x), x)
    torch.testing.assert_close(found, activate(x, activation) / x, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_at_zero_the_proportion_is_its_limit(activation, dtype):
    zero = torch.zeros(2, dtype=dtype)
    (found,) = pulled_back(lambda x: proportional(x, activation), torch.ones_like(zero), zero)
    torch.testing.assert_close(found, torch.full_like(zero, 0.0 if activation == "relu" else 0.5))
    assert torch.equal(proportional(zero, activation), zero)


def test_a_product_gives_half_of_its_gradient_to_each_factor():
    one, other, gradient = (random(5, seed=seed) for seed in range(3))
    torch.testing.assert_close(half_each(one, other), one * other)
    for found, whole in zip(pulled_back(half_each, gradient, one, other), (gradient * other, gradient * one), strict=True):
        torch.testing.assert_close(found, whole / 2)


@pytest.mark.parametrize("family", ["llama_gqa", "mistral", "qwen3", "gemma2", "gemma3"])
def test_a_gated_mlp_without_biases_hands_on_all_relevance(family):
    model = tiny(family, dtype=torch.float64)
    x, gradient = random(4, 32, seed=1), random(4, 32, seed=2)
    (relevance,) = pulled_back(lambda x: feed_forward(model, 1, x, RELEVANCE.nonlinear), gradient, x)
    written = feed_forward(model, 1, x)
    torch.testing.assert_close((x * relevance).sum(-1), (written * gradient).sum(-1))
    (slope,) = pulled_back(lambda x: feed_forward(model, 1, x), gradient, x)
    assert not torch.allclose((x * slope).sum(-1), (written * gradient).sum(-1), rtol=0.1)


def test_attention_keeps_the_gradients_of_queries_and_keys_and_all_of_the_values():
    # no norms and no MLPs: only attention bends, and behind the last layer nothing does
    model = tiny("attention_only_bare", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 4, [6, 7], 1, "logit_difference", "resample")
    scores = Relp().search(problem)
    assert_scores(scores, Eap().search(problem).scores.double())
    slow = Autograd(problem)
    for name in ("a0.h1->a1.h2<v>", "embed->a1.h0<v>", "a1.h3->logits", "a0.h2->logits"):
        cut = graph.edges.double()
        cut[graph.find(name)] = 0
        effect = float(slow.of_logits(run_circuit(model, graph, cut, problem.task.clean, slow.ablated)) - slow.loss(graph.edges))
        assert scores[name] == pytest.approx(effect, rel=1e-4, abs=1e-7)
    assert all(abs(scores[f"a0.h1->a1.h2<{part}>"]) > 1e-6 for part in "qk")


# ---- all rules together ---------------------------------------------------------------------------------------------------


def frozen(model, x, weights):
    norm = model.config.norm
    if isinstance(norm, NoNorm):
        return x
    if isinstance(norm, LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt().detach()
    x = x if weights.gain is None else x * weights.gain
    return x if weights.bias is None else x + weights.bias


def proportion(x, activation):
    """act(x) / x in closed form."""
    match activation:
        case "gelu":
            share = (1 + torch.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            share = (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "silu":
            share = torch.sigmoid(x)
        case _:
            share = (x > 0).to(x.dtype)
    return share.detach()


def mlp_by_rules(model, layer, x):
    w = model.weights.layers[layer]
    x = frozen(model, x, w.mlp_norm)
    if isinstance(w.mlp, MixtureWeights):
        rows = [mixture_of_one(model, w.mlp, row, partial(neurons_by_rules, model), halves) for row in x.flatten(0, -2)]
        out = torch.stack(rows).view_as(x)
    else:
        out = neurons_by_rules(model, w.mlp, x)
    return out if w.mlp_post_norm is None else frozen(model, out, w.mlp_post_norm)


def neurons_by_rules(model, w, x):
    return fired_by_rules(model, w, x) @ w.W_out + (0 if w.b_out is None else w.b_out)


def fired_by_rules(model, w, x):
    config = model.config
    hidden = x @ w.W_in.T + (0 if w.b_in is None else w.b_in)
    if w.W_gate is None:
        return hidden * proportion(hidden, config.activation)
    gate = x @ w.W_gate.T + (0 if w.b_gate is None else w.b_gate)
    return halves(gate * proportion(gate, config.activation), hidden)


def neurons_apart_by_rules(unit, model, inputs):
    """What neurons write, each of which reads an input of its own."""
    w = model.weights.layers[unit.layer]
    numbers = range(unit.start, unit.start + unit.n)
    fired = [fired_by_rules(model, w.mlp, frozen(model, x, w.mlp_norm))[..., n] for n, x in zip(numbers, inputs, strict=True)]
    writes = torch.stack([a[..., None] * w.mlp.W_out[n] for n, a in zip(numbers, fired, strict=True)])
    if w.mlp_post_norm is None:
        return writes
    scale = (writes.sum(0).pow(2).mean(-1, keepdim=True) + model.config.norm.eps).sqrt().detach()
    return writes / scale * w.mlp_post_norm.gain


def halves(one, other):
    return one * other.detach() / 2 + one.detach() * other / 2


def attention_by_rules(unit, model, given):
    layer, inputs = unit.layer, [given[list(unit.inputs[part])] for part in ("q", "k", "v")]
    layer_weights, config = model.weights.layers[layer], model.config
    w, positions = layer_weights.attention, torch.arange(inputs[0].shape[2])

    def projected(x, W, b, gain, head, rotary):
        x = frozen(model, x[head], layer_weights.attention_norm) @ W.T + (0 if b is None else b)
        if gain is not None:
            x = x / (x.pow(2).mean(-1, keepdim=True) + config.norm.eps).sqrt().detach() * gain
        return rotate(x, positions, rotary)

    outs = []
    for head in range(config.n_heads):
        kv = head * config.n_kv_heads // config.n_heads
        b_Q, b_K, b_V = (None if b is None else b[i] for b, i in ((w.b_Q, head), (w.b_K, kv), (w.b_V, kv)))
        q = projected(inputs[0], w.W_Q[head], b_Q, w.q_norm, head, config.rotary[layer])
        k = projected(inputs[1], w.W_K[kv], b_K, w.k_norm, head, config.rotary[layer])
        v = projected(inputs[2], w.W_V[kv], b_V, None, head, None)
        scores = soft_cap(q @ k.mT * config.attention_scale, config.attention_softcap)
        scores = scores.masked_fill(~attention_mask(positions, positions, config, layer), -torch.inf)
        outs.append(scores.softmax(-1) @ v @ w.W_O[head])
    writes = torch.stack(outs)
    if layer_weights.attention_post_norm is not None:
        scale = (writes.sum(0).pow(2).mean(-1, keepdim=True) + config.norm.eps).sqrt().detach()
        writes = writes / scale * layer_weights.attention_post_norm.gain
    return writes.sum(0, keepdim=True) if unit.block else writes


def logits_by_rules(config, weights, x):
    logits = frozen(SimpleNamespace(config=config), x, weights.final_norm) @ weights.W_U.T
    return soft_cap(logits if weights.b_U is None else logits + weights.b_U, config.logit_softcap)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(data=st.data())
def test_scores_are_autograd_through_the_rules_written_out(family, data):
    problem = data.draw(problems(family))
    config = Relp(batch_size=data.draw(st.sampled_from([None, 1, 2])))
    assert_scores_or_refused(lambda: config.search(problem), slope_by_rules(problem))


def slope_by_rules(problem):
    """Autograd through a forward pass that has the rules in it and computes the same."""
    graph = problem.graph
    plain = Autograd(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subcircuit.units.attention.AttentionUnit.writes", attention_by_rules)
        patch.setattr("subcircuit.units.mlp.feed_forward", mlp_by_rules)
        patch.setattr("subcircuit.units.mlp.NeuronsUnit.writes", neurons_apart_by_rules)
        patch.setattr("subcircuit.engine.forward.unembed", logits_by_rules)
        torch.testing.assert_close(plain.loss(graph.edges), Autograd(problem).loss(graph.edges))
        return plain.slope(graph.edges)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "gemma2", "pythia"])
def test_rules_change_scores_where_something_bends(family):
    model = tiny(family, dtype=torch.float64)
    problem = random_problem(model, Graph.of(model.config), 3, [6, 5], 1, "logit_difference", "resample")
    by_rules, by_gradients = Relp().search(problem).scores, Eap().search(problem).scores
    assert float((by_rules - by_gradients).nan_to_num().abs().max()) > 0.1 * float(by_gradients.nan_to_num().abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2"])
def test_other_precisions_are_near_and_batches_change_nothing(family, dtype, tolerance):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [6, 5, 7], 1, "logit_difference", "mean")
    expected, rounded = Relp().search(problem).scores[graph.edges], replace(problem, model=precise.to(dtype=dtype))
    for batch_size in (None, 2):
        values = Relp(batch_size).search(rounded).scores[graph.edges]
        assert float((values - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_what_cannot_be_differentiated_is_refused():
    model = tiny("gpt2")
    with pytest.raises(SettingsError, match="accuracy is a count"):
        Relp().search(random_problem(model, Graph.of(model.config), 1, [6, 5], 1, "accuracy", "resample"))
    with pytest.raises(SettingsError, match="at least 1"):
        Relp(0)
