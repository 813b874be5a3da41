"""A method, a metric, a task and a family of models from outside, by the public API alone, go wherever the package's own go."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import subcircuit as sc
from tests.problems import random_task
from tests.tiny_models import tiny


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
