"""Compiled RASP programs: transformers whose circuits are known by construction (Lindner et al. 2023, arXiv 2301.05062).

Needs the extra ``tracr``. A compiled model has no norms, attends to later positions as well, begins every prompt with a
beginning-of-sequence token, and keeps token and position embeddings in directions of their own, so they are separate
writers here. Its logits are numbers, not log-probabilities: those of a categorical program are near 1 for the right value
and near 0 for all others, and a numerical program has its value as logit 0.

RASP programs (Weiss et al. 2021, arXiv 2106.06981) whose compiled models are cases.

Most are those of tracr's own library (Lindner et al. 2023, arXiv 2301.05062); reverse and proportion are the two of Conmy et
al. 2023. The rest put two heads side by side, or compute one thing twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from subcircuit.engine.ablation import Ablation
from subcircuit.errors import ModelError
from subcircuit.extras import require
from subcircuit.graph import Graph, Scope
from subcircuit.model import (
    AttentionWeights,
    LayerWeights,
    MLPWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
)
from subcircuit.tasks import Answer, PromptPair, Task, build_task_of_ids
from subcircuit.truth.case import Case
from subcircuit.truth.derive import derive

Value: TypeAlias = str | int


@dataclass(frozen=True)
class Program:
    """A program and its prompts.

    Args:
        name: of its case.
        description: the function that it computes.
        vocabulary: tokens, without the beginning-of-sequence token.
        length: tokens of every prompt, without the beginning-of-sequence token.
        make: returns the program, a ``tracr.rasp.rasp.SOp``; called only if tracr is installed.
        distinct: prompts repeat no token.
        reads_bos: the output at the beginning-of-sequence token is an answer too.
        redundant: some parts of the program can replace each other.
        longest: context of the compiled model, in tokens; None is the length of the prompts.
    """

    name: str
    description: str
    vocabulary: tuple[Value, ...]
    length: int
    make: Callable[[], Any]
    distinct: bool = False
    reads_bos: bool = False
    redundant: bool = False
    longest: int | None = None

    def prompts(self) -> list[tuple[Value, ...]]:
        """All prompts, in order."""
        if self.distinct:
            return list(permutations(self.vocabulary, self.length))
        return list(product(self.vocabulary, repeat=self.length))


def _library(function: str, *args: Any, **options: Any) -> Any:
    from tracr.compiler import lib

    return getattr(lib, function)(*args, **options)


def _tokens() -> Any:
    from tracr.rasp import rasp

    return rasp.tokens


def _same_two_before() -> Any:
    from tracr.rasp import rasp

    one, two = (_library("shift_by", offset, rasp.tokens) for offset in (1, 2))
    return rasp.SequenceMap(lambda a, b: a == b, one.named("one_before"), two.named("two_before")).named("same_two_before")


def _contains_twice() -> Any:
    from tracr.rasp import rasp

    counted = rasp.Map(bool, _library("make_count", rasp.tokens, "x")).named("counted")
    everywhere = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.TRUE).named("everywhere")
    is_x = rasp.numerical(rasp.Map(lambda token: token == "x", rasp.tokens)).named("is_x")
    share = rasp.numerical(rasp.Aggregate(everywhere, is_x, default=0)).named("share")
    averaged = rasp.Map(bool, share).named("averaged")
    return rasp.SequenceMap(lambda a, b: a or b, counted, averaged).named("contains")


PROGRAMS: tuple[Program, ...] = (
    Program(
        "reverse", "the prompt backwards", (1, 2, 3), 3, lambda: _library("make_reverse", _tokens()), distinct=True, longest=5
    ),
    Program(
        "proportion",
        "the share of x among the tokens so far",
        ("w", "x", "y", "z"),
        3,
        lambda: _library("make_frac_prevs", _tokens() == "x"),
        reads_bos=True,
        longest=5,
    ),
    Program("histogram", "how often each token occurs", ("a", "b", "c"), 4, lambda: _library("make_hist")),
    Program("count", "how many a there are", ("a", "b", "c"), 4, lambda: _library("make_count", _tokens(), "a")),
    Program(
        "sort", "the tokens in order", (1, 2, 3, 4), 3, lambda: _library("make_sort_unique", _tokens(), _tokens()), distinct=True
    ),
    Program("most-frequent", "the tokens by how often they occur", ("a", "b", "c"), 3, lambda: _library("make_sort_freq", 3)),
    Program("previous", "the token before", ("a", "b", "c"), 4, lambda: _library("shift_by", 1, _tokens())),
    Program(
        "pattern",
        "whether an a was just followed by a b",
        ("a", "b", "c"),
        4,
        lambda: _library("detect_pattern", _tokens(), "ab"),
    ),
    Program(
        "pair-balance",
        "the share of opening less that of closing parentheses",
        ("(", ")", "x"),
        3,
        lambda: _library("make_pair_balance", _tokens(), "(", ")"),
    ),
    Program("shuffle-dyck", "whether all parentheses close", ("(", ")"), 4, lambda: _library("make_shuffle_dyck", ["()"])),
    Program("two-heads", "whether the two tokens before are the same", ("a", "b", "c"), 4, _same_two_before),
    Program("contains-twice", "whether there is an x, found in two ways", ("w", "x", "y"), 3, _contains_twice, redundant=True),
)


BOS = "bos"
SOURCE = "derived from the weights that tracr allocated (Lindner et al. 2023, arXiv 2301.05062)"


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program, tracr's model of it, and the same model as a `Transformer`.

    Args:
        rasp: the program itself, which can be called with a prompt.
        assembled: the model that tracr compiled.
    """

    program: Program
    rasp: Any
    assembled: Any
    model: Transformer

    @cached_property
    def values(self) -> dict[Value, int]:
        """The logit of each value of a categorical program; empty for numerical ones."""
        return getattr(self.assembled.output_encoder, "encoding_map", {})

    def ids(self, prompt: Sequence[Value]) -> list[int]:
        """Token ids, from the beginning-of-sequence token on."""
        return self.assembled.input_encoder.encode([BOS, *prompt])

    def answers(self, example: int, prompt: Sequence[Value]) -> list[Answer]:
        """The program's own output at each position that has one."""
        first = [Answer(example, 0, (0,))] if self.program.reads_bos else []
        return first + [self._answer(example, pos + 1, value) for pos, value in enumerate(self.rasp(prompt)) if value is not None]

    def _answer(self, example: int, pos: int, value: Any) -> Answer:
        if not self.values:
            return Answer(example, pos, (0,))
        right = self.values[value]
        return Answer(example, pos, (right,), tuple(other for other in self.values.values() if other != right))


