"""Cases of a small trained model: two behaviours that it learned, and the edges that matter to each.

The model, ``tiny-induction-ioi``, is a GPT-2 of three layers that ``scripts/train_small.py`` trained on these two tasks. Nobody
planted its circuits, so the reference is one by effect, not by construction. Every edge is cut alone,

    effect(w → r) = L(M without w → r) − L(M),        L = minus logit difference, mean over the prompts

and the reference holds the edges whose effect is at least ``SHARE`` of what cutting all edges costs, L(∅) − L(M). Effects are
exact, in float64 (``engine/exact.py``, as in the search ``exact``). Cost: about half a forward pass per edge, a second in all.
It has the limits of single cuts: edges that can replace each other have no effect alone, so the reference omits them, and a
circuit of only the reference's edges need not do the task.

The tasks are repeated random tokens (Olsson et al. 2022, arXiv 2209.11895) and a toy of indirect object identification
(Wang et al. 2022, arXiv 2211.00593):

    clean       BOS … a and b … s gave … to   ->  the one of a and b that is not s     (… are up to three filling words)
    corrupted   the same words with three other names, all different
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import torch

from subcircuit.engine.ablation import Ablation
from subcircuit.engine.cache import clean_run
from subcircuit.engine.exact import Engine, open_all, try_singly
from subcircuit.engine.forward import last_stream
from subcircuit.errors import UnknownNameError
from subcircuit.graph import Circuit, Graph
from subcircuit.model import Transformer
from subcircuit.tasks import Answer, Task, build_task_of_ids, induction, metric
from subcircuit.tasks.metrics import example_losses
from subcircuit.truth.case import Case

MODEL = "tiny-induction-ioi"
VOCAB = 64
CONTEXT = 32
SHARE = 0.02
SOURCE = f"exact effect of every single edge: at least {SHARE:.0%} of what cutting all edges costs"

BOS, AND, GAVE, TO = range(4)
WORDS = range(4, 24)
NAMES = range(24, VOCAB)


@dataclass(frozen=True)
class Giving:
    """A prompt of indirect object identification, up to the last ``to``, and its counterpart.

    Args:
        clean, corrupted: token ids.
        right: the name that comes once.
        wrong: the name that comes twice.
        roles: positions of IO, S1, S2, and of the tokens after S1 and S2.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    right: int
    wrong: int
    roles: dict[str, tuple[int, ...]]


def giving(random: Random) -> Giving:
    """A random prompt of indirect object identification with its counterpart."""
    first, second, *others = random.sample(NAMES, 5)
    giver = random.choice((first, second))
    before, between, after = (random.choices(WORDS, k=random.randint(0, 3)) for _ in range(3))

    def prompt(first: int, second: int, giver: int) -> tuple[int, ...]:
        return BOS, *before, first, AND, second, *between, giver, GAVE, *after, TO

    a, b, s2 = 1 + len(before), 3 + len(before), 4 + len(before) + len(between)
    io, s1 = (b, a) if giver == first else (a, b)
    roles = {"IO": (io,), "S1": (s1,), "S2": (s2,), "S2+1": (s2 + 1,)} | ({"S1+1": (s1 + 1,)} if s1 + 1 < s2 else {})
    return Giving(prompt(first, second, giver), prompt(*others), second if giver == first else first, giver, roles)


def trained_induction(model: Transformer, examples: int = 32, seed: int = 0) -> Task:
    """Repeated random tokens, ten to a copy."""
    task = induction(model, examples=examples, seed=seed)
    return replace(task, name="trained-induction", metric="logit_difference")


def trained_ioi(model: Transformer, examples: int = 64, seed: int = 0) -> Task:
    """Indirect object identification as the model learned it."""
    random = Random(seed)
    drawn = [giving(random) for _ in range(examples)]
    return build_task_of_ids(
        "trained-ioi",
        [one.clean for one in drawn],
        [one.corrupted for one in drawn],
        [Answer(i, len(one.clean) - 1, (one.right,), (one.wrong,)) for i, one in enumerate(drawn)],
        model,
        parameters={"examples": examples, "seed": seed},
        metric="logit_difference",
        roles=[one.roles for one in drawn],
    )


@dataclass(frozen=True)
class Trained:
    """A behaviour of the trained model.

    Args:
        name: of its case.
        description: the model's behaviour.
        make: function that returns the prompts, given the model, ``examples`` and ``seed``; the defaults are those of the case.
    """

    name: str
    description: str
    make: Callable[..., Task]


TRAINED: dict[str, Trained] = {
    trained.name: trained
    for trained in (
        Trained(
            "trained-induction",
            "a b … a -> b in a small trained model; the reference is by effect, not by construction",
            trained_induction,
        ),
        Trained(
            "trained-ioi",
            "of two names the one that is not repeated, in a small trained model; the reference is by effect",
            trained_ioi,
        ),
    )
}


def trained_case(name: str, ablation: Ablation) -> Case:
    """The case of a behaviour of the trained model under an ablation; takes about a second.

    Raises:
        UnknownNameError: there is no such behaviour.
    """
    if name not in TRAINED:
        raise UnknownNameError("trained behaviour", name, tuple(TRAINED))
    # imported here, because it imports transformers, which only loading needs
    from subcircuit.model.load import load_model

    trained, model = TRAINED[name], load_model(MODEL, device="cpu")
    task = trained.make(model)
    circuit = that_matter(model, Graph.of(model.config), task, ablation)
    return Case(name, trained.description, model, task, ablation, circuit, redundant=False, source=SOURCE)


@torch.no_grad()
def that_matter(model: Transformer, graph: Graph, task: Task, ablation: Ablation) -> Circuit:
    """The edges whose cut alone costs at least ``SHARE`` of what cutting all of them costs."""
    model = model.to(dtype=torch.float64)
    answers, ablated = task.answers, ablation.values(model, graph, task.corrupted)
    bound, matter = metric(task.metric).bind(answers), torch.zeros_like(graph.edges)
    empty = answers.rows(last_stream(model, graph, matter, task.clean, ablated))
    # clean and ablated values may differ from the first position on
    run = clean_run(model, graph, task.clean, ablated, [0] * len(task), answers.example, answers.pos)
    engine = open_all(Engine.start(run, bound))
    whole = answers.mean(engine.loss())
    least = SHARE * (example_losses(model, answers, bound, empty).mean() - whole)
    for reader in range(len(graph.readers)):
        writers = graph.edges[:, reader].nonzero().flatten()
        matter[writers, reader] = answers.mean(try_singly(engine, reader, writers.tolist())) - whole >= least
    return Circuit(graph, matter)
