"""Layers that are kept on other devices are used on the first one alone, and change no bit."""

import weakref
from dataclasses import replace
from functools import partial
from typing import ClassVar

import pytest
import torch

from subcircuit.errors import SettingsError
from subcircuit.graph import Graph, Scope
from subcircuit.model import Transformer, load_model
from subcircuit.model.placement import devices_of, parse_devices
from subcircuit.model.weights import Elsewhere, map_tensors, named_tensors
from subcircuit.runs.pool_job import Job
from subcircuit.search import METHODS
from subcircuit.search.journal import FORGETFUL
from tests.problems import random_problem
from tests.tiny_models import tiny


class Far(torch.Tensor):
    """A tensor on another device: nothing can be done with it here but to look at its shape and to copy it over."""

    copies: ClassVar = weakref.WeakSet()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ not in ("__get__", "to", "size", "dim", "__len__"):
            raise AssertionError(f"{func.__name__} of a tensor on another device")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func.__name__ != "to":
                return result
            copy = result.as_subclass(torch.Tensor).clone()
        cls.copies.add(copy)
        return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [("llama_gqa", "acdc"), ("llama_gqa", "edge-pruning"), ("llama_gqa", "exact"), ("gemma2", "eap"), ("mixtral", "eap")],
)
def test_layers_on_other_devices_change_no_bit_and_are_copied_one_at_a_time(family, name):
    model = tiny(family)
    problem = random_problem(model, Graph.of(model.config, Scope("block")), 2, [5, 4], 1, "logit_difference", "resample")
    far = tuple(map_tensors(layer, lambda tensor: tensor.as_subclass(Far)) for layer in model.weights.layers)
    spread = replace(model, weights=replace(model.weights, layers=Elsewhere(far, model.device)))
    method = METHODS[name](**({"steps": 2} if name == "edge-pruning" else {}))

    def search(one):
        return method.search(replace(problem, model=one)).scores

    Far.copies.clear()
    result = search(spread)
    assert torch.equal(result.nan_to_num(9), search(model).nan_to_num(9))
    one_layer = max(len(list(named_tensors(layer))) for layer in model.weights.layers)
    assert 0 < len(Far.copies) <= one_layer


def test_layers_are_shared_out_in_order():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert devices_of(parse_devices("cpu,meta"), 5) == (cpu, cpu, cpu, meta, meta)
    assert devices_of(parse_devices("cpu=1, meta"), 3) == (cpu, meta, meta)
    assert devices_of(parse_devices("cpu=0,meta=2"), 2) == (meta, meta)
    weights = load_model("tiny-induction-ioi", device="cpu=1,meta").weights
    where = {name: tensor.device for name, tensor in named_tensors(weights)}
    assert {device for name, device in where.items() if name.startswith("layers.") and not name.startswith("layers.0.")} == {meta}
    assert {device for name, device in where.items() if not name.startswith("layers.") or name.startswith("layers.0.")} == {cpu}


def given(model, journal):
    return model


def test_a_model_stays_placed_when_it_is_sent_and_comes_back_whole_when_it_is_asked_to():
    model = tiny("llama_gqa").spread(parse_devices("cpu=1,cpu"), torch.float64)
    sent = Job.unpack(*Job(partial(given, model)).pack())(FORGETFUL)
    assert isinstance(sent, Transformer)
    assert isinstance(sent.weights.layers, Elsewhere)
    pairs = zip(named_tensors(sent.weights), named_tensors(model.weights), strict=True)
    assert all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in pairs)
    assert model.dtype == torch.float64
    assert isinstance(model.to("cpu").weights.layers, tuple)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu,", "'' is not a device"),
        ("cpu=x", "'cpu=x' is not a device"),
        ("cpu,nowhere:1", "device 'nowhere:1' cannot be used"),
        ("cpu=7,meta=9", "the devices hold 16 layers, and the model has 3"),
        ("cpu=1", "the devices hold 1 layers, and the model has 3"),
    ],
)
def test_devices_that_cannot_be_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        load_model("tiny-induction-ioi", device=text)
