"""The whole path in seconds: a random two-layer model, the induction task, a circuit, its picture.

Run: python examples/tiny_random_model.py
"""

import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import subcircuit as sc


def main() -> None:
    """Make a model, find a circuit in it, save it, load it again, compare two circuits."""
    torch.manual_seed(0)
    model = sc.load_model(
        GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=64, n_positions=64, bos_token_id=0, eos_token_id=0))
    )
    task = sc.load_task("induction", model, examples=4)
    loose, strict = (sc.discover(model, task, sc.Acdc(threshold=threshold)).circuit for threshold in (1e-3, 1e-5))
    print(loose, strict, f"Jaccard {loose.compare(strict).jaccard:.2f}", sep="\n")

    with tempfile.TemporaryDirectory() as folder:
        path = sc.write_run(strict, Path(folder) / "run")
        assert sc.Circuit.load(path) == strict
        print(*sorted(file.name for file in path.iterdir()))


if __name__ == "__main__":
    main()
