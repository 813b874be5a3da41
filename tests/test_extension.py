"""A method, a metric, a task, an ablation, a level and a family of models from outside, by the public API alone, go wherever the package's own go."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import subcircuit as sc
from subcircuit.engine import run_circuit, writer_values
from subcircuit.model.components import unembed
from subcircuit.search import zoom
from tests.problems import random_task
from tests.tiny_models import tiny

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class EarlyFirst(sc.Method):
    """A ranking: edges out of early writers first."""

    name = "early-first"
    meaning = "how early the writer is"

    scale: float = 1.0

    def check(self, problem: sc.Problem) -> None:
        if problem.metric.name == "accuracy":
            raise sc.SettingsError("early-first does not go with accuracy")

    def search(self, problem: sc.Problem, progress: object = None, journal: object = None) -> sc.Result:
        def scores() -> torch.Tensor:
            writers, readers = problem.graph.edges.shape
            return self.scale * torch.arange(float(writers), 0.0, -1.0)[:, None].expand(writers, readers)

        return sc.scored(problem, scores, {"writers": float(len(problem.graph.writers))})


@dataclass(frozen=True)
class Skipping(sc.Method):
    """Decides itself: every edge that skips at least so many units."""

    name = "skipping"
    ranks = False

    units: int = 2

    def search(self, problem: sc.Problem, progress: object = None, journal: object = None) -> sc.Result:
        def kept() -> torch.Tensor:
            graph = problem.graph
            made = torch.tensor(
                [next((u for u, ws in enumerate(graph.writers_in) if w in ws), -1) for w in range(len(graph.writers))]
            )
            return graph.edges & (torch.tensor(graph.unit_of)[None] - made[:, None] > self.units)

        found, seconds, forward_seconds = sc.timed(problem, kept)
        return sc.Result(sc.Circuit(problem.graph, found), seconds, forward_seconds)


@dataclass(frozen=True)
class Plain:
    """A method without the base class: a frozen dataclass with its members."""

    name: ClassVar[str] = "plain"
    description: ClassVar[str] = ""
    meaning: ClassVar[str | None] = None
    ranks: ClassVar[bool] = True

    def check(self, problem: sc.Problem) -> None:
        pass

    def search(self, problem: sc.Problem, progress: object = None, journal: object = None) -> sc.Result:
        return EarlyFirst().search(problem)

    def cost(self, problem: sc.Problem, patience: float = 60.0) -> Any:
        return EarlyFirst().cost(problem)

    def memory(self, problem: sc.Problem) -> Any:
        return EarlyFirst().memory(problem)

    def at(self, thresholds: object) -> "dict[float | None, sc.Method]":
        return {None: self}


def margin(logits: torch.Tensor) -> torch.Tensor:
    """A metric: how far the likeliest token is ahead of the second."""
    first, second = logits.topk(2).values.unbind(-1)
    return first - second


@pytest.fixture(scope="module")
def model() -> sc.Transformer:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def task(model: sc.Transformer) -> sc.Task:
    """A task: the answer is the token that comes first."""
    clean, corrupted = ([[first + i, 7, 11 + i] for i in range(4)] for first in (2, 6))
    answers = [sc.Answer(i, 2, (clean[i][0],), (corrupted[i][0],)) for i in range(4)]
    return sc.build_task_of_ids("first-token", clean, corrupted, answers, model, parameters={"prompts": 4})


@pytest.mark.slow
@pytest.mark.parametrize("method", [EarlyFirst(2.0), Skipping(), Plain()], ids=lambda method: method.name)
def test_a_method_from_outside_is_found_with_recorded_and_evaluated(
    model: sc.Transformer, task: sc.Task, method: sc.Method, tmp_path: Path
) -> None:
    found = sc.discover(model, task, method, metric=margin, scope="block", selection=8 if method.ranks else None)
    found.circuit.save(tmp_path / "circuit")
    loaded = sc.Circuit.load(tmp_path / "circuit")
    assert loaded == found.circuit and loaded.record is not None
    assert loaded.record.method.name == method.name
    assert loaded.record.metric == "function margin" and loaded.record.task.name == "first-token"
    assert (
        loaded.record.method.parameters.items()
        >= {"early-first": {"scale": 2.0}, "skipping": {"units": 2}}.get(method.name, {}).items()
    )
    assert found.circuit.n_edges and found.faithfulness is not None
    problem = sc.Problem.of(model, task, margin, circuit=loaded)
    assert sc.estimate(problem, method).method == method.name
    assert sc.evaluate_circuit(problem, loaded).means["metric_circuit"] == pytest.approx(found.metric_circuit, abs=1e-5)
    assert (sc.write_run(found.circuit, tmp_path / "run") / "circuit.json").is_file()
    assert method.name in str(sc.Summary.of(loaded).rows)


@pytest.mark.slow
def test_methods_from_outside_are_compared_with_the_packages_own(model: sc.Transformer, task: sc.Task) -> None:
    problem = sc.Problem.of(model, task, "kl_divergence", scope="block")
    contest = sc.Contest(problem, problem, thresholds=(0.1, 0.01))
    contenders = [contest.run(method) for method in (EarlyFirst(), Skipping(), sc.Exact(), sc.Acdc())]
    assert [contender.method for contender in contenders] == ["early-first", "skipping", "exact", "acdc"]
    assert [len(contender.points) for contender in contenders] == [10, 1, 10, 2]
    assert contenders[0].notes == {"writers": float(len(problem.graph.writers))}
    counted = replace(problem, metric=sc.metric("accuracy"))
    with pytest.raises(sc.SettingsError, match="does not go with accuracy"):
        sc.Contest(counted, counted).check([EarlyFirst()])


def test_methods_from_outside_are_held_to_known_circuits() -> None:
    known = sc.case("and-gate", sc.Resample())
    for method in (EarlyFirst(), Skipping(), sc.Refine(rounds=1)):
        found = sc.validate(known, method)
        assert found.method == method.name
        assert all(0 <= overlap.recall <= 1 for overlap in found.edges.overlaps)


class Shrunk(sc.Ablation):
    """An ablation: half of the writer's value on the corrupted prompt."""

    name = "shrunk"
    by_prompt = True

    def values(self, model: sc.Transformer, graph: sc.Graph, corrupted: sc.Tokens) -> Tensor:
        return sc.Resample().values(model, graph, corrupted) / 2


