"""Whatever a file holds, it is read or refused with an error of ours: nothing else is raised, and nothing hangs."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from subcircuit.cli.config_file import defaults
from subcircuit.cli.main import main
from subcircuit.errors import SubcircuitError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.model import load_model
from tests.graph.test_file import scored
from tests.model.load.test_gguf import write_gguf
from tests.tiny_models import tiny_hf

SHORT = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 1, 10**6, 10**9, 2**31, 2**63]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """JSON with some of its values replaced or left out."""
    content = deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = content
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(holder[place], dict | list) and draw(st.booleans()):
                holder = holder[place]
                continue
            if draw(st.integers(0, 3)) == 0:
                del holder[place]
            else:
                holder[place] = draw(VALUES)
            break
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes, header: int) -> bytes:
    """Bytes of which some near the beginning are others, or of which the end is missing."""
    changed = bytearray(content)
    for place, value in draw(st.lists(st.tuples(st.integers(0, header - 1), st.integers(0, 255)), max_size=4)):
        changed[place] = value
    return bytes(changed[: draw(st.just(len(content)) | st.integers(0, len(content)))])


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circuit")
    scored(Circuit.of_edges(Graph(GraphShape(2, 2, 1), Scope()), ["embed->a0.h1<v>", "a0.h1->logits"])).save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_hf("qwen2").save_pretrained(folder)
    return folder


def only_our_errors(read: Callable[[], object]) -> None:
    with suppress(SubcircuitError):
        read()


@pytest.mark.slow
@SHORT
@given(st.data())
def test_circuit_files(circuit: Path, tmp_path: Path, data: st.DataObject) -> None:
    shutil.copy(circuit / "scores.safetensors", tmp_path)
    content = json.loads((circuit / "circuit.json").read_text(encoding="utf-8"))
    (tmp_path / "circuit.json").write_text(json.dumps(data.draw(changed(content))), encoding="utf-8")
    only_our_errors(lambda: Circuit.load(tmp_path))


@pytest.mark.slow
@SHORT
@given(st.data())
def test_scores_beside_a_circuit(circuit: Path, tmp_path: Path, data: st.DataObject) -> None:
    shutil.copy(circuit / "circuit.json", tmp_path)
    content = (circuit / "scores.safetensors").read_bytes()
    (tmp_path / "scores.safetensors").write_bytes(data.draw(damaged(content, 200)))
    only_our_errors(lambda: Circuit.load(tmp_path))


@SHORT
@given(
    st.sampled_from(["a.yaml", "a.toml"]),
    st.text("amodelsetmethods_:=-[]{}&*!|>\"'\n \t#0159.", max_size=60) | st.text(max_size=40) | VALUES.map(json.dumps),
)
def test_configuration_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", errors="replace")
    only_our_errors(lambda: defaults(tmp_path / name, {"model": "model", "set": "settings", "methods": "methods"}))


def test_a_file_that_says_a_word_a_billion_times_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(SubcircuitError):
        defaults(tmp_path / "a.yaml", {f"a{i}": f"a{i}" for i in range(10)})


@settings(SHORT, max_examples=30)
@given(st.data())
def test_configs_of_models(checkpoint: Path, tmp_path: Path, data: st.DataObject) -> None:
    shutil.copy(checkpoint / "model.safetensors", tmp_path)
    content = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(data.draw(changed(content))))
    # shapes that do not go together: the types that tests check refuse them before `check_weights` has its turn
    with suppress(TypeCheckError):
        only_our_errors(lambda: load_model(tmp_path))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"num_key_value_heads": 3}, "4 attention heads are not a multiple of 3 key/value heads"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": [1]}}, "no model can be built from the config"),
    ],
)
def test_a_config_that_describes_no_model_is_refused(checkpoint: Path, tmp_path: Path, said: dict[str, Any], words: str) -> None:
    shutil.copy(checkpoint / "model.safetensors", tmp_path)
    content = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | said))
    with pytest.raises(SubcircuitError, match=words):
        load_model(tmp_path)


@settings(SHORT, max_examples=30)
@given(st.data())
def test_weights_of_models(checkpoint: Path, tmp_path: Path, data: st.DataObject) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    content = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data.draw(damaged(content, 2000)))
    only_our_errors(lambda: load_model(tmp_path))


@settings(SHORT, max_examples=25)
@given(st.data())
def test_gguf_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "whole.gguf"
    content = whole.read_bytes() if whole.exists() else write_gguf(whole).read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data.draw(damaged(content, 900)))
    only_our_errors(lambda: load_model(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("size", [b"block_count", b"embedding_length", b"feed_forward_length"])
def test_a_gguf_file_cannot_announce_more_than_it_holds(size: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    content = bytearray(write_gguf(tmp_path / "tiny.gguf").read_bytes())
    value = content.index(size) + len(size) + 4  # after the name, the type
    content[value : value + 4] = (10**6).to_bytes(4, "little")
    (tmp_path / "tiny.gguf").write_bytes(content)
    with pytest.raises(SubcircuitError, match=r"more (tensors )?than fit in the file"):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.slow
def test_a_gguf_file_cannot_announce_a_list_longer_than_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    content = bytearray(write_gguf(tmp_path / "tiny.gguf").read_bytes())
    name = b"tokenizer.ggml.token_type"
    length = content.index(name) + len(name) + 8  # after the name, the type of the value and that of its entries
    content[length : length + 8] = (1 << 40).to_bytes(8, "little")
    (tmp_path / "tiny.gguf").write_bytes(content)
    with pytest.raises(SubcircuitError, match="the file ends before"):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.slow
@settings(SHORT, max_examples=8)
@given(data=st.data())
def test_descriptions_of_runs(tmp_path: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    if not run.exists():
        assert main(["validate", "and-gate", "--method", "random", "--out", str(run)]) == 0
        shutil.copy(run / "run.json", tmp_path / "whole.json")
    content = json.loads((tmp_path / "whole.json").read_text())
    (run / "run.json").write_text(json.dumps(data.draw(changed(content))))
    assert main(["resume", str(run)]) in (0, 2)
    assert main(["runs", str(tmp_path)]) == 0
    assert "Traceback" not in capsys.readouterr().err
