"""Removal in the weights: what a checkpoint computes is what the definition says, in every family."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from subcircuit.edit import NodeEdit, remove_nodes, write_checkpoint
from subcircuit.edit.checkpoint import keeps_constants
from subcircuit.edit.replacement import mean_writes
from subcircuit.engine import last_stream_of_nodes
from subcircuit.errors import EditError
from subcircuit.graph import MLP, Attention, Embed, Expert, Graph, Head, Neuron, Node, Scope
from subcircuit.model import MLPWeights, Tokens, Transformer, load_model
from subcircuit.model.components import unembed
from tests.oracles import run_without_nodes
from tests.tiny_models import HF_FAMILIES, VOCAB, tiny, tiny_hf

HEADS: tuple[Node, ...] = (Head(0, 1), Head(1, 2), Head(1, 3))
NODES: tuple[Node, ...] = (*HEADS, MLP(1), Neuron(2, 5), Neuron(2, 40))
# mixtures of experts are refused
WRITTEN = tuple(family for family in HF_FAMILIES if "moe" not in family and family != "mixtral")


def prompts(seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randint(2, VOCAB, (3, 9), generator=generator), torch.tensor([9, 7, 5]))


def real(tokens: Tokens, values: Tensor) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(values, tokens.lengths.tolist(), strict=True)])


def saved(family: str, folder: Path, dtype: torch.dtype = torch.float64) -> Transformer:
    tiny_hf(family, dtype=dtype).save_pretrained(folder)
    return load_model(folder, dtype=dtype, device="cpu")


def removable(model: Transformer) -> tuple[tuple[Node, ...], Tensor | None]:
    """Nodes of which a checkpoint of the family can keep the means, with these; nodes and nothing where it cannot."""
    for nodes in (NODES, HEADS):
        if keeps_constants(model, nodes):
            return nodes, mean_writes(model, nodes, [prompts(1)])
    return NODES, None


@pytest.mark.slow
@pytest.mark.parametrize("family", WRITTEN)
@pytest.mark.parametrize("zero", [True, False])
def test_a_checkpoint_computes_what_the_definition_says(family: str, zero: bool, tmp_path: Path) -> None:
    model, tokens = saved(family, tmp_path / "base"), prompts()
    nodes, constants = (NODES, None) if zero else removable(model)
    (tmp_path / "edited").mkdir()
    write_checkpoint(model, nodes, constants, tmp_path / "edited")
    instead = [None] * len(nodes) if constants is None else constants
    expected = run_without_nodes(model, dict(zip(nodes, instead, strict=True)), tokens)
    assert not torch.allclose(real(tokens, model(tokens)), real(tokens, expected), atol=1e-3)

    ours = load_model(tmp_path / "edited", dtype="float64", device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        by_transformers = theirs(tokens.ids).logits
    in_memory = remove_nodes(model, nodes, constants)(tokens)
    for logits in (ours(tokens), in_memory):
        torch.testing.assert_close(real(tokens, logits), real(tokens, expected), atol=1e-9, rtol=1e-9)
    # rotary angles are float32 in transformers
    torch.testing.assert_close(real(tokens, by_transformers), real(tokens, expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "qwen3"])
def test_removed_nodes_are_those_that_masks_ablate(family: str) -> None:
    """Without sandwich norms, removal in the weights is ablation of the writer for all its readers."""
    model, tokens = tiny(family, dtype=torch.float64), prompts()
    graph = Graph.of(model.config, Scope(level="head", overrides=(("m2", "neuron"),)))
    constants = mean_writes(model, NODES, [prompts(1)])
    rows = [graph.writer_index[node] for node in NODES]
    kept, ablated = (
        torch.ones(len(graph.writers)),
        torch.zeros(len(graph.writers), *tokens.ids.shape, model.config.d_model).double(),
    )
    kept[rows] = 0
    ablated[rows] = constants[:, None, None].expand(-1, *tokens.ids.shape, -1)
    masked = unembed(model.config, model.weights, last_stream_of_nodes(model, graph, kept, tokens, ablated))
    torch.testing.assert_close(remove_nodes(model, NODES, constants)(tokens), masked, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "gemma2"])
def test_nothing_of_a_removed_head_is_left_in_the_file(family: str, tmp_path: Path) -> None:
    """Queries of removed heads are gone, shared keys and values stay, and the rest is untouched, bit by bit."""
    model = saved(family, tmp_path / "base", torch.float32)
    (tmp_path / "edited").mkdir()
    write_checkpoint(model, (Head(1, 2), Head(1, 3), Head(2, 0), MLP(0)), None, tmp_path / "edited")
    edited = load_model(tmp_path / "edited", device="cpu")
    shared = model.config.heads_per_kv > 1
    one, two = edited.weights.layers[1].attention, edited.weights.layers[2].attention
    for tensor in (one.W_Q[2:], one.W_O[2:], two.W_Q[0], two.W_O[0], one.W_K[-1 if shared else 3], one.W_V[-1 if shared else 3]):
        assert not tensor.any()
    mlp = edited.weights.layers[0].mlp
    assert isinstance(mlp, MLPWeights) and not mlp.W_in.any() and not mlp.W_out.any()
    if shared:
        # the other head of the group needs them
        assert torch.equal(two.W_K, model.weights.layers[2].attention.W_K)
    assert torch.equal(one.W_Q[:2], model.weights.layers[1].attention.W_Q[:2])
    assert torch.equal(two.W_O[1:], model.weights.layers[2].attention.W_O[1:])
    assert torch.equal(edited.weights.W_E, model.weights.W_E)


def test_tokenizer_files_come_along_and_weights_do_not(tmp_path: Path) -> None:
    model = saved("gpt2", tmp_path / "base")
    for name in ("tokenizer.json", "merges.txt", "LICENSE", "notes.txt", "old.bin"):
        (tmp_path / "base" / name).write_text("{}")
    (tmp_path / "edited").mkdir()
    write_checkpoint(model, HEADS, None, tmp_path / "edited")
    there = {file.name for file in (tmp_path / "edited").iterdir()}
    assert {"tokenizer.json", "merges.txt", "LICENSE", "config.json", "model.safetensors"} <= there
    assert not there & {"notes.txt", "old.bin"}


def test_biases_are_switched_on_where_the_family_has_them_only_on_demand(tmp_path: Path) -> None:
    model = saved("llama_gqa", tmp_path / "base")
    for name, constants in (("zero", None), ("mean", mean_writes(model, NODES, [prompts()]))):
        (tmp_path / name).mkdir()
        write_checkpoint(model, NODES, constants, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["attention_bias"], config["mlp_bias"]) == (name == "mean", name == "mean")


@pytest.mark.parametrize(("family", "nodes"), [("mistral", HEADS), ("qwen2", HEADS), ("qwen3", NODES), ("gemma2", (MLP(0),))])
def test_families_without_a_place_for_constants_say_so(family: str, nodes: tuple[Node, ...], tmp_path: Path) -> None:
    model = saved(family, tmp_path / "base")
    assert not keeps_constants(model, nodes)
    with pytest.raises(EditError, match="no output bias"):
        write_checkpoint(model, nodes, mean_writes(model, nodes, [prompts()]), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_model_without_a_checkpoint_cannot_be_written(tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = NodeEdit(model, HEADS, None)
    assert edit.model.config == model.config
    with pytest.raises(EditError, match="save_pretrained"):
        write_checkpoint(model, HEADS, None, tmp_path)
    for family in set(HF_FAMILIES) - set(WRITTEN):
        with pytest.raises(EditError, match=r"architecture .*--level edge"):
            keeps_constants(tiny(family), NODES)
    strange = replace(model, folder=tmp_path, family=None, config=replace(model.config, architecture="planted"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EditError, match="architecture 'planted'"):
        write_checkpoint(strange, HEADS, None, tmp_path)


@pytest.mark.parametrize("node", [Attention(1), Embed(), Expert(1, 0)])
def test_what_is_no_part_of_the_weights_is_refused_by_name(node: Node) -> None:
    with pytest.raises(EditError, match=f"{node} cannot be removed from the weights"):
        remove_nodes(tiny("gpt2"), [Head(0, 1), node], None)