@pytest.mark.slow
@pytest.mark.parametrize("method", [sc.Acdc(threshold=0.01), sc.Eap()], ids=lambda method: method.name)
def test_an_ablation_from_outside_is_searched_evaluated_explained_and_saved(
    model: sc.Transformer, task: sc.Task, method: sc.Method, tmp_path: Path
) -> None:
    selection = 12 if method.ranks else None
    found = sc.discover(model, task, method, metric="logit_difference", ablation=Shrunk(), scope="block", selection=selection)
    problem = sc.Problem.of(model, task, "logit_difference", Shrunk(), circuit=found.circuit)
    assert sc.evaluate_circuit(problem, found.circuit).means["metric_circuit"] == pytest.approx(found.metric_circuit, abs=1e-5)
    # with every edge cut, the logits read half of the corrupted run and the biases that belong to no head
    graph = problem.graph
    stream = writer_values(model, graph, task.corrupted).sum(0) / 2
    for layer in model.weights.layers:
        stream = stream if layer.attention.b_O is None else stream + layer.attention.b_O
    logits = unembed(model.config, model.weights, stream)[range(len(task)), task.answers.pos]
    right, wrong = (logits.gather(1, ids) for ids in (task.answers.correct, task.answers.wrong))
    empty = sc.measure(problem, [sc.Circuit.empty(graph)]).circuits
    torch.testing.assert_close(empty[0], (wrong - right).flatten().double(), atol=1e-5, rtol=1e-5)
    if found.circuit.n_edges:
        assert sc.explain_circuit(model, found.circuit, task).components
    found.circuit.save(tmp_path / "circuit")
    loaded = sc.Circuit.load(tmp_path / "circuit")
    assert loaded == found.circuit and loaded.record is not None and loaded.record.ablation == "shrunk"
    with pytest.raises(sc.UnknownNameError, match="shrunk"):
        sc.Problem.of(model, task, circuit=loaded)


