"""``experts`` from end to end: on a tiny random mixture, and refused on a model without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.cli.conftest import Output
from tests.tiny_models import tiny_hf

Run = Callable[..., Output]


@pytest.fixture(scope="module")
def mixture(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2-moe"
    tiny_hf("qwen2_moe").save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_routing_is_told_as_json_and_as_tables(subcircuit: Run, mixture: str, prompts: Path) -> None:
    arguments = ("experts", "--model", mixture, "--task", prompts, "--metric", "kl_divergence", "--detail", 1)
    content = subcircuit(*arguments, "--json").json
    assert [layer["layer"] for layer in content["layers"]] == [0, 2]
    assert content["effect_of_all_edges"] > content["routing"]
    for layer in content["layers"]:
        # no BOS: four positions, each to two of four experts
        assert [sum(role["clean"]) for role in layer["roles"].values()] == pytest.approx([2.0] * 4)
    detailed = [layer for layer in content["layers"] if layer["sources"]]
    assert len(detailed) == 1
    shown = subcircuit(*arguments)
    assert shown.code == 0
    for words in ("routing cut", f"m{detailed[0]['layer']}: where positions go", "embed", f"{content['contents']:+.4g}", "moved"):
        assert words in shown.out


@pytest.mark.slow
def test_a_circuit_of_experts_is_found_drawn_and_loaded(subcircuit: Run, mixture: str, prompts: Path) -> None:
    asked = ("discover", "--model", mixture, "--task", prompts, "--scope", "expert", "--method", "eap", "--edges", 200)
    done = subcircuit(*asked, "--metric", "logit_difference", "--json")
    assert done.code == 0, done.err
    edges = json.loads((Path(done.json["out"]) / "circuit.json").read_text())["edges"]
    assert any(".e" in edge or ".shared" in edge for edge in edges)
    assert (Path(done.json["out"]) / "circuit.svg").stat().st_size > 1000
    assert (
        subcircuit(
            "evaluate",
            done.json["out"],
            "--model",
            mixture,
            "--task",
            prompts,
            "--metric",
            "kl_divergence",
            "--random-circuits",
            2,
        ).code
        == 0
    )


def test_what_has_no_experts_is_refused(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("experts", "--model", model, "--task", prompts)
    assert done.code == 2
    assert "has no mixture of experts" in done.err
    done = subcircuit("discover", "--model", model, "--task", prompts, "--scope", "expert")
    assert done.code == 2
    assert "no mixtures of experts" in done.err
