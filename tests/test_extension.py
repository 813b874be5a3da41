"""A family of models from outside, by the public API alone, goes wherever the package's own go."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import subcircuit as sc
from tests.problems import random_task

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
