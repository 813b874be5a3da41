"""Train the small model that comes with Subcircuit, ``tiny-induction-ioi``, on the two tasks of ``subcircuit.truth.trained``.

    python scripts/train_small.py DIRECTORY

Writes config.json and model.safetensors, a checkpoint in the Hugging Face layout, as it is in ``src/subcircuit/model/shipped``.
Half of every batch are random tokens repeated, half are prompts of indirect object identification; the loss is cross-entropy
where the next token can be known. Takes seven minutes of one core. The same seed gives the same weights on the same machine,
versions and number of threads.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from subcircuit.truth.trained import CONTEXT, VOCAB, giving

CONFIG = GPT2Config(
    vocab_size=VOCAB,
    n_positions=CONTEXT,
    n_layer=3,
    n_head=4,
    n_embd=64,
    n_inner=128,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=0,
    eos_token_id=0,
    use_cache=False,
)
STEPS = 4000
BATCH = 256
LEARNING_RATE = 2e-3
WARM_UP = 200
NOTHING = -100  # a label that counts for nothing


def train(steps: int = STEPS, seed: int = 0, on_step: Callable[[int, float, float], None] | None = None) -> GPT2LMHeadModel:
    """A model trained from scratch.

    Args:
        steps: of AdamW, with a warm-up and a cosine decay to zero.
        seed: of the initial weights and the prompts.
        on_step: called with the step and the losses of induction and of indirect object identification, in nats.
    """
    torch.manual_seed(seed)
    model, random = GPT2LMHeadModel(CONFIG), Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - WARM_UP))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [WARM_UP])
    for step in range(steps):
        induction, ioi = (loss(model, [draw(random) for _ in range(BATCH // 2)]) for draw in (repeated, given))
        optimizer.zero_grad()
        (induction + ioi).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, induction.item(), ioi.item())
    return model


def repeated(random: Random) -> tuple[list[int], list[int]]:
    """Different tokens twice, and the next token at each place of the second copy."""
    length = random.randint(4, CONTEXT // 2)
    copy = random.sample(range(VOCAB), length)
    return copy * 2, [NOTHING] * length + copy[1:] + [NOTHING]


def given(random: Random) -> tuple[list[int], list[int]]:
    """A prompt of indirect object identification, and its answer at the end."""
    prompt = giving(random)
    return list(prompt.clean), [NOTHING] * (len(prompt.clean) - 1) + [prompt.right]


def loss(model: GPT2LMHeadModel, examples: list[tuple[list[int], list[int]]]) -> Tensor:
    """Cross-entropy at all places with a label, in nats."""
    longest = max(len(prompt) for prompt, _ in examples)
    # causal models see no padding before a prompt's end
    prompts = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt, _ in examples])
    labels = torch.tensor([label + [NOTHING] * (longest - len(label)) for _, label in examples])
    return F.cross_entropy(model(prompts).logits.flatten(0, 1), labels.flatten(), ignore_index=NOTHING)


def save(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write a checkpoint; tied embeddings are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file(
        {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}, folder / "model.safetensors"
    )


def main() -> None:
    """Train and save, with a line of losses every 100 steps."""

    def show(step: int, induction: float, ioi: float) -> None:
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step}: induction {induction:.4f}, indirect objects {ioi:.4f} nats", flush=True)

    save(train(on_step=show), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
