"""Labels of components by rules on their measurements: a component's label is that of the first rule that it meets.

The rules for heads follow Wang et al. 2022 (arXiv 2211.00593) and, for copy suppression, McDougall et al. 2023 (arXiv
2310.04625). A label describes a component on this task's prompts; "unclear" is a valid label. Rules are tried in the order of
``_RULES``, and movers twice, because the heads that feed a mover's queries can be labelled only once movers are known.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from subcircuit.explain.explanation import HeadEvidence, Route, TopTokens

UNCLEAR = "unclear"
MOVERS = ("name mover", "mover", "backup name mover", "backup mover", "negative name mover", "negative mover")


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the labels; documented in docs/explain.md.

    Args:
        attends: least mean attention on a kind of token for it to count as attended to.
        pattern: least score on random repeated tokens from which half of ``attends`` is enough on the task's prompts, for
            previous-token, duplicate-token and induction heads.
        copies: least share of tokens that are copied, or suppressed.
        direct: least direct effect that counts, as a share of the logit difference.
        rests: least mean attention on the first token for a head to count as resting.
        reads: least share of an MLP's input effects from one source for the MLP to be named after that source.
        backup: least growth of a direct effect when movers are corrupted, as a share of the logit difference.
    """

    attends: float = 0.3
    pattern: float = 0.4
    copies: float = 0.5
    direct: float = 0.02
    rests: float = 0.8
    reads: float = 0.5
    backup: float = 0.02


@dataclass(frozen=True)
class Facts:
    """The evidence that the rules use; effects are shares of the logit difference.

    Args:
        acts_at: the role where the component acts.
        ends: it acts where answers are read.
        effect, direct: of the component.
        head: a head's evidence.
        reads: edges into it.
        feeds_queries_of: heads whose queries it feeds.
        roles: those that the task declares.
        writes: what it writes.
    """

    acts_at: str
    ends: bool
    effect: float
    direct: float
    head: HeadEvidence | None
    reads: Sequence[Route]
    feeds_queries_of: Collection[str]
    roles: Collection[str]
    writes: TopTokens

    def look(self, kind: str) -> float:
        """Attention on a kind of key where the head acts."""
        return (self.head.looks.get(kind) if self.head else None) or 0.0

    def on_random(self, kind: str) -> float:
        """The same on random repeated tokens."""
        return (self.head.random.get(kind) if self.head and self.head.random else None) or 0.0

    def attends(self, role: str) -> float:
        """Attention on a role where the head acts."""
        return self.head.attention.get(self.acts_at, {}).get(role, 0.0) if self.head else 0.0


@dataclass(frozen=True)
class Label:
    """A label and its evidence."""

    name: str
    evidence: str


Rule = Callable[[Facts, Thresholds, Mapping[str, str]], Label | None]


def label_head(facts: Facts, thresholds: Thresholds, known: Mapping[str, str]) -> Label:
    """The label of a head.

    Args:
        known: labels of the heads that are already labelled.
    """
    for rule in _RULES:
        label = rule(facts, thresholds, known)
        if label is not None:
            return label
    return Label(UNCLEAR, f"{_strongest(facts)}, {_direct(facts)}")


def label_mlp(facts: Facts, thresholds: Thresholds) -> Label:
    """The label of an MLP or a neuron."""
    if abs(facts.direct) >= 5 * thresholds.direct:
        name = "writes the answer" if facts.direct > 0 else "writes against the answer"
        up = " ".join(repr(token) for token in facts.writes.up[:3])
        return Label(name, f"{_direct(facts)}; raises {up} at {facts.acts_at}")
    first = facts.reads[0] if facts.reads else None
    if first is not None and first.share >= thresholds.reads:
        name = "reads embeddings" if "embed" in first.node else f"reads {first.node}"
        return Label(name, f"{first.share:.0%} of its input's effect is {first.node}'s; acts at {facts.acts_at}")
    return Label(UNCLEAR, f"acts at {facts.acts_at}, effect {facts.effect:+z.1%}, {_direct(facts)}")


