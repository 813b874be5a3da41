"""Effects of an edit: on the capability, on retained tasks, on text, and after a few steps of relearning.

Effects on text are the perplexity and how far next-token distributions move:

    perplexity       exp of the mean −log p(token | tokens before it in its window), in the edited and in the whole model
    KL               mean over positions of KL(p_M ‖ p_M'), in nats

The package's text and unrelated prompts were written for it, so no earlier model was trained on them. The text is cut into
windows of up to 128 tokens, and each window begins like the model's prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.edit.parts import Probe, Stream, measure
from subcircuit.edit.relearn import Curve, Relearning, Untouched, damaged_at_random, relearn, untouched
from subcircuit.entry import entry
from subcircuit.errors import PromptError
from subcircuit.graph import Node
from subcircuit.model import Transformer
from subcircuit.model.components import unembed
from subcircuit.model.tokens import Tokens
from subcircuit.search import OnProgress
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import METRICS, BosPolicy, Task
from subcircuit.tasks.tokenizer import make_encoder

WINDOW = 128
_LARGEST = 1 << 24  # bytes of a text
_PASSES = 2  # the whole model and the edited one


@dataclass(frozen=True)
class Texts:
    """Token ids of the text and the unrelated prompts on which edits are measured.

    Args:
        windows: pieces of a text.
        unrelated: prompts that belong to no task.
        unread: a word of the text or prompts that is not in the vocabulary, so the model reads another token or none; None if
            there is no such word.
    """

    windows: tuple[tuple[int, ...], ...]
    unrelated: tuple[tuple[int, ...], ...]
    unread: str | None = None

    def __repr__(self) -> str:
        return f"Texts({len(self.windows)} windows, {len(self.unrelated)} unrelated prompts)"

    @property
    def tokens(self) -> int:
        """Number of tokens that run to measure an edit."""
        return _PASSES * sum(map(len, (*self.windows, *self.unrelated)))

    @staticmethod
    def of(model: Transformer, text: str | None = None, bos: BosPolicy = "auto") -> "Texts | None":
        """The texts for a model; None if it has no tokenizer, or if its tokenizer cannot read the package's own texts.

        Args:
            text: replacement for the package's own text.

        Raises:
            PromptError: the text is shorter than two tokens, or has a word at which the tokenizer stops.
        """
        if model.tokenizer is None:
            return None
        encoder = make_encoder(model, bos)
        home = files("subcircuit.edit")
        prompts = [line for line in (home / "unrelated.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
        content = text or (home / "held_out.txt").read_text(encoding="utf-8")
        try:
            (ids,), begun = encoder.plain([content]), encoder.encode(prompts)
        except PromptError:
            if text is None:
                return None
            raise
        size = min(WINDOW, model.config.context) - len(encoder.prefix)
        pieces = [(*encoder.prefix, *ids[start : start + size]) for start in range(0, len(ids), size)]
        windows = tuple(piece for piece in pieces if len(piece) > 1)
        if not windows:
            raise PromptError("the text for perplexity is shorter than two tokens: give a longer one with --text")
        unread = next(filter(None, map(encoder.unread, (content, *prompts))), None)
        return Texts(windows, tuple(tuple(ids[: model.config.context]) for ids in begun), unread)


def read_text(file: Path) -> str:
    """A text from a file.

    Raises:
        PromptError: it cannot be read, is not UTF-8, or is larger than 16 MB.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise PromptError(f"{file} is larger than {_LARGEST >> 20} MB: give a part of it")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{file} cannot be read as text: {error}") from None
    if not text.strip():
        raise PromptError(f"{file} is empty")
    return text


@dataclass(frozen=True)
class Side:
    """Side effects of an edit on text and on unrelated prompts.

    Args:
        perplexity, perplexity_before: on the text, of the edited and of the whole model.
        kl_text, kl_unrelated: KL(whole ‖ edited) in nats per token, on the text and on unrelated prompts.
        tokens: of the text.
    """

    perplexity: float
    perplexity_before: float
    kl_text: float
    kl_unrelated: float
    tokens: int


