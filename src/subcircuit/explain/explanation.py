"""An explanation as a frozen value, and its file, ``explanation.json``, beside the circuit."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from subcircuit.errors import CircuitFileError
from subcircuit.graph.circuit import FrozenModel
from subcircuit.graph.file import read_json
from subcircuit.io import write_json

FORMAT: Final = 1
EXPLANATION_FILE = "explanation.json"


class Route(FrozenModel):
    """An edge of the circuit, as an edge into or out of one node.

    Args:
        node: the node at the other end.
        composition: the input that it enters: ``Q``, ``K``, ``V`` of a head, ``QKV`` if the scope does not separate them, ``MLP``,
            ``logits``.
        effect: first-order effect of the edge in logits: loss of logit difference when it carries the corrupted value.
        share: its part of the absolute effects of all the circuit's edges into the same node, 0 to 1.
    """

    node: str
    composition: str
    effect: float
    share: float


class TopTokens(FrozenModel):
    """The tokens, as text, whose logits are raised and lowered most."""

    up: tuple[str, ...]
    down: tuple[str, ...]


class HeadEvidence(FrozenModel):
    """Measurements of a head.

    Args:
        attention: mean attention from each role's queries to each role's keys.
        looks: mean attention on each kind of key (``heads.py``), over queries at the role where the head acts; null if no query
            has such a key.
        random: the same on repeated random tokens; null if the model is too small for them.
        copies, suppresses, ov_copying, qk_matching: scores of its weights (``heads.py``).
        backup: growth of its direct effect, in logits, when the movers of the circuit are corrupted.
    """

    attention: dict[str, dict[str, float]]
    looks: dict[str, float | None]
    random: dict[str, float | None] | None
    copies: float
    suppresses: float
    ov_copying: float
    qk_matching: float
    backup: float | None


class NeuronEvidence(FrozenModel):
    """A neuron of an MLP: its effect in logits, the tokens on which it fires, and the tokens that it raises and lowers there."""

    neuron: int
    effect: float
    fires_on: tuple[str, ...]
    writes: TopTokens


class Component(FrozenModel):
    """The label of one node of a circuit, with its evidence.

    Args:
        kind: embedding, head, attention block, MLP, neuron, expert or logits, or the name that a node of an extension gives itself.
        label: its function, or ``unclear``.
        evidence: the numbers behind the label, in words.
        acts_at: the role with the largest effect.
        effect: first-order effect of corrupting it, in logits.
        effect_by_role: the same by the role of the position that is corrupted.
        direct: direct logit attribution, in logits, the final norm's scale frozen.
        writes: its mean output, as tokens, at the role where it acts.
        head: measurements of a head; for an attention block, of the head with the largest effect.
        strongest_head: for an attention block, the name of that head.
        neurons: for an MLP, the neurons with the largest effects.
        reads, feeds: the circuit's edges into it and out of it, largest effect first.
    """

    kind: str
    label: str
    evidence: str
    acts_at: str | None = None
    effect: float | None = None
    effect_by_role: dict[str, float] = Field(default_factory=dict)
    direct: float | None = None
    writes: TopTokens | None = None
    head: HeadEvidence | None = None
    strongest_head: str | None = None
    neurons: tuple[NeuronEvidence, ...] = ()
    reads: tuple[Route, ...] = ()
    feeds: tuple[Route, ...] = ()


class Explanation(FrozenModel):
    """The labels of a circuit's components, in the order of data flow, from the embedding to the logits.

    Args:
        model, task, examples: the model and task observed, and the number of pairs of prompts.
        roles: the token roles, in order.
        logit_difference: the model's on these prompts, in logits: right answers minus wrong ones, or minus the mean of all tokens.
        thresholds: the thresholds of the labels (``labels.py``).
        components: by name.
    """

    format: Literal[1] = FORMAT
    model: str
    task: str
    examples: int
    roles: tuple[str, ...]
    logit_difference: float
    thresholds: dict[str, float]
    components: dict[str, Component]

    def __repr__(self) -> str:
        return f"Explanation({self.model}, {self.examples} pairs of {self.task}: {len(self.components):,} components)"

    __str__ = __repr__

    def save(self, directory: str | Path) -> Path:
        """Write ``explanation.json`` into a directory, in place of one that is there."""
        path = Path(directory) / EXPLANATION_FILE
        write_json(path, self.model_dump(mode="json"))
        return path

    @staticmethod
    def load(directory: str | Path) -> "Explanation":
        """The explanation that ``save`` wrote.

        Raises:
            CircuitFileError: not an explanation, damaged, or of a newer format.
        """
        return _parse(Path(directory) / EXPLANATION_FILE)


def largest(explanation: Explanation, count: int) -> list[str]:
    """Names of the components with the largest effects, in the order of data flow; the logits always, and all if 0."""
    components = explanation.components
    by_effect = sorted(components, key=lambda name: -abs(components[name].effect or 0.0) if name != "logits" else -float("inf"))
    chosen = set(by_effect[: count + 1] if count else by_effect)
    return [name for name in components if name in chosen]


def _parse(file: Path) -> Explanation:
    content = read_json(file, "explanation", "`subcircuit explain` makes one", FORMAT)
    try:
        return Explanation.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CircuitFileError(f"{file}: not an explanation of format {FORMAT}: {where}: {first['msg']}") from None