def _negative_mover(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    assert facts.head is not None
    looks = max(facts.look("right"), facts.look("wrong"))
    if not (facts.ends and facts.direct <= -t.direct and facts.head.suppresses >= t.copies and looks >= t.attends / 2):
        return None
    return Label(
        _named("negative", facts), f"{_strongest(facts)}, suppresses {facts.head.suppresses:.0%} of tokens, {_direct(facts)}"
    )


def _copy_suppression(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    assert facts.head is not None
    seen = max(facts.look("wrong"), facts.attends("S2"))
    if not (facts.ends and facts.direct >= t.direct and facts.head.suppresses >= t.copies and seen >= t.attends):
        return None
    return Label("copy suppression", f"{_strongest(facts)}, suppresses {facts.head.suppresses:.0%} of tokens, {_direct(facts)}")


def _induction(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    here, random = facts.look("after same"), facts.on_random("after same")
    if not _shows(here, random, t):
        return None
    return Label(
        "induction", f"attends to what followed the same token {here:.2f} at {facts.acts_at}, {random:.2f} on random tokens"
    )


def _mover(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    assert facts.head is not None
    if not (facts.ends and facts.look("right") >= t.attends and facts.head.copies >= t.copies):
        return None
    evidence = f"{_strongest(facts)}, copies {facts.head.copies:.0%} of tokens, {_direct(facts)}"
    if facts.direct >= t.direct:
        return Label(_named("", facts), evidence)
    grown = facts.head.backup
    if grown is not None and grown >= t.backup:
        return Label(_named("backup", facts), f"{evidence}, {grown:+z.1%} more when movers are corrupted")
    return None


def _backup(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    assert facts.head is not None
    grown = facts.head.backup
    if grown is None or grown < t.backup or facts.head.copies < t.copies or not facts.ends:
        return None
    return Label(
        _named("backup", facts),
        f"{_strongest(facts)}, copies {facts.head.copies:.0%} of tokens, {grown:+z.1%} more when movers are corrupted",
    )


def _inhibition(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    fed = [head for head in facts.feeds_queries_of if known.get(head) in MOVERS]
    looks = facts.attends("S2") if "S2" in facts.roles else facts.look("repeated")
    if not (facts.ends and fed and looks >= t.attends):
        return None
    name, seen = ("S-inhibition", "S2") if "S2" in facts.roles else ("inhibition", "repeated token")
    return Label(name, f"attends {facts.acts_at}→{seen} {looks:.2f}, feeds the queries of {', '.join(fed[:3])}")


def _duplicate(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    here, random = facts.look("same"), facts.on_random("same")
    if not _shows(here, random, t):
        return None
    return Label("duplicate token", f"attends to the same token {here:.2f} at {facts.acts_at}, {random:.2f} on random tokens")


def _previous(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    here, random = facts.look("previous"), facts.on_random("previous")
    if not _shows(here, random, t):
        return None
    return Label("previous token", f"attends to the token before {here:.2f} at {facts.acts_at}, {random:.2f} on random tokens")


def _writer(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    if not facts.ends or abs(facts.direct) < 2.5 * t.direct:
        return None
    name = "writes the answer" if facts.direct > 0 else "writes against the answer"
    return Label(name, f"{_direct(facts)}; {_strongest(facts)}")


def _rests(facts: Facts, t: Thresholds, known: Mapping[str, str]) -> Label | None:
    if facts.look("first") < t.rests:
        return None
    return Label("rests", f"attends to the first token {facts.look('first'):.2f} at {facts.acts_at}")


_RULES: tuple[Rule, ...] = (
    _negative_mover,
    _copy_suppression,
    _inhibition,
    _induction,
    _mover,
    _backup,
    _duplicate,
    _previous,
    _writer,
    _rests,
)


def _shows(here: float, random: float, t: Thresholds) -> bool:
    """Whether the task's prompts show a pattern; the threshold is lower if the head also shows it on random tokens."""
    return here >= (t.attends / 2 if random >= t.pattern else t.attends)


def _named(kind: str, facts: Facts) -> str:
    """Movers are name movers where the task has an indirect object."""
    return " ".join(word for word in (kind, "name" if "IO" in facts.roles else "", "mover") if word)


def _direct(facts: Facts) -> str:
    return f"direct effect {facts.direct:+z.1%} of the logit difference"


def _strongest(facts: Facts) -> str:
    """The role that the head attends to most where it acts; the first token only where nothing else is attended to."""
    assert facts.head is not None
    row = facts.head.attention.get(facts.acts_at, {})
    if not row:
        return f"acts at {facts.acts_at}"
    awake = {role: mass for role, mass in row.items() if role != "START" and mass >= 0.1}
    role = max(awake or row, key=lambda name: row[name])
    return f"attends {facts.acts_at}→{role} {row[role]:.2f}"