@entry
@torch.no_grad()
def side_effects(model: Transformer, run: Stream, texts: Texts, done: Callable[[int], None] = lambda tokens: None) -> Side:
    """Measure.

    Args:
        model: the whole model; edits leave its final norm and unembedding as they are.
        run: the edited model.
        done: called with the number of tokens that are done, of ``texts.tokens`` in all.
    """

    def compared(ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        found = _compare(model, run, ids)
        done(_PASSES * len(ids))
        return found

    text, unrelated = [compared(ids) for ids in texts.windows], [compared(ids) for ids in texts.unrelated]
    before, after, moved = (torch.cat(column) for column in zip(*text, strict=True))
    return Side(
        perplexity=float(after.mean().exp()),
        perplexity_before=float(before.mean().exp()),
        kl_text=float(moved.mean()),
        kl_unrelated=float(torch.cat([row[2] for row in unrelated]).mean()),
        tokens=len(before),
    )


def _compare(model: Transformer, run: Stream, ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """−log p of each next token before and after the edit, and KL at each position; float64."""
    tokens = Tokens.from_lists([list(ids)], model.device)
    log_p, log_q = (_log_softmax(model, stream) for stream in (model.stream(tokens), run(tokens)))
    following = tokens.ids[0, 1:, None]
    before, after = (-log[:-1].gather(-1, following)[:, 0] for log in (log_p, log_q))
    return before, after, (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_softmax(model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "pos vocab"]:
    return unembed(model.config, model.weights, stream)[0].double().log_softmax(-1)


Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One task before and after.

    Args:
        task: its name.
        metric: what was measured.
        examples: prompts, none of which was used before.
        before, after: means over them.
        accuracy_before, accuracy_after: share of answers that outrank the wrong ones; None without wrong ones.
    """

    task: str
    metric: str
    examples: int
    before: float
    after: float
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def share(self) -> float:
        """The metric after the edit as a share of the metric before it."""
        return self.after / self.before


@dataclass(frozen=True)
class Relearned:
    """The return of the capability under fine-tuning.

    Args:
        settings: settings of the fine-tuning.
        examples: number of training prompts.
        untouched: the step size, and its effect on the whole model, trained on the wrong answers.
        edited: pairs of a step and the share of the capability after it.
        random: the same for a model without random nodes, as many as bring the capability as low, or as low as they can.
        random_nodes: number of these nodes.
        random_in_circuit: number of them in the circuit, if the nodes outside it were not enough.
    """

    settings: Relearning
    examples: int
    untouched: Untouched
    edited: Curve
    random: Curve
    random_nodes: int
    random_in_circuit: int


@dataclass(frozen=True)
class EditEffects:
    """The effects of an edit.

    Args:
        target: effect on the capability.
        retained: effects on the retained tasks.
        side: effects on text and unrelated prompts; None for models that read no text.
        recovery: result of relearning; None if it was not tried.
    """

    target: Change
    retained: tuple[Change, ...]
    side: Side | None
    recovery: Relearned | None


@entry
def effects(
    model: Transformer,
    run: Stream,
    target: Probe,
    retained: Sequence[Probe],
    texts: Texts | None,
    on_round: OnProgress | None = None,
) -> EditEffects:
    """The effects of an edit, measured on the edited and on the whole model.

    Args:
        model: the whole model.
        run: the edited one.
        target, retained: results on unseen prompts.
        texts: None leaves text out.
        on_round: called as tasks and pieces of text are done.
    """
    read = 0 if texts is None else texts.tokens
    rounds = ProgressCounter(sum(map(_tokens, (target, *retained))) + read, on_round, "tokens", "measure")

    def change(probe: Probe) -> Change:
        found = _change(probe, run)
        rounds.done(_tokens(probe))
        return found

    side = None if texts is None else side_effects(model, run, texts, rounds.done)
    return EditEffects(change(target), tuple(map(change, retained)), side, None)


@entry
def recovery(
    edited: Transformer,
    spared: Sequence[Node],
    removed: Sequence[Node],
    train: Task,
    judged: Probe,
    settings: Relearning,
    say: Say,
    on_round: OnProgress | None = None,
) -> Relearned:
    """Fine-tune the edited model, and one that is damaged as much at random.

    Args:
        edited: without its nodes.
        spared: the circuit's nodes, which the random damage leaves alone.
        removed: the nodes that are gone.
        train: prompts to train on.
        judged: other prompts.
        say: told what takes long.
        on_round: called after every step of fine-tuning.
    """
    step = _steps(settings, on_round)
    say("relearning: choosing a learning rate on the original model")
    whole = untouched(train, judged, settings, step)
    rate = whole.learning_rate
    say(f"relearning: {settings.steps} steps of fine-tuning at learning rate {rate:g} on {len(train)} prompts of {train.name}")
    curve = relearn(edited, train, judged, settings, rate, step)
    say("relearning: the same fine-tuning after random damage")
    damaged = damaged_at_random(judged.model, spared, removed, judged, max(curve[0][1], 0.0))
    random = relearn(damaged.model, train, judged, settings, rate, step)
    inside = len(set(damaged.nodes) & set(spared))
    return Relearned(settings, len(train), whole, curve, random, len(damaged.nodes), inside)


def _steps(settings: Relearning, on_round: OnProgress | None) -> Callable[[int], None]:
    """A callback that reports the steps of successive trainings, each counted from its first step."""
    rounds = ProgressCounter(settings.steps, on_round, "steps", "relearn")

    def step(number: int) -> None:
        nonlocal rounds
        if number == 1:
            rounds = ProgressCounter(settings.steps, on_round, "steps", "relearn")
        rounds.reach(number)

    return step


def _tokens(probe: Probe) -> int:
    """Number of tokens that run to measure an edit on a task: three passes over its prompts."""
    return 3 * int(probe.task.clean.lengths.sum())


@torch.no_grad()
def _change(probe: Probe, run: Stream) -> Change:
    model, task, accuracy = probe.model, probe.task, METRICS["accuracy"]
    contrasts = task.answers.contrasts
    right = [float(measure(model, task, accuracy, each)) if contrasts else None for each in (model.stream, run)]
    after = float(measure(model, task, probe.metric, run))
    return Change(task.name, probe.metric.name, len(task), probe.whole, after, *right)
