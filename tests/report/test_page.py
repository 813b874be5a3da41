"""What stands in a page: rankings, packed numbers, patterns and effects, against slow ways to the same."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from subcircuit.engine.plain_run import attention_patterns
from subcircuit.errors import CircuitFileError, GraphError, OutputError
from subcircuit.evaluate import direct_effects
from subcircuit.explain import Component, Explanation
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.model import LayerNorm, Transformer
from subcircuit.model.components import norm_eps, unembed
from subcircuit.report.page import (
    Ranking,
    Shown,
    page_document,
    read_labels,
    report_document,
    report_html,
    script,
    sizes,
    write_report,
)
from subcircuit.report.page.arrays import packed, quantised, unpacked
from subcircuit.report.page.html import MODULES, inert_json, static
from subcircuit.search import Eap, effects_by_example, warnings_of
from tests.graph.strategies import record
from tests.problems import random_kept, random_problem
from tests.tiny_models import tiny, tiny_hf

FAMILIES = ("gpt2", "llama_gqa", "gemma2", "pythia")


@pytest.mark.slow
@given(st.integers(0, 100), st.none() | st.integers(0, 40), st.floats(0, 1))
def test_a_ranking_holds_every_kept_edge_and_the_strongest_others(seed: int, most: int | None, share: float) -> None:
    graph = Graph.of(tiny("attention_only").config, Scope("head"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(seed))
    scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.2] = float("nan")
    circuit = Circuit(graph, random_kept(graph.edges, seed, share), scores)
    ranking = Ranking.of(circuit, most)
    size = lambda name: abs(float(scores[graph.find(name)]))  # noqa: E731
    names = [f"{graph.writers[w]}->{graph.readers[r]}" for w, r in zip(ranking.writers, ranking.readers, strict=True)]
    assert {name for name, kept in zip(names, ranking.kept, strict=True) if kept} == set(circuit.names)
    others = [name for name in Circuit.full(graph).names if name not in circuit.names and size(name) == size(name)]
    room = len(others) if most is None else max(0, most - circuit.n_edges)
    assert {n for n, kept in zip(names, ranking.kept, strict=True) if not kept} == set(sorted(others, key=size)[::-1][:room])
    known = [size(name) for name in names if size(name) == size(name)]
    assert known == sorted(known, reverse=True)
    assert all(size(name) != size(name) for name in names[len(known) :])


@pytest.mark.slow
@pytest.mark.parametrize("kept_only", [True, False])
@pytest.mark.parametrize(("seed", "share"), [(0, 0.5), (1, 0.2), (2, 0.9)])
def test_the_slider_leaves_what_pruning_leaves_of_the_strongest_edges(seed: int, share: float, kept_only: bool) -> None:
    graph = Graph.of(tiny("llama_gqa").config, Scope("head"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(seed))
    circuit = Circuit(graph, random_kept(graph.edges, seed, share), scores)
    ranking = Ranking.of(circuit)
    strongest = sorted((circuit if kept_only else Circuit.full(graph)).names, key=lambda name: -abs(scores[graph.find(name)]))
    pruned = [Circuit.of_edges(graph, strongest[:length]).prune() for length in range(len(strongest) + 1)]
    found = {one.n_edges: one.kept for one in pruned}
    assert ranking.count(kept_only) == max(found)
    for edges in (0, 1, 2, 3, 10, 50, len(strongest)):
        size = max(size for size in found if size <= edges)
        assert torch.equal(ranking.mask(graph, edges, kept_only), found[size])
        assert ranking.nearest(edges, kept_only) == (size or min([size for size in found if size], default=0))


@given(arrays.arrays(np.float64, (3, 7), elements=st.floats(-1e6, 1e6)))
def test_quantised_rows_are_off_by_no_more_than_they_say(values: np.ndarray) -> None:
    content = quantised(values)
    back = unpacked(content).reshape(3, 7) * np.array(content["scale"])[:, None]
    assert (np.abs(back - values) <= np.abs(values).max(1, keepdims=True) / 65_534 + 1e-12).all()
    assert (unpacked(packed(values.astype(np.float32))) == values.astype(np.float32).ravel()).all()


@given(st.integers(0, 10**6), st.integers(2, 30))
def test_sizes_begin_at_one_edge_and_end_with_all(count: int, points: int) -> None:
    chosen = sizes(count, points)
    assert chosen[-1] == count
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= points
    assert count < 2 or chosen[0] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_those_that_transformers_reports(family: str) -> None:
    model = tiny(family)
    problem = random_problem(model, Graph.of(model.config), 1, [6, 6], 1, "logit_difference", "resample")
    theirs = tiny_hf(family)(problem.task.clean.ids, output_attentions=True).attentions
    for ours, other in zip(attention_patterns(model, problem.task.clean), theirs, strict=True):
        torch.testing.assert_close(ours.transpose(0, 1), other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "pythia", "attention_only"])
def test_direct_effects_and_what_belongs_to_no_writer_add_up_to_the_logit_difference(family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    task = random_problem(model, graph, 2, [4, 6], 1, "logit_difference", "resample").task
    for corrupted in (False, True):
        direct = direct_effects(model, graph, task, corrupted=corrupted)
        tokens, answers = (task.corrupted if corrupted else task.clean), task.answers
        logits = model(tokens)[answers.example, answers.pos]
        for example in range(len(task)):
            right, wrong = answers.correct[example, 0], answers.wrong[example][answers.wrong_mask[example]]
            difference = logits[example, right] - logits[example, wrong].mean()
            # the same with nothing in the stream: the biases of the final norm and of the unembedding
            stream = model.stream(tokens)[example, answers.pos[example]]
            zero = unembed(model.config, model.weights, torch.zeros_like(stream)[None])[0]
            biases = zero[right] - zero[wrong].mean()
            written = sum(
                (layer.attention.b_O for layer in model.weights.layers if layer.attention.b_O is not None), torch.zeros(())
            )
            no_writer = _through_norm(model, stream, written, right, wrong)
            assert float(direct[:, example].sum() + biases + no_writer) == pytest.approx(float(difference), abs=1e-8)


def _through_norm(model: Transformer, stream: Tensor, vector: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """A vector's part of the logit difference, by the final norm's scale at a stream, written out for both norms."""
    gain, norm, W_U = model.weights.final_norm.gain, model.config.norm, model.weights.W_U
    centred = stream - stream.mean() if isinstance(norm, LayerNorm) else stream
    vector = vector - vector.mean() if isinstance(norm, LayerNorm) else vector
    scaled = vector / torch.sqrt(centred.square().mean() + norm_eps(norm)) * (1 if gain is None else gain)
    return (scaled * (W_U[right] - W_U[wrong].mean(0))).sum()


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean-by-position"])
def test_effects_by_example_are_those_of_the_example_alone_and_average_to_eap(ablation: str) -> None:
    model = tiny("llama_gqa")
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [4, 6, 5], 2, "logit_difference", ablation)
    rows = list(effects_by_example(problem))
    mean = torch.stack(rows).mean(0).masked_fill(~graph.edges, float("nan")).float()
    torch.testing.assert_close(mean, Eap().search(problem).scores, equal_nan=True, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(rows[0], rows[1])


def test_a_report_is_small_and_holds_nothing_of_this_machine(tmp_path: Path) -> None:
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    shown = Shown("one", Circuit(graph, graph.edges, torch.randn(graph.edges.shape)), {})
    file = write_report(report_document([shown], [None]), tmp_path / "deep" / "circuit.html")
    text = file.read_text()
    assert file.stat().st_size < 200_000
    assert str(tmp_path) not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(OutputError, match="exists"):
        write_report(report_document([shown], [None]), file)
    assert [left.name for left in file.parent.iterdir()] == ["circuit.html"]


@given(st.text())
def test_data_cannot_end_the_element_that_holds_it(text: str) -> None:
    written = inert_json({"word": text + "</script><!--\u2028&amp;"})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"word": text + "</script><!--\u2028&amp;"}
    assert "{tail}" in static("page.html")
    assert "<title>&lt;b&gt;</title>" in report_html("<b>", {})


def test_modules_import_from_those_before_them_and_no_name_is_taken_twice() -> None:
    names: list[str] = []
    for index, module in enumerate(MODULES):
        source = static(f"{module}.js")
        assert set(re.findall(r'from "\./([a-z]+)\.js"', source)) <= set(MODULES[:index]), module
        for line in re.findall(r"^(?:export )?(?:async )?(?:function|const|let) .*", source, re.MULTILINE):
            names += re.findall(
                r"(?:function|const|let|, ) ?([A-Za-z_]+)(?= =|\()" if "function" not in line else r"function ([A-Za-z_]+)", line
            )
    assert len(names) == len(set(names))
    assert "import " not in re.sub(r"//.*", "", script())
    assert "innerHTML" not in script()


def test_what_was_explained_is_read_and_what_is_damaged_refused(tmp_path: Path) -> None:
    assert read_labels(tmp_path) == {}
    components = {"m0": Component(kind="MLP", label="name mover", evidence="writes names")}
    Explanation(model="one", task="two", examples=1, roles=(), logit_difference=1.0, thresholds={}, components=components).save(
        tmp_path
    )
    assert read_labels(tmp_path) == {"m0": {"label": "name mover", "evidence": "writes names"}}
    (tmp_path / "explanation.json").write_text('{"format": 9}')
    with pytest.raises(CircuitFileError, match="newer"):
        read_labels(tmp_path)


def test_what_the_search_warned_of_is_told_once(tmp_path: Path) -> None:
    graph, known = Graph.of(tiny("gpt2").config), record()
    method = known.method.model_copy(update={"parameters": {"select": "top-n", "n": 2, "by": "absolute"}})
    said = known.model_copy(update={"method": method, "results": {**known.results, "edges_selected": 2}})
    empty = replace(Circuit.empty(graph), record=said)
    (part,) = page_document([Shown("empty", empty, {})], [Ranking.of(empty)])["circuits"]
    assert part["warnings"] == list(warnings_of(empty))
    assert "the circuit is empty" in part["warnings"][0]
    assert "the circuit is empty" not in str(part["rows"])


def test_circuits_of_different_graphs_are_not_shown_together() -> None:
    shown = [Shown(f, Circuit.full(Graph.of(tiny(f).config)), {}) for f in ("gpt2", "attention_only")]
    with pytest.raises(GraphError, match="different graphs"):
        page_document(shown, [Ranking.of(one.circuit) for one in shown])
