"""The numbers of an explanation, against their definitions written out."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.explain.explain import explain_circuit
from subcircuit.explain.heads import carried, growth, looks, mechanisms, token_sets
from subcircuit.explain.observe import Observation, at_answers, directions, neurons_at_work, observe, written
from subcircuit.graph import MLP, Circuit, Graph, Head, Scope
from subcircuit.model import Tokens, Transformer
from subcircuit.model.components import normalize
from subcircuit.tasks import Roles, Task
from tests.oracles import NodeByNode, norm
from tests.problems import random_task
from tests.tiny_models import FAMILIES, tiny

LENGTHS = [6, 9, 7]


def watched(family: str, steps: int = 5) -> tuple[Transformer, Task, Observation]:
    model = tiny(family)
    task = random_task(model, 1, LENGTHS)
    return model, task, observe(model, task, steps=steps)


def scores(model: Transformer, task: Task, ids: list[int], example: int) -> Tensor:
    """Right less wrong logits of a prompt at its example's answer, soft caps and the unembedding's bias left out."""
    x = norm(model, model.stream(Tokens.from_lists([ids])), model.weights.final_norm)[0]
    a, (row,) = task.answers, (task.answers.example == example).nonzero().flatten().tolist()
    logits = x[a.pos[row]] @ model.weights.W_U.T
    return logits[a.correct[row][a.correct_mask[row]]].mean() - logits[a.wrong[row][a.wrong_mask[row]]].mean()


def difference(model: Transformer, task: Task, prompts: Tokens) -> float:
    return float(torch.stack([scores(model, task, ids, i) for i, ids in enumerate(prompts.to_lists())]).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_direct_effects_and_biases_sum_to_the_logit_difference(family: str):
    model, task, seen = watched(family)
    assert seen.difference == pytest.approx(difference(model, task, task.clean), abs=1e-4)
    rest = 0.0
    for layer in model.weights.layers:
        if layer.attention.b_O is not None:
            rest += float(task.answers.mean(at_answers(seen) @ layer.attention.b_O))
    if model.weights.final_norm.bias is not None:
        rest += float(task.answers.mean(directions(model, task.answers) @ model.weights.final_norm.bias))
    assert float(seen.direct.sum()) + rest == pytest.approx(seen.difference, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "attention_only"])
def test_the_embeddings_effect_is_all_that_corruption_does(family: str):
    """The path integral along the embedding: exact in the limit of many steps (Hanna et al. 2024)."""
    model, task, seen = watched(family, steps=60)
    lost = difference(model, task, task.clean) - difference(model, task, task.corrupted)
    assert float(seen.node_effects[0].sum()) == pytest.approx(lost, abs=0.05 * max(1.0, abs(lost)))


@pytest.mark.parametrize("family", ["llama_gqa", "pythia", "gemma2"])
def test_a_nodes_effect_is_that_of_the_edges_out_of_it(family: str):
    _, _, seen = watched(family)
    assert torch.allclose(seen.node_effects.sum((1, 2)), seen.edge_effects.sum(1), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=8))
def test_keys_are_what_they_are_to_their_queries(ids: list[int]):
    sets = token_sets(Tokens.from_lists([ids]))
    for q, k in product(range(len(ids)), repeat=2):
        expected = {
            "previous": k == q - 1,
            "same": k < q and ids[k] == ids[q],
            "after same": 0 < k < q and ids[k - 1] == ids[q],
            "repeated": k < q and ids[k] in ids[:k],
            "self": k == q,
            "first": k == 0,
        }
        assert {name: bool(keys[0, q, k]) for name, keys in sets.items()} == expected


@pytest.mark.parametrize("family", ["llama_gqa", "gemma3", "bidirectional"])
def test_attention_is_summed_by_role_and_by_kind_of_key(family: str):
    model = tiny(family)
    task = random_task(model, 3, LENGTHS)
    lengths = task.clean.lengths.tolist()
    named = [{"A": [0, 2], "B": [length - 1]} for length in lengths]
    task = Task(**{**vars(task), "roles": Roles.from_positions(named, lengths)})
    seen = observe(model, task)
    summed = looks(seen)
    for layer, head in product(range(model.config.n_layers), range(model.config.n_heads)):
        onto: dict[tuple[str, str], list[float]] = {}
        right: list[float] = []
        for example, (length, places) in enumerate(zip(lengths, named, strict=True)):
            pattern = seen.patterns[layer][head, example]
            role = {p: name for name, positions in places.items() for p in positions}
            answers = task.answers.correct[example][task.answers.correct_mask[example]].tolist()
            for q, name in product(range(length), ("A", "B", "rest")):
                keys = [k for k in range(length) if role.get(k, "rest") == name]
                onto.setdefault((role.get(q, "rest"), name), []).append(float(pattern[q, keys].sum()))
            keys = [k for k in range(length) if int(task.clean.ids[example, k]) in answers]
            right += [float(pattern[length - 1, keys].sum())] if keys else []
        for (query, key), masses in onto.items():
            place = task.roles.names.index(query), task.roles.names.index(key)  # pyright: ignore[reportOptionalMemberAccess]
            assert float(summed.by_role[layer][head][place]) == pytest.approx(sum(masses) / len(masses), abs=1e-5)
        found = float(summed.at_role[layer]["right"][head, task.roles.names.index("B")])  # pyright: ignore[reportOptionalMemberAccess]
        assert found == pytest.approx(sum(right) / len(right), abs=1e-5) if right else found != found


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "gemma3"])
def test_scores_by_weights_are_those_of_the_whole_matrices(family: str):
    model, _, seen = watched(family)
    config, W_E, W_U = model.config, model.weights.W_E, model.weights.W_U
    tokens = carried(seen, top=40)
    for layer in range(2):
        w = model.weights.layers[layer]
        for head, found in enumerate(mechanisms(model, layer, range(config.n_heads), tokens)):
            kv, gain = head // config.heads_per_kv, w.attention_norm.gain
            read = W_E if gain is None else W_E * gain
            ov = read @ w.attention.W_V[kv].T @ w.attention.W_O[head]
            post = None if w.attention_post_norm is None else w.attention_post_norm.gain
            ov = ov if post is None else ov * post
            ov = (ov if model.weights.final_norm.gain is None else ov * model.weights.final_norm.gain) @ W_U.T
            qk = read @ w.attention.W_Q[head].T @ w.attention.W_K[kv] @ read.T
            for matrix, score in ((ov, found.ov_copying), (qk, found.qk_matching)):
                values = torch.linalg.eigvals(matrix.double())
                assert score == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-3)
            copied = []
            for token, row in zip(tokens.ids.tolist(), tokens.stream[min(layer, 1)], strict=True):
                written_ = norm(model, row, w.attention_norm) @ w.attention.W_V[kv].T @ w.attention.W_O[head]
                written_ = written_ if w.attention_post_norm is None else norm(model, written_, w.attention_post_norm)
                logits = norm(model, written_, model.weights.final_norm) @ W_U.T
                copied.append(token in logits.topk(tokens.top).indices.tolist())
            assert found.copies == pytest.approx(sum(copied) / len(copied))


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_what_is_written_moves_these_logits_most(family: str):
    model, task, seen = watched(family)
    row = seen.graph.writer_index[Head(1, 0)]
    changes = []
    for example, ids in enumerate(task.clean.to_lists()):
        stream, at = seen.streams[0][-1][example], len(ids) - 1
        whole, without = (normalize(x[at], model.config.norm, model.weights.final_norm) for x in (stream, stream))
        assert torch.equal(whole, without)
        # linear: the Jacobian's product along the write, with the scale's own gradient taken out by hand
        scale = stream[at].var(correction=0) if family == "gpt2" else stream[at].square().mean()
        value = seen.values[row, example, at]
        value = value - value.mean() if family == "gpt2" else value
        gain = model.weights.final_norm.gain
        assert gain is not None
        changes.append(value / (scale + model.config.norm.eps).sqrt() * gain)  # pyright: ignore[reportAttributeAccessIssue]
    logits = model.weights.W_U @ torch.stack(changes).mean(0)
    found = written(seen, [row], "END")
    assert list(found.up) == logits.topk(5).indices.tolist()
    assert list(found.down) == (-logits).topk(5).indices.tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_neurons_share_the_effect_of_their_mlp(family: str):
    model, task, seen = watched(family)
    for layer in range(model.config.n_layers):
        everyone = neurons_at_work(seen, MLP(layer), count=model.config.d_mlp)
        total = float(seen.node_effects[seen.graph.writer_index[MLP(layer)]].sum())
        assert [abs(one.effect) for one in everyone] == sorted((abs(one.effect) for one in everyone), reverse=True)
        if family != "gemma3":
            # what neurons write is linear in their activations but for the post-norm
            assert sum(one.effect for one in everyone) == pytest.approx(total, abs=1e-3)
        best = everyone[0]
        assert set(best.fires_on) <= {token for ids in task.clean.to_lists() for token in ids}


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "pythia", "attention_only"])
def test_backup_is_what_direct_effects_gain_when_heads_are_corrupted(family: str):
    model, task, seen = watched(family)
    graph, movers = seen.graph, [Head(0, 1), Head(1, 0)]
    kept = graph.edges.clone()
    kept[[graph.writer_index[head] for head in movers]] = False
    grown, expected, at = growth(seen, movers), torch.zeros(len(graph.writers)), at_answers(seen)
    for example, (clean, corrupted) in enumerate(zip(task.clean.to_lists(), task.corrupted.to_lists(), strict=True)):
        full = NodeByNode(model, graph, graph.edges, torch.zeros(len(graph.writers), len(clean), model.config.d_model))
        ablated = torch.stack(list(full.run(corrupted)[0].values()))
        values = torch.stack(list(NodeByNode(model, graph, kept, ablated).run(clean)[0].values()))
        values[[graph.writer_index[head] for head in movers]] = ablated[[graph.writer_index[head] for head in movers]]
        expected += (values[:, len(clean) - 1] - seen.values[:, example, len(clean) - 1]) @ at[example] / len(task)
    heads = [w for w, writer in enumerate(graph.writers) if isinstance(writer, Head)]
    assert torch.allclose(grown[heads].float(), expected[heads], atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "scope"),
    [
        ("llama_gqa", Scope("qkv", "grouped")),
        ("gemma2", Scope("block")),
        ("gemma2", Scope("qkv", overrides=(("m1", "neuron"),))),
        ("pythia", Scope("head", overrides=(("a1", "block"), ("m0", "neuron")))),
        ("mixtral", Scope("qkv")),
        ("gpt2", Scope("block", split_embeddings=True)),
        ("attention_only", Scope("head")),
    ],
)
def test_every_scope_and_family_is_explained(family: str, scope: Scope):
    model = tiny(family)
    task = random_task(model, 2, LENGTHS)
    graph = Graph.of(model.config, scope)
    explanation = explain_circuit(model, Circuit.full(graph), task)
    assert list(explanation.components) == [str(node) for node in Circuit.full(graph).nodes]
    fine = explain_circuit(model, Circuit.full(Graph.of(model.config)), task)
    for name, one in explanation.components.items():
        if one.reads:
            assert sum(route.share for route in one.reads) == pytest.approx(1)
        if one.kind == "attention block" and name.startswith("a"):
            heads = [other.effect or 0 for part, other in fine.components.items() if part.startswith(f"{name}.h")]
            assert one.effect == pytest.approx(sum(heads), abs=1e-4)
            assert one.strongest_head is not None and one.evidence.startswith(one.strongest_head)