def compile_program(program: Program) -> Compiled:
    """Compile a program and load it.

    Raises:
        MissingExtraError: tracr is not installed; ModelError: it does not compile the program.
    """
    require("tracr")
    from tracr.compiler import compiling

    room = program.longest or program.length
    try:
        rasp = program.make()
        assembled = compiling.compile_rasp_to_model(rasp, vocab=set(program.vocabulary), max_seq_len=room, compiler_bos=BOS)
    except Exception as error:  # whatever the program's own code and tracr's compiler raise, of which there is no list
        why = " ".join(str(error).split()) or "no reason given"
        raise ModelError(
            f"tracr does not compile {program.name} over the tokens {', '.join(map(str, program.vocabulary))}: "
            f"{type(error).__name__}: {why}. Aggregates need defaults, and what is averaged must be numerical."
        ) from error
    return Compiled(program, rasp, assembled, _transformer(program.name, rasp.label, assembled))


def tracr_task(compiled: Compiled) -> Task:
    """All prompts of a program, each paired with the prompt half the list further on."""
    prompts = compiled.program.prompts()
    # one more than half, so that pairs are not mirror images of each other
    shift = len(prompts) // 2 + 1
    others = prompts[shift:] + prompts[:shift]
    return build_task_of_ids(
        f"tracr-{compiled.program.name}",
        [compiled.ids(prompt) for prompt in prompts],
        [compiled.ids(prompt) for prompt in others],
        [answer for example, prompt in enumerate(prompts) for answer in compiled.answers(example, prompt)],
        compiled.model,
        parameters={"program": compiled.program.name, "length": compiled.program.length},
        metric="squared_error",
        pairs=[PromptPair(_text(one), _text(other)) for one, other in zip(prompts, others, strict=True)],
    )


