"""AtP* against its definition written out edge by edge, against eap where softmax is straight, and against exact effects."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import MLP, Graph, Logits
from subcircuit.model import Transformer
from subcircuit.model.attention import PARTS, mix, post_norm_scale, project, write_out
from subcircuit.model.components import embed, unembed
from subcircuit.model.transformer import feed_forward
from subcircuit.search import Problem
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.eap import Eap
from subcircuit.units import AttentionUnit
from tests.engine.test_forward import scopes_of
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores_or_refused
from tests.search.test_eap import problems
from tests.tiny_models import FAMILIES, tiny


class Watched:
    """A clean run that keeps what every part reads, with zeros added there and at heads' outputs to differentiate by.

    One layer, or none, writes constants.
    """

    def __init__(self, slow: Autograd, dropped: int | None):
        self.model, self.dropped, self.read, self.zeros = slow.model, dropped, {}, {}
        loss = slow.of_logits(self.run(embed(self.model.config, self.model.weights, slow.task.clean.ids)))
        found = torch.autograd.grad(loss, list(self.zeros.values()), allow_unused=True)
        self.gradients = {
            name: torch.zeros_like(zero) if gradient is None else gradient
            for (name, zero), gradient in zip(self.zeros.items(), found, strict=True)
        }

    def watch(self, name, x):
        self.read[name] = x.detach()
        self.zeros[name] = torch.zeros_like(x, requires_grad=True)
        return x + self.zeros[name]

    def run(self, stream):
        """The whole model, layer by layer."""
        model = self.model
        for layer, weights in enumerate(model.weights.layers):
            attended = stream + self.attend(model, layer, *[stream[None]] * 3).writes.sum(0)
            if weights.attention.b_O is not None:
                attended = attended + weights.attention.b_O
            if model.config.d_mlp:
                read = stream if model.config.parallel else attended
                attended = attended + self.feed_forward(model, layer, read[None])[0]
            stream = attended
        return self.unembed(model.config, model.weights, stream)

    def attend(self, model, layer, q_input, k_input, v_input):
        q_input, k_input, v_input = (x.expand(model.config.n_heads, *x.shape[1:]) for x in (q_input, k_input, v_input))
        self.read[f"q{layer}"], self.read[f"k{layer}"] = q_input.detach(), k_input.detach()
        out = self.watch(f"heads{layer}", heads(model, layer, q_input, k_input, self.watch(f"v{layer}", v_input)))
        scale = post_norm_scale(model, model.weights.layers[layer].attention_post_norm, out.sum(0))
        writes = out if scale is None else out * scale
        return SimpleNamespace(writes=writes.detach() if layer == self.dropped else writes)

    def feed_forward(self, model, layer, x):
        written = feed_forward(model, layer, self.watch(f"mlp{layer}", x))
        return written.detach() if layer == self.dropped else written

    def unembed(self, config, weights, x):
        return unembed(config, weights, self.watch("logits", x))


def heads(model, layer, *inputs):
    """What heads write before any post-norm, each from inputs of its own."""
    positions, all_heads = torch.arange(inputs[0].shape[2]), tuple(range(model.config.n_heads))
    q, k, v = (project(model, layer, part, x, positions, all_heads) for part, x in zip(PARTS, inputs, strict=True))
    return write_out(model, layer, mix(model, layer, q, k, v), all_heads)


def per_example(x):
    return x.sum((-2, -1))


def inputs_of_heads(graph: Graph, layer: int) -> dict[str, list[int]]:
    """The reader of every head's query, key and value."""
    index = graph.unit_index[f"a{layer}"]
    unit, first = graph.units[index], graph.readers_in[index][0]
    assert isinstance(unit, AttentionUnit)
    return {part: [first + reader for reader in readers] for part, readers in unit.inputs.items()}


def effect_of_edge(graph: Graph, run: Watched, writer: int, reader, change) -> torch.Tensor:
    """The effect of one edge on each example."""
    match reader:
        case Logits():
            return per_example(change * run.gradients["logits"])
        case MLP(layer):
            return per_example(change * run.gradients[f"mlp{layer}"][0])
        case _:
            layer = reader.layer
            inputs, column = inputs_of_heads(graph, layer), graph.reader_index[reader]
            mine = {part: [head for head, other in enumerate(inputs[part]) if other == column] for part in PARTS}
            total = per_example(change * run.gradients[f"v{layer}"][mine["v"]].sum(0))
            moved = {part: run.read[f"{part}{layer}"].clone() for part in PARTS}
            for part in ("q", "k"):
                moved[part][mine[part]] += change
            out = heads(run.model, layer, *(moved[part] for part in PARTS))
            return total + per_example((out - run.read[f"heads{layer}"]) * run.gradients[f"heads{layer}"]).sum(0)


