"""The axis vocabulary: the only names that tensor shapes in this package are written with.

Shapes appear in signatures as jaxtyping annotations, for example ``Float[Tensor, "batch pos d_model"]``.
A leading ``*`` stands for any number of axes. A test reads every annotation and checks it against this table.
"""

AXES: dict[str, str] = {
    "batch": "examples (prompts) that run together",
    "pos": "token positions of a prompt, padded on the right",
    "query": "positions that attend",
    "role": "token roles of a task; where two matter, those of queries",
    "key_role": "token roles of keys",
    "head": "attention heads of one layer, or those of them that are being computed",
    "kv_head": "key/value heads of one layer (fewer than heads under grouped-query attention)",
    "d_model": "width of the residual stream",
    "d_head": "width of a head's query, key, value and result vectors",
    "d_mlp": "neurons of one MLP",
    "expert": "experts of one mixture-of-experts layer",
    "top": "the experts that one position is routed to",
    "routed": "rows that are routed to one expert",
    "neuron": "neurons of one MLP that are being computed",
    "d_in": "inputs of a linear map",
    "d_out": "outputs of a linear map",
    "vocab": "tokens of the vocabulary",
    "column": "the columns of the unembedding that a metric reads",
    "context": "the longest prompt that learned positions allow",
    "writer": "nodes that add to the residual stream, in order of computation",
    "reader": "nodes' inputs that read the residual stream, in order of computation",
    "row": "(example, position) pairs, flattened: the places where something can change",
    "answer": "(example, position) pairs at which the metric reads logits, flattened",
    "correct": "right next tokens of one answer, padded",
    "wrong": "next tokens that count against an answer, padded",
    "option": "tokens of one answer, right or wrong, padded",
    "prefix": "how many writers, in the order of cutting, are still undecided: 0 to all",
    "key": "positions that are attended to",
    "slot": "places of a padded grid of positions",
    "drop": "backward passes, each through all layers but one",
    "trial": "circuits that are tried or measured together",
    "edge": "edges of a graph, by reader and then by writer in order of computation",
    "part": "edges or nodes of a graph, whichever is looked for",
    "counted": "those parts that are right or wrong, without those that are neither",
    "threshold": "the distinct scores of a ranking, from the highest",
    "rows": "any leading axes of a pointwise function",
}