def tracr_case(compiled: Compiled, ablation: Ablation) -> Case:
    """The case of a compiled program under an ablation."""
    model, program, task = compiled.model, compiled.program, tracr_task(compiled)
    circuit = derive(model, Graph.of(model.config, Scope(split_embeddings=True)), task, ablation)
    return Case(f"tracr-{program.name}", program.description, model, task, ablation, circuit, program.redundant, SOURCE)


def _text(prompt: Sequence[Value]) -> str:
    return " ".join(str(token) for token in (BOS, *prompt))


def _transformer(name: str, label: str, assembled: Any) -> Transformer:
    """The compiled model as a `Transformer`; vocabularies of tokens and outputs are padded to the larger of the two."""
    sizes, params = assembled.model_config, {key: _tensors(value) for key, value in assembled.params.items()}
    W_E, W_pos = params["token_embed"]["embeddings"], params["pos_embed"]["embeddings"]
    W_U = _unembedding(label, assembled)
    config = TransformerConfig(
        architecture="tracr",
        n_layers=sizes.num_layers,
        n_heads=sizes.num_heads,
        n_kv_heads=sizes.num_heads,
        d_model=W_E.shape[1],
        d_head=sizes.key_size,
        d_mlp=sizes.mlp_hidden_size,
        vocab=max(len(W_E), len(W_U)),
        context=len(W_pos),
        norm=NoNorm(),
        activation="relu",
        gated=False,
        learned_positions=True,
        rotary=(None,) * sizes.num_layers,
        windows=(None,) * sizes.num_layers,
        attention_scale=sizes.key_size**-0.5,
        causal=False,
    )
    layers = tuple(_layer(config, params, f"transformer/layer_{layer}") for layer in range(config.n_layers))
    weights = Weights(_padded(W_E, config.vocab), layers, NormWeights(), _padded(W_U, config.vocab), W_pos)
    check_weights(config, weights)
    return Transformer(config, weights, name=f"tracr-{name}")


def _layer(config: TransformerConfig, params: dict[str, dict[str, Tensor]], at: str) -> LayerWeights:
    attention, mlp = f"{at}/attn", f"{at}/mlp"
    names = [f"{attention}/{part}" for part in ("query", "key", "value", "linear")] + [f"{mlp}/linear_{i}" for i in (1, 2)]
    assert not any(params[name]["b"].any() for name in names), "tracr writes constants through a direction, not through biases"
    by_head = (config.n_heads, config.d_head)
    W_Q, W_K, W_V = (params[name]["w"].T.unflatten(0, by_head).contiguous() for name in names[:3])
    heads = AttentionWeights(W_Q, W_K, W_V, params[names[3]]["w"].unflatten(0, by_head))
    return LayerWeights(
        heads, NormWeights(), MLPWeights(params[names[4]]["w"].T.contiguous(), params[names[5]]["w"]), NormWeights()
    )


def _unembedding(label: str, assembled: Any) -> Tensor:
    """One row per output: the residual direction in which the program's value stands."""
    values = getattr(assembled.output_encoder, "encoding_map", None)
    names = [label] if values is None else [f"{label}:{value}" for value in values]
    rows = [assembled.residual_labels.index(name) for name in names]
    return torch.eye(len(assembled.residual_labels))[rows]


def _padded(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(length - len(rows), rows.shape[1])])


def _tensors(arrays: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
