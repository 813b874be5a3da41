"""The search on a real language model: what it reports is what the circuit does, run whole and in float64."""

from pathlib import Path

import pytest
import torch

from subcircuit.engine import Resample, run_circuit
from subcircuit.evaluate import discover
from subcircuit.graph import Circuit, Scope
from subcircuit.model import Transformer, load_model
from subcircuit.search import Acdc
from subcircuit.tasks import load_task

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("smollm2-135m")


@torch.no_grad()
def test_the_reported_circuit_does_what_is_reported(model: Transformer, tmp_path: Path):
    task = load_task("ioi", model, examples=2)
    result = discover(model, task, Acdc(threshold=0.5), metric="logit_difference", scope=Scope("head"))
    result.circuit.save(tmp_path / "run")
    circuit = Circuit.load(tmp_path / "run")
    assert circuit == result.circuit
    precise = model.to(dtype=torch.float64)
    ablated = Resample().values(precise, circuit.graph, task.corrupted)
    logits = task.answers.rows(run_circuit(precise, circuit.graph, circuit.kept, task.clean, ablated))
    difference = logits.gather(-1, task.answers.correct) - logits.gather(-1, task.answers.wrong)
    assert result.logit_difference_circuit == pytest.approx(float(difference.mean()), abs=1e-4)
    assert 0 < circuit.n_edges < circuit.graph.n_edges / 100
    assert result.trials is not None
    assert result.trials < circuit.graph.n_edges / 5
