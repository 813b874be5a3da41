"""The explanation as a value, a file, a figure; and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from subcircuit.engine import Zero
from subcircuit.errors import CircuitFileError, GraphError, NumericalError, SettingsError
from subcircuit.explain import EXPLANATION_FILE, Explanation, explain_circuit, largest
from subcircuit.graph import Circuit, Graph
from subcircuit.report import draw_attention
from subcircuit.truth.planted import planted_case
from tests.problems import random_task
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    case = planted_case("inhibition", Zero())
    return explain_circuit(case.model, case.circuit, case.task)


def test_it_is_read_back_as_it_was_written(explanation: Explanation, tmp_path: Path):
    path = explanation.save(tmp_path)
    assert path.name == EXPLANATION_FILE
    assert Explanation.load(tmp_path) == explanation
    content = json.loads(path.read_text(encoding="utf-8"))
    # what other programs rely on
    assert content["format"] == 1
    assert content["components"]["a2.h0"]["label"] == "name mover"
    assert content["components"]["a2.h0"]["evidence"].startswith("attends END→IO 1.00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"format": 2', "format 2 is newer"),
        ('"format": 1, "x": 1', "not an explanation of format 1: x"),
        ('"format": 1, "components": 3', "not an explanation of format 1"),
        ('"format', "cannot be read as JSON"),
    ],
)
def test_other_files_are_refused(explanation: Explanation, tmp_path: Path, change: str, message: str):
    path = explanation.save(tmp_path)
    text = path.read_text(encoding="utf-8").replace('"format": 1', change, 1)
    if "components" in change:
        text = text.replace('"components": {', '"more": {', 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CircuitFileError, match=message):
        Explanation.load(tmp_path)
    with pytest.raises(CircuitFileError, match="there is no explanation here"):
        Explanation.load(tmp_path / "absent")


def test_the_largest_are_told_in_the_order_of_data_flow(explanation: Explanation):
    assert largest(explanation, 0) == list(explanation.components)
    chosen = largest(explanation, 2)
    by_effect = sorted(explanation.components, key=lambda name: -abs(explanation.components[name].effect or 0))
    assert chosen == [name for name in explanation.components if name in (*by_effect[:2], "logits")]


def test_the_figure_has_a_panel_for_each_head(explanation: Explanation):
    figure = draw_attention(explanation)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["a0.h0\nduplicate token", "a1.h0\nS-inhibition", "a2.h0\nname mover"]
    assert [label.get_text() for label in shown[0].get_xticklabels()] == [*explanation.roles]
    assert (explanation.roles[0], explanation.roles[-1]) == ("START", "END")
    assert len([axes for axes in draw_attention(explanation, most=2).axes if axes.get_visible()]) == 2
    bare = explanation.model_copy(update={"components": {"embed": explanation.components["embed"]}})
    with pytest.raises(SettingsError, match="no attention heads"):
        draw_attention(bare)


def test_what_cannot_be_explained_is_refused():
    model = tiny("llama_gqa")
    task, graph = random_task(model, 0, [6, 6]), Graph.of(model.config)
    with pytest.raises(SettingsError, match="no edges"):
        explain_circuit(model, Circuit.empty(graph), task)
    with pytest.raises(GraphError, match="their graphs differ"):
        explain_circuit(tiny("gpt2"), Circuit.full(graph), task)
    with torch.no_grad():
        model.weights.W_E.fill_(float("nan"))
    with pytest.raises(NumericalError, match="NaN or infinity"):
        explain_circuit(model, Circuit.full(graph), task)
