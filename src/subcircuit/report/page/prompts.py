"""The page's data of each prompt: tokens, the effect of cutting each edge, what each node writes to the answer, and patterns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from subcircuit.engine.plain_run import attention_patterns
from subcircuit.evaluate import direct_effects
from subcircuit.graph import Graph, Head
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.report.page.arrays import Json, packed, quantised, shown
from subcircuit.report.page.slider import Ranking
from subcircuit.search import Problem, effects_by_example
from subcircuit.search.attribution import metric_with_gradient
from subcircuit.tasks import Task

# bytes of attention patterns in a page that is sent around
MOST_BYTES = 1_000_000
# the method by which `effects_by_example` estimates
EFFECTS_BY = "eap"
# one for the effects of edges on a prompt, one for the attention patterns
STEPS_PER_PROMPT = 2


def prompts_document(
    problem: Problem,
    ranking: Ranking,
    most_bytes: int = MOST_BYTES,
    on_step: Callable[[], None] = lambda: None,
) -> Json:
    """Tokens, effects and patterns of every prompt of a behaviour.

    Effects of edges are first-order (attribution), on the behaviour's metric if it has gradients in the run of the model
    (divergences have none there), else on the logit difference, else on the likelihood of the answer.

    Args:
        most_bytes: of patterns; those of the heads whose edges are weakest are left out beyond it.
        on_step: called `STEPS_PER_PROMPT` times for every prompt.

    Raises:
        SettingsError, NumericalError: as `effects_by_example`.
    """
    model, graph, task = problem.model, problem.graph, problem.task
    measured = metric_with_gradient(problem)
    heads, patterns = _patterns(model, task, _heads(graph, ranking), most_bytes, on_step)
    return {
        "items": [_prompt(model, task[i : i + 1]) for i in range(len(task))],
        "metric": measured.name,
        "method": EFFECTS_BY,
        "sign": measured.sign,
        "effects": quantised(_effects(replace(problem, metric=measured), ranking, on_step)),
        "direct": {
            "clean": quantised(direct_effects(model, graph, task).T.numpy()),
            "corrupted": quantised(direct_effects(model, graph, task, corrupted=True).T.numpy()),
        },
        "contrast": bool(task.answers.wrong_mask.any()),
        "causal": model.config.causal,
        "heads": heads,
        "patterns": patterns,
    }


def _effects(problem: Problem, ranking: Ranking, on_step: Callable[[], None]) -> np.ndarray:
    rows = []
    for effects in effects_by_example(problem):
        rows.append(effects.numpy()[ranking.writers, ranking.readers])
        on_step()
    return np.stack(rows)


def _prompt(model: Transformer, one: Task) -> Json:
    word = _words(model)
    answers = one.answers
    options = {"correct": (answers.correct, answers.correct_mask), "wrong": (answers.wrong, answers.wrong_mask)}
    return {
        "clean": [word(token) for token in one.clean.to_lists()[0]],
        "corrupted": [word(token) for token in one.corrupted.to_lists()[0]],
        "positions": answers.pos.tolist(),
        **{name: [word(token) for token in ids[0][mask[0]].tolist()] for name, (ids, mask) in options.items()},
    }


def _words(model: Transformer) -> Callable[[int], str]:
    tokenizer = model.tokenizer
    return str if tokenizer is None else lambda token: shown(str(tokenizer.decode([token])))


def _heads(graph: Graph, ranking: Ranking) -> list[Head]:
    """The circuit's heads first, each where its strongest edge puts it, then all others."""
    ordered: dict[Head, None] = {}
    for kept in (True, False):
        for writer, reader in zip(ranking.writers[ranking.kept == kept], ranking.readers[ranking.kept == kept], strict=True):
            touched = (int(writer), *graph.writers_of(graph.readers[reader]))
            ordered.update(dict.fromkeys(node for node in (graph.writers[w] for w in touched) if isinstance(node, Head)))
    return list(ordered)


def _patterns(
    model: Transformer, task: Task, heads: Sequence[Head], most_bytes: int, on_step: Callable[[], None]
) -> tuple[list[str], list[Json]]:
    """Names of the heads that are shown, and for each of them its patterns: prompt by prompt, clean and then corrupted.

    Of causal models, row after row up to the diagonal; in steps of 1/255.
    """
    sizes = [n * (n + 1) // 2 if model.config.causal else n * n for n in task.clean.lengths.tolist()]
    chosen = heads[: most_bytes // (2 * sum(sizes))]
    parts: dict[Head, list[np.ndarray]] = {head: [] for head in chosen}
    for example in range(len(task)):
        for tokens in (task.clean[example : example + 1], task.corrupted[example : example + 1]):
            for head, pattern in _of_heads(model, tokens, chosen):
                parts[head].append(pattern)
        on_step()
    return [str(head) for head in chosen], [packed(np.concatenate(parts[head])) for head in chosen]


def _of_heads(model: Transformer, tokens: Tokens, chosen: Sequence[Head]) -> Iterator[tuple[Head, np.ndarray]]:
    length = tokens.ids.shape[1]
    inside = torch.ones(length, length, dtype=torch.bool).tril() if model.config.causal else torch.ones(length, length).bool()
    for layer, patterns in enumerate(attention_patterns(model, tokens)):
        for head in (head for head in chosen if head.layer == layer):
            yield head, (patterns[head.head, 0].float().cpu()[inside] * 255).round().to(torch.uint8).numpy()