def slowly(problem: Problem, grad_drop: bool) -> torch.Tensor:
    """Every edge on its own, in a run for every layer that is dropped."""
    model, graph = problem.model, problem.graph
    slow = Autograd(problem)
    changes, layers = slow.ablated - slow.clean, range(model.config.n_layers)
    runs = [Watched(slow, dropped) for dropped in (layers if grad_drop else [None])]
    scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
    with torch.no_grad():
        for writer, reader in graph.edges.nonzero().tolist():
            node = graph.readers[reader]
            effects = [
                effect_of_edge(graph, run, writer, node, changes[writer])
                for run in runs
                if run.dropped is None or run.dropped != getattr(node, "layer", None)
            ]
            each = torch.stack(effects)
            scores[writer, reader] = each.abs().mean(0).sum() if grad_drop else each.sum()
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data(), grad_drop=st.booleans())
def test_scores_equal_the_definition_edge_by_edge(family, data, grad_drop):
    problem = data.draw(problems(family))
    config = AtpStar(grad_drop, batch_size=data.draw(st.sampled_from([None, 1, 2])))
    assert_scores_or_refused(lambda: config.search(problem), slowly(problem, grad_drop))


def with_twins(model: Transformer, distance: float) -> Transformer:
    """Tokens 2n and 2n + 1 are nearly the same."""
    W_E = model.weights.W_E.clone()
    W_E[1::2] = W_E[:-1:2] + distance * W_E[1::2]
    return replace(model, weights=replace(model.weights, W_E=W_E))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_small_changes_score_as_their_slopes(family):
    # where softmax and norms are straight
    model = with_twins(tiny(family, dtype=torch.float64), 1e-5)
    problem = random_problem(model, Graph.of(model.config), 11, [5, 6], 1, "probability_difference", "resample")
    clean = problem.task.clean
    twins = (clean.ids ^ 1).clamp(max=model.config.vocab - 1)
    problem = replace(problem, task=replace(problem.task, corrupted=replace(clean, ids=twins)))
    for scope in scopes_of(family)[:4]:
        graph = Graph.of(model.config, scope)
        at_scope = replace(problem, graph=graph)
        expected = Eap().search(at_scope).scores.double()
        scores = AtpStar(grad_drop=False).search(at_scope).scores.double()
        size = float(expected[graph.edges].abs().max())
        assert 1e-9 < size < 1e-3
        torch.testing.assert_close(scores[graph.edges], expected[graph.edges], atol=1e-3 * size, rtol=0)


def sharpened(model: Transformer, factor: float) -> Transformer:
    """Queries and keys scaled up: attention looks at single positions."""

    def scaled(layer):
        w = layer.attention
        bigger = {name: None if getattr(w, name) is None else getattr(w, name) * factor for name in ("W_Q", "W_K", "b_Q", "b_K")}
        return replace(layer, attention=replace(w, **bigger))

    return replace(model, weights=replace(model.weights, layers=tuple(map(scaled, model.weights.layers))))


def exact_effects(problem, readers):
    """The loss without each edge into these readers, less the loss of the model."""
    graph = problem.graph
    slow, effects = Autograd(problem), torch.zeros(graph.edges.shape, dtype=torch.float64)
    with torch.no_grad():
        whole = slow.loss(graph.edges)
        for writer, reader in graph.edges.nonzero().tolist():
            if reader in readers:
                cut = graph.edges.clone()
                cut[writer, reader] = False
                effects[writer, reader] = slow.loss(cut) - whole
    return effects


def of_queries_and_keys(graph, layer):
    inputs = inputs_of_heads(graph, layer)
    return [reader for pair in zip(inputs["q"], inputs["k"], strict=True) for reader in pair]


def test_behind_a_saturated_softmax_what_is_straight_after_it_is_exact():
    # neither norms nor MLPs: behind the last layer's pattern the logits are linear
    model = sharpened(tiny("attention_only_bare", dtype=torch.float64), 3)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [6, 7], 1, "logit_difference", "resample")
    readers = of_queries_and_keys(graph, 1)
    exact = exact_effects(problem, readers)[:, readers]
    scores = AtpStar(grad_drop=False).search(problem).scores.double()[:, readers].nan_to_num()
    torch.testing.assert_close(scores, exact, atol=1e-6, rtol=1e-5)
    slopes = Eap().search(problem).scores.double()[:, readers].nan_to_num()
    assert float((slopes - exact).abs().sum()) > 0.5 * float(exact.abs().sum())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "pythia"])
