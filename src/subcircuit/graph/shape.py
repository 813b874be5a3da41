"""The properties of a model that its graph depends on, and a check that a scope fits the model."""

from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import AliasChoices, Field

from subcircuit.errors import GraphError
from subcircuit.graph.scope import Scope, component_named
from subcircuit.model.config import TransformerConfig
from subcircuit.units.nodes import MLP, Head, is_position


@dataclass(frozen=True, slots=True)
class GraphShape:
    """The properties of a model that its graph depends on.

    Args:
        coupled_heads: the heads of a layer act on each other's writes (sandwich norms), and so do an MLP's neurons.
        neurons: neurons per MLP if the scope resolves any; otherwise 0, because the graph does not depend on it.
        mixtures: layers whose MLP is a mixture of experts.
        experts: experts per mixture, without the shared one, which runs at all positions.
        shared_expert: each mixture has a shared expert.
        positions: token roles, or indices of aligned prompts, with a node for each; empty if nodes cover all positions.
        ordered: positions are indices, not roles, and attention is causal.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: bool = True
    parallel: bool = False
    learned_positions: bool = False
    coupled_heads: bool = False
    neurons: int = 0
    mixtures: tuple[int, ...] = ()
    experts: int = 0
    shared_expert: bool = False
    # files of earlier versions say "places"
    positions: Annotated[tuple[str, ...], Field(validation_alias=AliasChoices("positions", "places"))] = ()
    ordered: bool = False

    @staticmethod
    def of(config: TransformerConfig, scope: Scope, positions: tuple[str, ...] = ()) -> "GraphShape":
        """The shape of a model's graph at a scope.

        Args:
            positions: positions of the prompts, if the scope distinguishes positions.

        Raises:
            GraphError: the scope names a part that the model does not have.
        """
        experts = config.experts
        shape = GraphShape(
            config.n_layers,
            config.n_heads,
            config.n_kv_heads,
            config.d_mlp > 0,
            config.parallel,
            config.learned_positions,
            config.post_norms,
            mixtures=() if experts is None else experts.layers,
            experts=0 if experts is None else experts.n,
            shared_expert=experts is not None and experts.d_shared > 0,
            neurons=config.d_mlp if scope.resolves_neurons else 0,
            positions=positions,
            ordered=scope.positions == "each" and config.causal,
        )
        check_scope(shape, scope)
        return shape


_WORDS = {
    "n_layers": "layers",
    "n_heads": "heads per layer",
    "n_kv_heads": "key/value heads per layer",
    "mlps": "MLPs",
    "parallel": "attention and MLP in parallel",
    "learned_positions": "learned positions",
    "coupled_heads": "norms behind attention blocks and MLPs",
    "neurons": "neurons per MLP",
    "mixtures": "layers with experts",
    "experts": "experts per layer",
    "shared_expert": "a shared expert",
    "positions": "positions or roles",
    "ordered": "positions in order",
}
_MOST_WORDS = 60


def differences(left: GraphShape, right: GraphShape) -> str:
    """The differences between two shapes, in words: ``layers: 3 and 12; heads per layer: 4 and 9``. Empty if equal."""
    pairs = ((_WORDS[f.name], getattr(left, f.name), getattr(right, f.name)) for f in fields(GraphShape))
    return "; ".join(f"{name}: {_word(one)} and {_word(other)}" for name, one, other in pairs if one != other)


def _word(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            text = " ".join(map(str, value)) or "none"
            return text if len(text) <= _MOST_WORDS else f"{len(value)}"
        case _:
            return str(value)


def check_scope(shape: GraphShape, scope: Scope) -> None:
    """Check that a model of this shape has every part that a scope names.

    Raises:
        GraphError: the model lacks a part.
    """
    check_positions(shape, scope)
    if scope.split_embeddings and not shape.learned_positions:
        raise GraphError("token and position embeddings cannot be split: this model has no learned positions")
    if scope.level == "neuron" and not shape.mlps:
        raise GraphError("scope neuron: this model has no MLPs; choose another level")
    if scope.level == "expert" and not shape.mixtures:
        raise GraphError("scope expert: this model has no mixtures of experts; choose another level, for example neuron")
    for layer in shape.mixtures:
        if scope.of_mlp(layer) == "neuron":
            raise GraphError(
                f"scope {scope}: m{layer} is a mixture of experts and divides into experts, not into neurons: write m{layer}=expert"
            )
    for name, level in scope.overrides:
        component = component_named(name)
        if component.layer >= shape.n_layers:
            raise GraphError(f"scope {scope}: there is no {name}, this model has layers 0 to {shape.n_layers - 1}")
        if isinstance(component, Head) and component.head >= shape.n_heads:
            raise GraphError(f"scope {scope}: there is no {name}, this model has heads 0 to {shape.n_heads - 1}")
        if isinstance(component, MLP) and not shape.mlps:
            raise GraphError(f"scope {scope}: there is no {name}, this model has no MLPs")
        if isinstance(component, MLP) and level == "expert" and component.layer not in shape.mixtures:
            mixed = ", ".join(f"m{layer}" for layer in shape.mixtures)
            raise GraphError(
                f"scope {scope}: {name} has no experts; "
                + (f"the MLPs with experts are {mixed}" if mixed else "no layer of this model has experts")
            )


def check_positions(shape: GraphShape, scope: Scope) -> None:
    """Check that a graph has positions exactly if its scope distinguishes positions.

    Raises:
        GraphError: positions are missing or superfluous, or a position has an invalid name.
    """
    match scope.positions:
        case "all":
            expected = ()
        case "each":
            expected = tuple(str(position) for position in range(len(shape.positions)))
        case "roles":
            expected = tuple(dict.fromkeys(shape.positions))
    if shape.positions != expected or not all(map(is_position, shape.positions)):
        raise GraphError(f"scope {scope}: it does not fit the graph's positions {', '.join(shape.positions)}")
    if scope.positions != "all" and not shape.positions:
        raise GraphError(f"scope {scope}: the positions or roles come from the prompts: pass positions=positions_of(scope, task)")
