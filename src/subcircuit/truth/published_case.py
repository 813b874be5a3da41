"""Cases of published circuits: the trained model, where it can be had, with the built-in task in which the circuit was found."""

from dataclasses import dataclass

from subcircuit.engine.ablation import Ablation
from subcircuit.errors import SettingsError
from subcircuit.graph import Graph
from subcircuit.model.load import load_model
from subcircuit.tasks import competence, load_task, shortfall
from subcircuit.truth.case import Case
from subcircuit.truth.published_circuits import PublishedCircuit, published_circuits


@dataclass(frozen=True)
class Setting:
    """What a published circuit leaves open.

    Args:
        model: where its model is; None is the name under which it was published.
        examples: pairs of prompts.
        seed: of the prompts.
    """

    model: str | None = None
    examples: int = 32
    seed: int = 0


def published_names() -> tuple[str, ...]:
    """The published circuits whose heads are known, by name; the others hold for no model in particular."""
    return tuple(circuit.name for circuit in published_circuits() if circuit.sizes is not None)


def published_case(published: PublishedCircuit, ablation: Ablation, setting: Setting | None = None) -> Case:
    """The case of a published circuit under an ablation.

    The authors compare one circuit with what is found under any ablation, and so does this. Of parts that stand in for
    each other, such as backup name movers, the circuit has them all, and all of them count.

    Raises:
        SettingsError: its heads are not known, or the model does not do the task.
        ModelError, UnknownNameError: the model cannot be had.
        GraphError: the model is another one.
        PromptError: its tokenizer does not suit the task.
    """
    if published.sizes is None:
        raise SettingsError(
            f"{published.name} is a mechanism without heads of its own: choose from {', '.join(published_names())}"
        )
    setting = setting or Setting()
    model = load_model(setting.model or published.model)
    circuit = published.circuit(Graph.of(model.config))
    task = load_task(published.task, model, examples=setting.examples, seed=setting.seed)
    lacking = shortfall(model, task, competence(model, task))
    if lacking is not None:
        raise SettingsError(lacking)
    return Case(published.name, published.description, model, task, ablation, circuit, redundant=False, source=published.source)