def test_behind_a_saturated_softmax_scores_are_much_nearer_than_slopes(family):
    model = sharpened(tiny(family, dtype=torch.float64), 2.5)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [6, 7], 1, "logit_difference", "resample")
    readers = of_queries_and_keys(graph, 2)
    exact = exact_effects(problem, readers)
    scores = AtpStar(grad_drop=False).search(problem).scores.nan_to_num()
    slopes = Eap().search(problem).scores.nan_to_num()
    errors = [float((found - exact)[:, readers].abs().sum()) for found in (scores, slopes)]
    assert errors[0] < 0.4 * errors[1]


def first_layer_of(model: Transformer) -> Transformer:
    """The model without its later layers."""
    config = replace(model.config, n_layers=1, rotary=model.config.rotary[:1], windows=model.config.windows[:1])
    return replace(model, config=config, weights=replace(model.weights, layers=(model.weights.layers[0],)))


def test_grad_drop_finds_effects_that_cancel():
    # the second layer looks at its own position and takes back all that it finds there
    model = tiny("attention_only_bare", dtype=torch.float64)
    whole = torch.eye(32, dtype=torch.float64).view(4, 8, 32)
    back = replace(model.weights.layers[1].attention, W_V=whole, W_O=-whole, b_V=None)
    layers = (model.weights.layers[0], replace(model.weights.layers[1], attention=back))
    model = replace(model, config=replace(model.config, windows=(None, 1)), weights=replace(model.weights, layers=layers))
    graph, direct = Graph.of(model.config), first_layer_of(model)
    problem = random_problem(model, graph, 3, [6, 5], 1, "logit_difference", "resample")
    into_first = [r for r, reader in enumerate(graph.readers) if str(reader).startswith("a0")]
    signed, sizes = (AtpStar(drop).search(problem).scores[0, into_first] for drop in (False, True))
    expected = AtpStar().search(replace(problem, model=direct, graph=Graph.of(direct.config))).scores[0, into_first]
    assert float(signed.abs().max()) < 1e-12
    assert float(expected.min()) > 1e-4
    torch.testing.assert_close(sizes, expected)


def test_a_model_of_one_layer_has_nothing_to_drop():
    model = first_layer_of(tiny("llama", dtype=torch.float64))
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 3, [6], 1, "logit_difference", "zero")
    signed = AtpStar(grad_drop=False).search(problem).scores[graph.edges]
    assert bool((signed < 0).any())
    assert torch.equal(AtpStar().search(problem).scores[graph.edges], signed.abs())


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2"])
def test_other_precisions_are_near_and_batches_change_nothing(family, dtype, tolerance):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [6, 5, 7], 1, "logit_difference", "mean")
    expected, rounded = AtpStar().search(problem).scores[graph.edges], replace(problem, model=precise.to(dtype=dtype))
    for batch_size in (None, 2):
        values = AtpStar(batch_size=batch_size).search(rounded).scores[graph.edges]
        assert float((values - expected).abs().max()) < tolerance * float(expected.abs().max())


@pytest.mark.slow
def test_patterns_of_a_few_writers_at_a_time_are_those_of_all(monkeypatch):
    model = tiny("gemma3", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 7, [6, 5], 1, "logit_difference", "mean")
    together = AtpStar().search(problem).scores[graph.edges]
    # by its name, the package holds the function
    monkeypatch.setattr(import_module("subcircuit.search.atp_star"), "_NUMBERS_AT_ONCE", 1500)
    torch.testing.assert_close(AtpStar().search(problem).scores[graph.edges], together)


def test_progress_adds_up():
    model = tiny("qwen2")
    problem, rounds = random_problem(model, Graph.of(model.config), 1, [6, 5, 4], 1, "logit_difference", "zero"), []
    AtpStar(batch_size=2).search(problem, rounds.append)
    assert [(r.done, r.total) for r in rounds] == [(2, 3), (3, 3)]


def test_what_cannot_be_scored_is_refused():
    model = tiny("llama")
    graph = Graph.of(model.config)
    with pytest.raises(SettingsError, match="accuracy is a count"):
        AtpStar().search(random_problem(model, graph, 1, [6], 1, "accuracy", "resample"))
    with pytest.raises(SettingsError, match="at least 1"):
        AtpStar(batch_size=0)
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="nan"):
        AtpStar().search(random_problem(model, graph, 1, [6], 1, "logit_difference", "zero"))
