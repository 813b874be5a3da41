"""GGUF files: converted once, whole or not at all, to the weights they hold."""

import os
import threading
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model import Tokens, load_model
from subcircuit.model.load import gguf as conversion
from subcircuit.model.load.cache import cache_directory, digest_of_files, make_directory
from tests.tiny_models import VOCAB, tiny_hf

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tiny Qwen2 in float32 as a GGUF file."""
    return write_gguf(tmp_path / "tiny.gguf")


def tiny_qwen2() -> PreTrainedModel:
    """Without windows, which GGUF does not record."""
    return tiny_hf("qwen2", use_sliding_window=False)


def write_gguf(
    file: Path,
    architecture: str = "qwen2",
    without: str = "none",
    extra: str | None = None,
    scaling: str | None = None,
    merge: str = "A B",
) -> Path:
    hf = tiny_qwen2()
    config = hf.config
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["AB" if i == VOCAB - 1 else chr(ord("A") + i) for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges([merge])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if scaling is not None:
        writer.add_string(f"{architecture}.rope.scaling.type", scaling)
    for name, tensor in hf.state_dict().items():
        if without not in name:
            writer.add_tensor(gguf_name(name), tensor.float().numpy())
    if extra is not None:
        writer.add_tensor(extra, torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def expected(tokens: Tokens) -> Tensor:
    with torch.no_grad():
        return tiny_qwen2()(tokens.ids).logits


def test_a_gguf_file_gives_the_logits_of_the_model_it_was_written_from(file: Path):
    tokens = Tokens.from_lists([list(range(20))])
    model = load_model(file, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected(tokens), atol=1e-4, rtol=0)
    assert model.revision == f"sha256:{digest_of_files([file])}"
    assert model.tokenizer is not None
    assert model.tokenizer.convert_ids_to_tokens([2, 5]) == ["C", "F"]


def test_the_conversion_happens_once_and_is_reported(file: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    first = load_model(file, report=said.append)
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
    again = load_model(file, report=said.append)
    assert torch.equal(first.weights.W_E, again.weights.W_E)
    assert len(said) == 1
    assert "tiny.gguf" in said[0]


@pytest.mark.slow
def test_pieces_are_one_file(file: Path, tmp_path: Path):
    content = file.read_bytes()
    pieces = [tmp_path / f"tiny.gguf.part0{i}" for i in range(3)]
    for i, piece in enumerate(pieces):
        piece.write_bytes(content[i * len(content) // 3 : (i + 1) * len(content) // 3])
    folder, digest = conversion.converted(pieces)
    assert digest == digest_of_files([file])
    assert not list(folder.glob("*.gguf"))
    assert conversion.converted([file]) == (folder, digest)


def test_a_conversion_that_breaks_off_leaves_nothing_to_be_used(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def break_off(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_file", break_off)
        with pytest.raises(ModelError, match=r"No space left on device.*SUBCIRCUIT_CACHE"):
            load_model(file)
    assert list((cache / "gguf").iterdir()) == []
    load_model(file)


def test_a_conversion_that_is_killed_leaves_nothing_to_be_used_and_is_swept_up_later(file: Path, cache: Path):
    killed = cache / "gguf" / ".partial-killed"
    killed.mkdir(parents=True)
    (killed / "config.json").write_text("{}")
    load_model(file)
    assert killed.exists()  # it may be at work still
    os.utime(killed, (0, 0))
    make_directory(cache / "gguf" / "other", lambda folder: None)
    assert not killed.exists()


def test_two_processes_that_convert_at_once_end_with_one_good_directory(cache: Path):
    both_inside = threading.Barrier(2)
    target = cache / "gguf" / "target"

    def fill(folder: Path) -> None:
        (folder / "whole").write_text("yes")
        both_inside.wait(10)

    threads = [threading.Thread(target=make_directory, args=(target, fill)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in target.parent.iterdir()] == ["target"]
    assert (target / "whole").read_text() == "yes"


def test_what_is_not_gguf_or_damaged_is_refused_and_not_cached(file: Path, tmp_path: Path, cache: Path):
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load_model(fake)
    for size in (4, 40, len(file.read_bytes()) // 2):
        fake.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ModelError, match="cannot be read as GGUF"):
            load_model(fake)
    assert not list(cache.glob("gguf/*"))


def test_tensors_that_a_gguf_file_lacks_are_not_made_up(tmp_path: Path):
    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(write_gguf(tmp_path / "tiny.gguf", without="layers.1.mlp.up_proj"))


@pytest.mark.parametrize("marks", [{"extra": "rope_freqs.weight"}, {"scaling": "yarn"}])
def test_scaled_rotary_frequencies_which_transformers_would_drop_are_refused(marks: dict[str, str], tmp_path: Path):
    with pytest.raises(UnsupportedModelError, match="rope"):
        load_model(write_gguf(tmp_path / "tiny.gguf", **marks))


def test_a_tokenizer_that_makes_the_rust_code_panic_is_an_error_like_any_other(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        load_model(write_gguf(tmp_path / "tiny.gguf", merge="A C"))


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path: Path):
    with pytest.raises((UnsupportedModelError, ModelError), match=r"not supported|cannot be read"):
        load_model(write_gguf(tmp_path / "other.gguf", "falcon"))


def test_a_cache_that_cannot_be_written_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "in the way"))
    with pytest.raises(ModelError, match=r"cannot write to the cache .*in the way.*SUBCIRCUIT_CACHE"):
        load_model(file)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBCIRCUIT_CACHE", "/one")
    assert cache_directory() == Path("/one")
    monkeypatch.delenv("SUBCIRCUIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_directory() == Path("/two/subcircuit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "subcircuit"


def test_the_digest_of_a_large_file_follows_its_content(tmp_path: Path):
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 24))
    first = digest_of_files([large])
    assert digest_of_files([large]) == first
    large.write_bytes(bytes((1 << 24) - 1) + b"!")
    os.utime(large, ns=(1, 1))
    assert digest_of_files([large]) != first
