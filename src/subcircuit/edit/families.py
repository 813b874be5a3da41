"""How checkpoint families name and lay out the tensors that removal changes, and where they can keep a constant.

A head or an MLP that is removed leaves a constant behind under mean and optimal ablation. It goes into the bias of the map
that the node wrote through, as far as ``transformers`` gives the family one:

    family                       heads                       MLPs
    gpt2                         always                      always
    gpt_neox                     ``attention_bias``          always
    llama                        ``attention_bias``          ``mlp_bias``
    qwen3, gemma2, gemma3_text   ``attention_bias``          none
    mistral, qwen2               none                        none

A name is a switch in the checkpoint's config. It turns on the biases of all layers and of the queries, keys and values, or
of the whole MLP, too; those are zeros. Where there is none, only zero ablation can be written into the weights.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from subcircuit.edit.weights import Node
from subcircuit.errors import EditError
from subcircuit.graph import Head
from subcircuit.model.config import TransformerConfig

Fused: TypeAlias = Literal["thirds", "by_head"]
Bias: TypeAlias = Literal["always", "attention_bias", "mlp_bias", "never"]


@dataclass(frozen=True)
class Layout:
    """Names of one family's tensors, without ``.weight`` and ``.bias``.

    Args:
        prefix: of the decoder's tensors, which some checkpoints leave out.
        layer: of one layer's tensors, with ``{}`` for its number.
        attention_in: maps to queries, keys and values; one for all three where they are ``fused``.
        attention_out: map of what heads mix to the stream.
        mlp_in, mlp_out: maps to and from neurons.
        inputs_first: weights are stored as (in, out), not (out, in).
        fused: queries of all heads, keys, values (``thirds``), or q, k, v of head 0, then of head 1 (``by_head``).
        head_bias, mlp_bias: the switch that gives the maps a bias.
    """

    prefix: str
    layer: str
    attention_in: tuple[str, ...]
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    inputs_first: bool = False
    fused: Fused | None = None
    head_bias: Bias = "never"
    mlp_bias: Bias = "never"

    def bias_of(self, node: Node) -> Bias:
        """The switch that gives the map that a node writes through a bias."""
        return self.head_bias if isinstance(node, Head) else self.mlp_bias


_LLAMA = {
    "prefix": "model.",
    "layer": "layers.{}.",
    "attention_in": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": "self_attn.o_proj",
    "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp_out": "mlp.down_proj",
}
_BARE, _HEADS_ONLY = Layout(**_LLAMA), Layout(**_LLAMA, head_bias="attention_bias")

LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout(
        "transformer.",
        "h.{}.",
        ("attn.c_attn",),
        "attn.c_proj",
        ("mlp.c_fc",),
        "mlp.c_proj",
        inputs_first=True,
        fused="thirds",
        head_bias="always",
        mlp_bias="always",
    ),
    "gpt_neox": Layout(
        "gpt_neox.",
        "layers.{}.",
        ("attention.query_key_value",),
        "attention.dense",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        fused="by_head",
        head_bias="attention_bias",
        mlp_bias="always",
    ),
    "llama": Layout(**_LLAMA, head_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": _BARE,
    "qwen2": _BARE,
    "qwen3": _HEADS_ONLY,
    "gemma2": _HEADS_ONLY,
    "gemma3_text": _HEADS_ONLY,
}


def layout_of(architecture: str) -> Layout:
    """The layout of a family.

    Raises:
        EditError: checkpoints of this family cannot be written.
    """
    if architecture not in LAYOUTS:
        raise EditError(
            f"nodes cannot be removed from checkpoints of architecture {architecture!r}; they can from {', '.join(LAYOUTS)}. "
            "Edges can be cut in any model: --level edge."
        )
    return LAYOUTS[architecture]


def keeps_constants(architecture: str, nodes: tuple[Node, ...]) -> bool:
    """Whether a family's checkpoints can hold a constant for each of these nodes.

    Raises:
        EditError: as above.
    """
    layout = layout_of(architecture)
    return all(layout.bias_of(node) != "never" for node in nodes)


def check_constants(architecture: str, nodes: tuple[Node, ...], ablation: str) -> None:
    """Refuse an ablation that leaves constants where the family has no place for them.

    Raises:
        EditError: names the first such node.
    """
    layout = layout_of(architecture)
    for node in nodes:
        if layout.bias_of(node) == "never":
            kind = "heads" if isinstance(node, Head) else "MLPs"
            raise EditError(
                f"{ablation} ablation leaves a constant in place of {node}, and checkpoints of architecture {architecture!r} have no bias "
                f"for what {kind} write to keep it in. Use --ablation zero, or --level edge."
            )


def read_slices(layout: Layout, config: TransformerConfig, heads: list[int]) -> list[tuple[str, slice]]:
    """The rows with which removed heads of a layer, and no others, make queries, keys and values.

    Keys and values that other heads share stay.

    Returns:
        Names of maps, each with a run of its outputs.
    """
    d = config.d_head

    def run(start: int, length: int = d) -> slice:
        return slice(start, start + length)

    match layout.fused:
        case "thirds":
            return [(layout.attention_in[0], run((third * config.n_heads + head) * d)) for third in range(3) for head in heads]
        case "by_head":
            return [(layout.attention_in[0], run(3 * head * d, 3 * d)) for head in heads]
        case None:
            queries, keys, values = layout.attention_in
            group = config.heads_per_kv
            alone = [kv for kv in range(config.n_kv_heads) if set(range(kv * group, (kv + 1) * group)) <= set(heads)]
            shared = [(name, run(kv * d)) for name in (keys, values) for kv in alone]
            return [(queries, run(head * d)) for head in heads] + shared
