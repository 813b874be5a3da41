"""A model that computes NaN or infinity is told by the layer and the pair where it begins to."""

from dataclasses import replace

import pytest
import torch

from subcircuit.errors import NumericalError
from subcircuit.evaluate import discover
from subcircuit.graph import Scope
from subcircuit.model.weights import MLPWeights
from subcircuit.search import Acdc, Eap, Method
from subcircuit.search.warnings import first_unsound
from tests.problems import random_task
from tests.tiny_models import tiny


@pytest.mark.parametrize("method", [Acdc(0.1), Eap()])
def test_nan_weights_are_named(method: Method) -> None:
    model = tiny("llama")
    task = random_task(model, 1, [6, 5])
    assert first_unsound(model, task) is None
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="in the attention of layer 1 on the clean prompt of pair 1, in float32"):
        discover(model, replace(task, metric="logit_difference"), method, scope=Scope.named("head"))


def test_what_only_one_pair_meets_is_named_by_its_number() -> None:
    model = tiny("llama")
    task = random_task(model, 1, [6, 5, 7])
    first, second, third = task.clean.to_lists()
    model.weights.W_E[min({*third} - {*first} - {*second})] = torch.inf
    assert first_unsound(model, task) == "the embedding on the clean prompt of pair 3"


def test_float16_that_overflows_is_told_what_to_do() -> None:
    model = tiny("gpt2", 0, torch.float16)
    task = random_task(model, 1, [6, 5])
    mlp = model.weights.layers[0].mlp
    assert isinstance(mlp, MLPWeights)
    mlp.W_out.mul_(60_000)
    with pytest.raises(NumericalError, match=r"the MLP of layer 0 .*in float16: try bfloat16 or float32"):
        discover(model, replace(task, metric="logit_difference"), Eap(), scope=Scope.named("head"))