def python_of(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


@pytest.fixture(scope="module")
def level() -> dict[str, Any]:
    """The names of the documentation's level of one's own: an MLP in two halves."""
    names: dict[str, Any] = {"__name__": "own_level"}
    exec(python_of("howto/own-level.md")[0], names)
    return names


def of_mlp(model: sc.Transformer, layer: int) -> Any:
    """The weights of a layer of GPT-2, whose MLP is plain."""
    return model.weights.layers[layer]


def test_the_page_about_levels_says_what_its_search_finds(level: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    exec(python_of("howto/own-level.md")[1], dict(level))
    printed = capsys.readouterr().out.strip()
    assert "m0.second" in printed
    assert f"prints `{printed}`" in (ROOT / "docs" / "howto" / "own-level.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def halved(model: sc.Transformer, level: dict[str, Any]) -> sc.Graph:
    """The model's graph, with the first layer's MLP in halves."""
    graph = sc.graph_of(model, "head")
    whole = graph.units[graph.unit_index["m0"]]
    return graph.with_units(level["Halves"](0, whole.clock, model.config.d_mlp))


def test_a_level_from_outside_computes_what_the_model_does(model: sc.Transformer, task: sc.Task, halved: sc.Graph) -> None:
    assert "m0.first->m1" in {str(edge) for edge in sc.Circuit.full(halved).edges}
    ours, theirs = writer_values(model, halved, task.clean), writer_values(model, sc.graph_of(model, "head"), task.clean)
    row = halved.writer_index[halved.writer("m0.first")]
    bias = of_mlp(model, 0).mlp.b_out
    torch.testing.assert_close(ours[row] + ours[row + 1] + (0 if bias is None else bias), theirs[row], atol=1e-5, rtol=1e-5)
    ablated = writer_values(model, halved, task.corrupted)
    torch.testing.assert_close(
        run_circuit(model, halved, halved.edges, task.clean, ablated), model(task.clean), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(sc.GraphError, match="is not a writer"):
        halved.find("m0.third->logits")
    with pytest.raises(sc.GraphError, match="this graph has no unit m0 at clock 5"):
        halved.with_units(replace(halved.units[halved.unit_index["m0"]], clock=5))


@pytest.mark.slow
def test_acdc_at_a_level_from_outside_is_the_sequential_search(model: sc.Transformer, task: sc.Task, halved: sc.Graph) -> None:
    problem = sc.Problem(model.to(dtype=torch.float64), halved, task, sc.metric("logit_difference"))
    found = sc.discover(problem, sc.Acdc(threshold=0.02, whole_input=False))
    kept = halved.edges.clone()
    loss = sc.measure(problem, [sc.Circuit(halved, kept)]).circuits.mean()
    for column in reversed(range(len(halved.readers))):
        for row in reversed(range(halved.n_read(column))):
            kept[row, column] = False
            without = sc.measure(problem, [sc.Circuit(halved, kept)]).circuits.mean()
            kept[row, column], loss = (True, loss) if without - loss >= 0.02 else (False, without)
    assert found.circuit.prune().names == sc.Circuit(halved, kept).prune().names
    assert 0 < found.circuit.n_edges < halved.n_edges


@pytest.mark.slow
@pytest.mark.parametrize("method", [sc.Acdc(threshold=0.01), sc.Eap()], ids=lambda method: method.name)
def test_a_level_from_outside_is_searched_evaluated_explained_drawn_and_saved(
    model: sc.Transformer, task: sc.Task, halved: sc.Graph, method: sc.Method, tmp_path: Path
) -> None:
    problem = sc.Problem(model, halved, task, sc.metric("logit_difference"))
    found = sc.discover(problem, method, selection=30 if method.ranks else None).circuit
    kept = sc.Circuit(
        halved, found.kept | sc.Circuit.of_edges(halved, ["embed->m0.second", "m0.second->logits"]).kept, found.scores
    )
    assert sc.evaluate_circuit(problem, kept).means["metric_model"] == pytest.approx(
        float(sc.measure(problem, [sc.Circuit.full(halved)]).model.mean()) * problem.metric.sign, abs=1e-4
    )
    half = sc.explain_circuit(model, kept, task).components["m0.second"]
    assert half.kind == "half of an MLP" and {one.neuron for one in half.neurons} <= set(
        range(model.config.d_mlp // 2, model.config.d_mlp)
    )
    words = {text.get_text() for text in sc.draw_circuit(kept).axes[0].texts}
    assert "m0" in words and any("drawn as their MLPs" in word for word in words)
    kept.save(tmp_path / "circuit")
    assert sc.Circuit.load(tmp_path / "circuit", halved) == kept
    with pytest.raises(sc.CircuitFileError, match=r"the circuit's graph .head, m0=halves. is not the given graph .head."):
        sc.Circuit.load(tmp_path / "circuit")
    assert (sc.write_run(kept, tmp_path / "run") / "circuit.svg").is_file()


def test_a_zoom_leaves_levels_from_outside_as_they_are(model: sc.Transformer, task: sc.Task, halved: sc.Graph) -> None:
    problem = sc.Problem(model, halved, task, sc.metric("logit_difference"))
    coarse, acdc = sc.discover(problem, sc.Acdc(threshold=0.005)).circuit, sc.Acdc(threshold=0.0)
    head = next(str(node) for node in coarse.nodes if node.layer == 1 and node.column is not None)
    found = zoom(problem, coarse, head, "qkv", acdc).circuit
    elsewhere = {name for name in coarse.names if head not in name}
    assert elsewhere and elsewhere == {name for name in found.names if head not in name}
    assert f"{head}<q>" in {str(reader) for reader in found.graph.readers} and "m0.second" in {
        str(w) for w in found.graph.writers
    }
    whole = sc.Circuit.full(halved)
    with pytest.raises(sc.GraphError, match="m0 is at level halves from outside the package"):
        zoom(problem, whole, "m0", "neuron", acdc)


def test_a_node_from_outside_is_removed_from_the_weights(model: sc.Transformer, task: sc.Task, halved: sc.Graph) -> None:
    from subcircuit.edit import remove_nodes
    from subcircuit.edit.replacement import mean_writes

    half = halved.writer("m0.second")
    gone = remove_nodes(model, [half], None)
    kept = sc.Circuit.full(halved).kept.clone()
    kept[halved.writer_index[half]] = False
    zeros = torch.zeros_like(writer_values(model, halved, task.clean))
    torch.testing.assert_close(gone(task.clean), run_circuit(model, halved, kept, task.clean, zeros), atol=1e-4, rtol=1e-4)
    written = writer_values(model, halved, task.clean)[halved.writer_index[half]]
    torch.testing.assert_close(mean_writes(model, [half], [task.clean])[0], written.mean((0, 1)), atol=1e-5, rtol=1e-5)
    with pytest.raises(sc.EditError, match=r"m0\.second, which is not a head, MLP or neuron"):
        sc.keep(model, sc.Circuit.of_edges(halved, ["embed->m0.second", "m0.second->logits"]), task)


SIZES = {"layers": 2, "heads": 4, "key_heads": 2, "width": 16, "neurons": 24, "tokens": 61, "context": 12}


def config_of(raw: Any) -> sc.TransformerConfig:
    """RMS norms, learned positions, shared keys, squashed logits: no family of the package."""
    return sc.TransformerConfig(
        architecture="sandpiper",
        n_layers=raw.layers,
        n_heads=raw.heads,
        n_kv_heads=raw.key_heads,
        d_model=raw.width,
        d_head=raw.width // raw.heads,
        d_mlp=raw.neurons,
        vocab=raw.tokens,
        context=raw.context,
        norm=sc.RMSNorm(1e-6),
        activation="relu",
        gated=False,
        learned_positions=True,
        rotary=(None,) * raw.layers,
        windows=(None,) * raw.layers,
        attention_scale=(raw.width // raw.heads) ** -0.5,
        logit_softcap=5.0,
    )


SANDPIPER = sc.Family(
    "sandpiper",
    config_of,
    sc.TensorMap(
        tensors=(
            sc.StoredTensor("tokens", ("W_E",)),
            sc.StoredTensor("positions", ("W_pos",)),
            sc.StoredTensor("last.gain", ("final_norm.gain",)),
            sc.StoredTensor("logits", ("W_U",), transposed=True),
        ),
        layer="block{layer}/",
        per_layer=(
            sc.StoredTensor("read.gain", ("attention_norm.gain",)),
            # queries, keys and values in one matrix, as columns
            sc.StoredTensor("read", ("attention.W_Q", "attention.W_K", "attention.W_V"), transposed=True),
            sc.StoredTensor("write", ("attention.W_O",), transposed=True),
            sc.StoredTensor("write.bias", ("attention.b_O",)),
            sc.StoredTensor("in.gain", ("mlp_norm.gain",)),
            sc.StoredTensor("in", ("mlp.W_in",)),
            sc.StoredTensor("in.bias", ("mlp.b_in",)),
            sc.StoredTensor("out", ("mlp.W_out",)),
        ),
        prefix="net/",
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a family that neither the package nor transformers knows."""
    generator, width, neurons = torch.Generator().manual_seed(0), SIZES["width"], SIZES["neurons"]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    of_layer = {"read.gain": (width,), "read": (width, 2 * width), "write": (width, width), "write.bias": (width,)}
    of_layer |= {"in.gain": (width,), "in": (neurons, width), "in.bias": (neurons,), "out": (neurons, width)}
    whole = {"tokens": (61, width), "positions": (12, width), "last.gain": (width,), "logits": (width, 61)}
    shapes = whole | {f"block{layer}/{name}": shape for layer in range(2) for name, shape in of_layer.items()}
    base = tmp_path / "sandpiper"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "sandpiper", "tie_word_embeddings": False} | SIZES))
    save_file({f"net/{name}": random(*shape) for name, shape in shapes.items()}, base / "model.safetensors")
    return base


def test_a_family_from_outside_is_loaded_searched_and_saved(folder: Path, tmp_path: Path) -> None:
    model = sc.load_model(folder, family=SANDPIPER, device="cpu")
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(model.weights.layers[1].attention.W_K.flatten(0, 1), stored["net/block1/read"].mT[16:24])
    task = random_task(model, 1, [6, 5])
    found = sc.discover(model, task, sc.Acdc(threshold=0.01), metric="logit_difference")
    assert 0 < found.circuit.n_edges < sc.graph_of(model).n_edges
    found.circuit.save(tmp_path / "circuit")
    assert sc.Circuit.load(tmp_path / "circuit") == found.circuit
    assert (sc.write_run(found.circuit, tmp_path / "run") / "circuit.json").is_file()


def test_heads_are_removed_from_the_tensors_of_a_family_from_outside(folder: Path, tmp_path: Path) -> None:
    from subcircuit.edit import remove_nodes, write_checkpoint
    from subcircuit.graph import Head

    model = sc.load_model(folder, family=SANDPIPER, device="cpu")
    constants = torch.ones(1, SIZES["width"])
    (tmp_path / "edited").mkdir()
    write_checkpoint(model, [Head(1, 3)], constants, tmp_path / "edited")
    edited = sc.load_model(tmp_path / "edited", family=SANDPIPER, device="cpu")
    tokens = random_task(model, 1, [6, 5]).clean
    torch.testing.assert_close(edited(tokens), remove_nodes(model, [Head(1, 3)], constants)(tokens))
    before, after = (load_file(base / "model.safetensors") for base in (folder, tmp_path / "edited"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"net/block1/{name}" for name in ("read", "write", "write.bias")
    }


def test_a_family_that_is_not_given_is_not_known(folder: Path) -> None:
    with pytest.raises(sc.UnsupportedModelError, match="architecture 'sandpiper' is not supported; supported are gemma2"):
        sc.load_model(folder)
