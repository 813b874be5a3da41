"""RASP programs (Weiss et al. 2021, arXiv 2106.06981) whose compiled models are cases.

Most are those of tracr's own library (Lindner et al. 2023, arXiv 2301.05062); reverse and proportion are the two of Conmy et
al. 2023. The rest put two heads side by side, or compute one thing twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, TypeAlias

Value: TypeAlias = str | int


@dataclass(frozen=True)
class Program:
    """A program and the prompts that it is given.

    Args:
        name: of its case.
        description: what it computes.
        vocabulary: tokens, without the beginning-of-sequence token.
        length: tokens of every prompt, without the beginning-of-sequence token.
        make: the program, a ``tracr.rasp.rasp.SOp``; called when tracr is known to be there.
        distinct: prompts repeat no token.
        reads_bos: what stands at the beginning-of-sequence token counts as an answer too.
        redundant: parts of it stand in for each other.
        longest: tokens that the compiled model has room for; as many as the prompts have where None.
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
