# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false
"""Slow, obvious truths that the fast paths must equal. Clarity over speed; nothing here is shared with what it checks.

From the package come values alone: a model's config and weights, a graph's nodes and edges, a task's prompts and answers, settings.
Everything that is computed from them is computed here, from its definition, one prompt, one node and one edge at a time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from statistics import fmean

import torch
from scipy.special import log_softmax
from torch import Tensor

from subcircuit.engine import Mean, MeanByPosition, Optimal, Resample, Zero
from subcircuit.engine.ablation import Ablation
from subcircuit.graph import (
    MLP,
    Circuit,
    Embed,
    Expert,
    Graph,
    Head,
    HeadInput,
    Logits,
    Neuron,
    Node,
    Reader,
    RouterInput,
    Writer,
)
from subcircuit.graph import Attention as AttentionBlock
from subcircuit.model import Tokens, Transformer
from subcircuit.model.config import LayerNorm, NoNorm, RMSNorm, Rotary
from subcircuit.model.weights import MixtureWeights, MLPWeights, NormWeights
from subcircuit.search import Acdc, Problem
from subcircuit.search.acdc_rules import Within
from subcircuit.tasks import Task

# ---- the masked forward pass, one prompt, one node, one edge at a time --------------------------------------------------


def norm(model: Transformer, x: Tensor, weights: NormWeights) -> Tensor:
    """The model's norm from its definition."""
    match model.config.norm:
        case NoNorm():
            return x
        case LayerNorm(eps):
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        case RMSNorm(eps):
            scaled = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    scaled = scaled if weights.gain is None else scaled * weights.gain
    return scaled if weights.bias is None else scaled + weights.bias


def activate(x: Tensor, activation: str) -> Tensor:
    """A neuron's nonlinearity from its definition."""
    match activation:
        case "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "relu":
            return torch.where(x > 0, x, 0 * x)
        case "silu":
            return x / (1 + (-x).exp())
    raise AssertionError(activation)


def rotate(x: Tensor, rotary: Rotary | None) -> Tensor:
    """Queries or keys of one head, [pos d_head]: pair i of dimensions is turned by position × frequency i, as a complex number."""
    if rotary is None:
        return x
    half = len(rotary.inverse_frequencies)
    angles = torch.tensor([[pos * f for f in rotary.inverse_frequencies] for pos in range(len(x))], dtype=x.dtype)
    turned = torch.complex(x[:, :half], x[:, half : 2 * half]) * torch.polar(torch.full_like(angles, rotary.scaling), angles)
    return torch.cat([turned.real, turned.imag, x[:, 2 * half :]], 1)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap · tanh(x / cap)."""
    return x if cap is None else cap * (x / cap).tanh()


@dataclass
class NodeByNode:
    """A circuit run on one unpadded prompt, node by node in order of computation, summing edge by edge."""

    model: Transformer
    graph: Graph
    kept: Tensor  # bool, or numbers from 0 to 1
    ablated: Tensor  # writer pos d_model
    # of each position, where the graph tells them apart
    positions: list[str | None] | None = field(default=None, kw_only=True)

    # lists are read much faster than tensors, one number at a time
    @cached_property
    def edges(self) -> list[list[bool]]:
        """Which writer is computed before which reader."""
        return self.graph.edges.tolist()

    @cached_property
    def keeps(self) -> list[list[float]]:
        """The mask."""
        return self.kept.tolist()

    def run(self, ids: list[int], known: Mapping[Writer, Tensor] | None = None) -> tuple[dict[Writer, Tensor], Tensor]:
        """Every writer's value and the logits.

        Args:
            known: values of all writers up to some layer or up to its MLP, which are not computed again.
        """
        model, config, weights = self.model, self.model.config, self.model.weights
        values = self.embedding(ids)
        values.update(known or {})
        written = self.graph.writer_index
        for layer in range(config.n_layers):
            if not {AttentionBlock(layer), Head(layer, 0)} & values.keys():
                self.attention(layer, values)
            if {MLP(layer), Neuron(layer, 0), Expert(layer, 0)} & values.keys():
                continue
            if Neuron(layer, 0) in written:
                self.each_neuron(layer, values)
            elif Expert(layer, 0) in written:
                self.experts(layer, values)
            elif config.d_mlp:
                x = norm(model, self.read(MLP(layer), values), weights.layers[layer].mlp_norm)
                values[MLP(layer)] = self.mlp(layer, x)
        x = norm(model, self.read(Logits(), values), weights.final_norm)
        logits = x @ weights.W_U.T
        logits = logits if weights.b_U is None else logits + weights.b_U
        return values, soft_cap(logits, config.logit_softcap)

    def embedding(self, ids: list[int]) -> dict[Writer, Tensor]:
        """What the embedding writes."""
        weights = self.model.weights
        token = weights.W_E[ids] * self.model.config.embed_scale
        pos = token * 0 if weights.W_pos is None else weights.W_pos[: len(ids)]
        parts = {None: token + pos, "token": token, "pos": pos}
        return {writer: parts[writer.part] for writer in self.graph.writers if isinstance(writer, Embed)}

    def read(self, reader, values: dict[Writer, Tensor]) -> Tensor:
        """Σ over writers of value or ablated value, and the output biases that belong to no head."""
        total = torch.zeros_like(self.ablated[0])
        positions = self.positions or [None] * len(total)
        for position in dict.fromkeys(positions):
            column = self.graph.reader_index[replace(reader, position=position)]
            rows = [(self.graph.writer_index[writer], value) for writer, value in values.items()]
            read = sum(self.carried(row, column, value) for row, value in rows if self.edges[row][column])
            here = torch.tensor([[other == position] for other in positions])
            total = torch.where(here, read, total)
        config = self.model.config
        last = config.n_layers if isinstance(reader, Logits) else reader.layer
        for layer, weights in enumerate(self.model.weights.layers):
            written = layer < last or (
                layer == last and isinstance(reader, MLP | Neuron | Expert | RouterInput) and not config.parallel
            )
            if written and weights.attention.b_O is not None:
                total = total + weights.attention.b_O
            # the output bias of an MLP that is resolved belongs to no neuron
            resolved = Neuron(layer, 0) in self.graph.writer_index
            if layer < last and resolved and weights.mlp.b_out is not None:
                total = total + weights.mlp.b_out
        return total

    def carried(self, row: int, column: int, value: Tensor) -> Tensor:
        """What an edge carries: its writer's value as far as it is kept, the ablated value as far as it is cut."""
        if self.kept.dtype == torch.bool:
            return value if self.keeps[row][column] else self.ablated[row]
        return self.kept[row, column] * value + (1 - self.kept[row, column]) * self.ablated[row]

    def attention(self, layer: int, values: dict[Writer, Tensor]) -> None:
        """All heads of a layer; their shares of a post-norm are taken of the sum of all of them."""
        config, weights = self.model.config, self.model.weights.layers[layer]
        outs = [self.head(layer, head, values) for head in range(config.n_heads)]
        if weights.attention_post_norm is not None:
            total = sum(outs)
            assert isinstance(config.norm, RMSNorm)
            rms = (total.pow(2).mean(-1, keepdim=True) + config.norm.eps).sqrt()
            outs = [out / rms * weights.attention_post_norm.gain for out in outs]
        if AttentionBlock(layer) in self.graph.writer_index:
            values[AttentionBlock(layer)] = sum(outs)
        else:
            values.update({Head(layer, head): out for head, out in enumerate(outs)})

    def head(self, layer: int, head: int, values: dict[Writer, Tensor]) -> Tensor:
        """What one head writes before any post-norm."""
        config, w = self.model.config, self.model.weights.layers[layer].attention
        kv = head * config.n_kv_heads // config.n_heads
        n_pos = self.ablated.shape[1]

        def project(part, W, bias, gain, index):
            grouped = part != "q" and self.graph.scope.kv == "grouped"
            possible = AttentionBlock(layer), HeadInput(layer, head), HeadInput(layer, kv if grouped else head, part)
            reader = next(
                reader for reader in possible if replace(reader, position=self.graph.positions[0]) in self.graph.reader_index
            )
            x = norm(self.model, self.read(reader, values), self.model.weights.layers[layer].attention_norm)
            projected = x @ W[index].T
            projected = projected if bias is None else projected + bias[index]
            if gain is not None:
                projected = projected / (projected.pow(2).mean(-1, keepdim=True) + config.norm.eps).sqrt() * gain
            return projected if part == "v" else rotate(projected, config.rotary[layer])

        q = project("q", w.W_Q, w.b_Q, w.q_norm, head)
        k = project("k", w.W_K, w.b_K, w.k_norm, kv)
        v = project("v", w.W_V, w.b_V, None, kv)
        mixed = []
        for query in range(n_pos):
            first = 0 if config.windows[layer] is None else max(0, query - config.windows[layer] + 1)
            seen = slice(first, query + 1) if config.causal else slice(None)
            scores = soft_cap(k[seen] @ q[query] * config.attention_scale, config.attention_softcap)
            mixed.append(scores.softmax(-1) @ v[seen])
        return torch.stack(mixed) @ w.W_O[head]

    def each_neuron(self, layer: int, values: dict[Writer, Tensor]) -> None:
        """All neurons of an MLP, each on an input of its own; shares of a post-norm as those of heads."""
        config, weights = self.model.config, self.model.weights.layers[layer]
        w, outs = weights.mlp, []
        for n in range(config.d_mlp):
            x = norm(self.model, self.read(Neuron(layer, n), values), weights.mlp_norm)
            fired = x @ w.W_in[n] if w.b_in is None else x @ w.W_in[n] + w.b_in[n]
            if w.W_gate is None:
                fired = activate(fired, config.activation)
            else:
                gate = x @ w.W_gate[n] if w.b_gate is None else x @ w.W_gate[n] + w.b_gate[n]
                fired = activate(gate, config.activation) * fired
            outs.append(fired[:, None] * w.W_out[n])
        if weights.mlp_post_norm is not None:
            rms = (sum(outs).pow(2).mean(-1, keepdim=True) + config.norm.eps).sqrt()
            outs = [out / rms * weights.mlp_post_norm.gain for out in outs]
        values.update({Neuron(layer, n): out for n, out in enumerate(outs)})

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP writes."""
        weights = self.model.weights.layers[layer]
        if isinstance(weights.mlp, MixtureWeights):
            out = torch.stack([mixture_of_one(self.model, weights.mlp, row, self.plain) for row in x])
        else:
            out = self.plain(weights.mlp, x)
        return out if weights.mlp_post_norm is None else norm(self.model, out, weights.mlp_post_norm)

    def experts(self, layer: int, values: dict[Writer, Tensor]) -> None:
        """All experts of a mixture, each on an input of its own, with shares by what the router reads, position by position."""
        weights = self.model.weights.layers[layer]
        w, reads = weights.mlp, lambda node: norm(self.model, self.read(node, values), weights.mlp_norm)
        given = torch.stack([shares_of_one(self.model, w, x) for x in reads(RouterInput(layer))])
        for e, expert in enumerate(w.experts):
            values[Expert(layer, e)] = given[:, e, None] * self.plain(expert, reads(Expert(layer, e)))
        if w.shared is not None:
            x = reads(Expert(layer, None))
            values[Expert(layer, None)] = (x @ w.W_shared).sigmoid()[:, None] * self.plain(w.shared, x)

    def plain(self, w: MLPWeights, x: Tensor) -> Tensor:
        """What the neurons of an MLP or expert write together."""
        config = self.model.config
        hidden = x @ w.W_in.T if w.b_in is None else x @ w.W_in.T + w.b_in
        if w.W_gate is None:
            hidden = activate(hidden, config.activation)
        else:
            gate = x @ w.W_gate.T if w.b_gate is None else x @ w.W_gate.T + w.b_gate
            hidden = activate(gate, config.activation) * hidden
        return hidden @ w.W_out if w.b_out is None else hidden @ w.W_out + w.b_out


def shares_of_one(model: Transformer, w: MixtureWeights, x: Tensor) -> Tensor:
    """Every expert's share of one position."""
    experts = model.config.experts
    odds = (w.W_router @ x).exp()
    chosen = sorted(range(experts.n), key=lambda e: (-odds[e].item(), e))[: experts.top]
    of = sum(odds[e] for e in chosen) if experts.normalised else odds.sum()
    return torch.stack([odds[e] / of if e in chosen else odds[e] * 0 for e in range(experts.n)])


def mixture_of_one(model: Transformer, w: MixtureWeights, x: Tensor, run, times=torch.mul) -> Tensor:
    """A mixture of experts on one position, every expert run: ``run`` gives an expert's output, ``times`` multiplies by its share."""
    shares = shares_of_one(model, w, x)
    out = torch.stack([times(share, run(expert, x)) for share, expert in zip(shares, w.experts, strict=True)]).sum(0)
    return out if w.shared is None else out + times(1 / (1 + (-(w.W_shared @ x)).exp()), run(w.shared, x))


@dataclass
class WithoutNodes(NodeByNode):
    """The same, with heads and MLPs that write a constant (None: nothing) into whatever norm follows their block."""

    removed: dict[Node, Tensor | None]

    def head(self, layer: int, head: int, values: dict[Writer, Tensor]) -> Tensor:
        """The constant of a removed head at every position."""
        out = super().head(layer, head, values)
        return self.instead(Head(layer, head), out) if Head(layer, head) in self.removed else out

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """The constant of a removed MLP at every position."""
        weights = self.model.weights.layers[layer]
        gone = [node for node in self.removed if isinstance(node, Neuron) and node.layer == layer]
        if MLP(layer) in self.removed:
            out = self.instead(MLP(layer), x)
        elif gone:
            others = weights.mlp.W_out.clone()
            others[[node.neuron for node in gone]] = 0
            out = self.plain(replace(weights.mlp, W_out=others), x) + sum(self.instead(node, x) for node in gone)
        else:
            return super().mlp(layer, x)
        return out if weights.mlp_post_norm is None else norm(self.model, out, weights.mlp_post_norm)

    def instead(self, node: Node, like: Tensor) -> Tensor:
        constant = self.removed[node]
        return torch.zeros_like(like) if constant is None else constant.expand_as(like)


def run_without_nodes(model: Transformer, removed: dict[Node, Tensor | None], tokens: Tokens) -> Tensor:
    """Logits of a model without nodes, one prompt at a time."""
    graph = Graph.of(model.config)
    logits = torch.zeros(*tokens.ids.shape, model.config.vocab, dtype=model.dtype)
    for row, ids in zip(logits, tokens.to_lists(), strict=True):
        nothing = torch.zeros(len(graph.writers), len(ids), model.config.d_model, dtype=model.dtype)
        row[: len(ids)] = WithoutNodes(model, graph, graph.edges, nothing, removed).run(ids)[1]
    return logits


def ablated_slowly(model: Transformer, graph: Graph, corrupted: Tokens, ablation: Ablation) -> list[Tensor]:
    """Per example, what every writer's cut edges carry: [writer pos d_model]."""
    runs = [torch.stack([values[w] for w in graph.writers]) for values, _ in whole_runs(model, graph, corrupted)]
    match ablation:
        case Resample():
            return runs
        case Zero():
            return [run * 0 for run in runs]
        case Mean():
            return [torch.cat(runs, 1).mean(1, keepdim=True).expand_as(run) for run in runs]
        case MeanByPosition():
            longest = max(run.shape[1] for run in runs)
            means = [torch.stack([run[:, p] for run in runs if run.shape[1] > p]).mean(0) for p in range(longest)]
            return [torch.stack(means[: run.shape[1]], 1) for run in runs]
        case Optimal(constants):
            return [constants.to(run.dtype)[:, None].expand_as(run) for run in runs]
        case _:
            raise AssertionError(ablation)


def whole_runs(model: Transformer, graph: Graph, tokens: Tokens) -> list[tuple[dict[Writer, Tensor], Tensor]]:
    """The model on each prompt: every writer's value, and the logits."""
    runs = []
    for ids in tokens.to_lists():
        nothing = torch.zeros(len(graph.writers), len(ids), model.config.d_model, dtype=model.dtype)
        anywhere = [graph.positions[0]] * len(ids)
        runs.append(NodeByNode(model, graph, graph.edges, nothing, positions=anywhere).run(ids))
    return runs


# ---- metrics, one answer at a time ---------------------------------------------------------------------------------------


def metric_of_answer(name: str, z: list[float], reference: list[float], correct: Sequence[int], wrong: Sequence[int]) -> float:
    """Each metric's definition, one answer at a time, in plain Python."""
    log_q, log_p = log_softmax(z).tolist(), log_softmax(reference).tolist()
    q, p = [math.exp(v) for v in log_q], [math.exp(v) for v in log_p]
    if name == "kl_divergence":
        return sum(pi * (a - b) for pi, a, b in zip(p, log_p, log_q, strict=True))
    if name == "js_divergence":
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
    if name == "logit_difference":
        return sum(z[i] for i in correct) / len(correct) - sum(z[i] for i in wrong) / len(wrong)
    if name == "probability_difference":
        return sum(q[i] for i in correct) / len(correct) - sum(q[i] for i in wrong) / len(wrong)
    if name == "greater_than":
        return sum(q[i] for i in correct) - sum(q[i] for i in wrong)
    if name == "negative_log_likelihood":
        return -math.log(sum(q[i] for i in correct))
    if name == "accuracy":
        return float(min(z[i] for i in correct) > max(z[i] for i in wrong))
    if name == "squared_error":
        return sum((a - b) ** 2 for a, b in zip(z, reference, strict=True))
    assert name == "match"
    return float(z.index(max(z)) == reference.index(max(reference)))


def loss_of_task(metric: str, task: Task, logits: list[Tensor], reference: list[Tensor]) -> float:
    """The mean over examples of the mean over an example's answers, negated where higher is better.

    Args:
        logits: of each example, [pos vocab].
        reference: the model's own.
    """
    sign = 1 if metric in ("kl_divergence", "js_divergence", "negative_log_likelihood", "squared_error") else -1
    answers, values = task.answers, [[] for _ in logits]
    for i, (example, pos) in enumerate(zip(answers.example.tolist(), answers.pos.tolist(), strict=True)):
        z, own = (each[example][pos].tolist() for each in (logits, reference))
        correct, wrong = answers.correct[i][answers.correct_mask[i]], answers.wrong[i][answers.wrong_mask[i]]
        values[example].append(metric_of_answer(metric, z, own, correct.tolist(), wrong.tolist()))
    return sign * fmean(fmean(of_example) for of_example in values)


def positions_of_prompts(graph: Graph, task: Task) -> list[list[str | None]]:
    """The graph position of each token of each prompt: its index, its token role, or (None) nothing that tells it apart."""
    match graph.scope.positions:
        case "all":
            return [[None] * length for length in task.clean.lengths.tolist()]
        case "each":
            return [[str(pos) for pos in range(length)] for length in task.clean.lengths.tolist()]
        case "roles":
            of = zip(task.roles.of.tolist(), task.clean.lengths.tolist(), strict=True)
            return [[task.roles.names[role] for role in row[:length]] for row, length in of]


# ---- ACDC, one masked forward pass per trial -----------------------------------------------------------------------------


class SequentialAcdc:
    """The authors' greedy search as ALGORITHMS defines it: cut, run the whole circuit, keep or not.

    Restoring, it runs corrupted prompts, puts the clean run's value in place of an edge's, and wants the loss to fall.
    """

    def __init__(self, problem: Problem, config: Acdc, restoring: bool = False, within: Within | None = None):
        model, graph, task = problem.model, problem.graph, problem.task
        self.model, self.graph, self.problem, self.config, self.within = model, graph, problem, config, within
        self.restoring, self.positions = restoring, positions_of_prompts(graph, task)
        self.prompts = (task.corrupted if restoring else task.clean).to_lists()
        elsewhere = (task.clean, Resample()) if restoring else (task.corrupted, problem.ablation)
        self.ablated = ablated_slowly(model, graph, *elsewhere)
        self.reference = [logits for _, logits in whole_runs(model, graph, task.clean)]
        self.kept = graph.edges.clone()
        self.effects = torch.full(graph.edges.shape, math.nan, dtype=torch.float64)
        self.current, self.values = self.loss(self.kept)

    def loss(self, kept: Tensor, changed: Iterable[Reader] | None = None) -> tuple[float, list[dict[Writer, Tensor]]]:
        """The loss of a circuit, and what its writers write on each prompt.

        Args:
            changed: readers of the current circuit whose edges differ; what is written before they read is as it was. None: all.
        """
        columns = range(len(self.graph.readers)) if changed is None else [self.graph.reader_index[r] for r in changed]
        before = [w for row, w in enumerate(self.graph.writers) if all(self.graph.edges[row, column] for column in columns)]
        runs = []
        for example, ids in enumerate(self.prompts):
            node_by_node = NodeByNode(self.model, self.graph, kept, self.ablated[example], positions=self.positions[example])
            runs.append(node_by_node.run(ids, {w: self.values[example][w] for w in before} if changed is not None else None))
        logits = [logits for _, logits in runs]
        loss = loss_of_task(self.problem.metric.name, self.problem.task, logits, self.reference)
        return loss, [values for values, _ in runs]

    def run(self) -> Circuit:
        with torch.no_grad():
            self.inputs(self.at_positions([Logits()]), whole=False)
            for layer in reversed(range(self.model.config.n_layers)):
                if self.model.config.d_mlp:
                    self.mlp(layer)
                self.attention(layer)
        return Circuit(self.graph, self.kept)

    def run_first(self) -> float:
        """The effect of the first edge that is tried."""
        self.attempt([(self.graph.writers[-1], Logits())])
        return float(self.effects[-1, -1])

    def at_positions(self, readers) -> list:
        """Readers at every position, from the last to the first."""
        return [replace(reader, position=position) for reader in readers for position in reversed(self.graph.positions)]

    def mlp(self, layer: int) -> None:
        nodes = [w for w in self.graph.writers if isinstance(w, MLP | Neuron | Expert) and w.layer == layer]
        if nodes == [MLP(layer)]:
            self.inputs(self.at_positions(nodes), whole=False)
        elif Expert(layer, 0) in nodes:
            # the shared expert first; the router goes after all positions of the experts
            self.inputs(self.at_positions([*reversed(nodes), RouterInput(layer)]))
        else:
            self.inputs(self.at_positions(list(reversed(nodes))))

    def attention(self, layer: int) -> None:
        if AttentionBlock(layer) in self.graph.writers:
            self.inputs(self.at_positions([AttentionBlock(layer)]), whole=False)
            return
        anywhere = dict.fromkeys(replace(reader, position=None) for reader in self.graph.readers)
        inputs = [r for r in anywhere if isinstance(r, HeadInput) and r.layer == layer]
        high_first = self.config.head_order == "descending"
        inputs.sort(key=lambda r: (["v", "k", "q"].index(r.part or "v"), -r.head if high_first else r.head))
        self.inputs(self.at_positions(inputs))

    def before(self, readers) -> None:
        """What was decided before this search is put into force, untried."""
        columns = [self.graph.reader_index[reader] for reader in readers if self.reaches_logits(reader)]
        if self.within is not None and columns:
            self.kept[:, columns] &= self.within.kept[:, columns]
            self.current, self.values = self.loss(self.kept)

    def is_open(self, writer: Writer, reader) -> bool:
        at = self.graph.writer_index[writer], self.graph.reader_index[reader]
        return self.within is None or bool(self.within.tried[at])

    def inputs(self, inputs, whole: bool = True) -> None:
        self.before(inputs)
        if whole and self.config.whole_input:
            # a reader with edges that are to stay cannot go as a whole
            able = [r for r in inputs if self.reaches_logits(r) and all(self.is_open(w, r) for w in self.writers_of(r))]
            self.groups([able] if self.config.coarse_to_fine and able else [[reader] for reader in able], None)
        for reader in inputs:
            self.edges(reader)

    def writers_of(self, reader) -> list[Writer]:
        return [w for w in self.graph.writers if self.kept[self.graph.writer_index[w], self.graph.reader_index[reader]]]

    def edges(self, reader) -> None:
        if not self.reaches_logits(reader):
            self.kept[:, self.graph.reader_index[reader]] = False
            return

        def late_first(writer: Writer) -> tuple[int, ...]:
            match writer:
                case MLP(layer):
                    return -layer, 0, 0
                case Neuron(layer, neuron):
                    return -layer, 0, -neuron
                case Expert(layer, expert):
                    return -layer, 0, -1000 if expert is None else -expert
                case Head(layer, head):
                    return -layer, 1, -head if self.config.head_order == "descending" else head
                case AttentionBlock(layer):
                    return -layer, 1, 0
                case Embed(part):
                    return 1, 0, 0 if part == "pos" else 1
                case _:
                    raise AssertionError(writer)

        writers = sorted((w for w in self.writers_of(reader) if self.is_open(w, reader)), key=late_first)
        units = groupby(writers, lambda w: w if isinstance(w, Embed) else late_first(w)[:2])
        self.groups([list(unit) for _, unit in units] if self.config.coarse_to_fine else [[w] for w in writers], reader)

    def groups(self, groups, reader) -> None:
        """Groups of writers into a reader, or (None) of readers from all that they read; those that stay are opened."""
        for group in groups:
            whole, alone = reader is None, len(group) == 1
            edges = [(w, r) for r in group for w in self.writers_of(r)] if whole else [(w, reader) for w in group]
            if not self.attempt(edges, 1 if alone else 1 / 2, whole or not alone) and not alone:
                pieces = 8 if len(group) > 16 else len(group)
                bounds = [len(group) * piece // pieces for piece in range(pieces + 1)]
                self.groups([group[a:b] for a, b in pairwise(bounds)], reader)

    def attempt(self, edges, share: float = 1, whole: bool = False) -> bool:
        """Whether the edges went: single ones (share 1) by the search's rule, groups by the size of the change."""
        candidate = self.kept.clone()
        for writer, reader in edges:
            candidate[self.graph.writer_index[writer], self.graph.reader_index[reader]] = False
        loss, values = self.loss(candidate, {reader for _, reader in edges})
        change = self.current - loss if self.restoring else loss - self.current
        if not whole:
            ((writer, reader),) = edges
            self.effects[self.graph.writer_index[writer], self.graph.reader_index[reader]] = change
        size = abs(change) if self.config.absolute or share < 1 else change
        # what lies within rounding of the threshold is a tie, and a tie keeps the edge
        gone = size < share * self.config.threshold - 1e-11
        if gone:
            self.kept, self.current, self.values = candidate, loss, values
        return gone

    def reaches_logits(self, reader) -> bool:
        """Whether kept edges lead from a reader to the logits, at each position; heads under one shared post-norm act together."""
        if isinstance(reader, Logits):
            return True
        graph = self.graph
        written = [
            (graph.writer_index[w], position) for w in self.moved_by(reader) for position in self.positions_moved_by(reader)
        ]
        return any(
            r.position == position and self.kept[row, column] and self.reaches_logits(r)
            for row, position in written
            for column, r in enumerate(graph.readers)
        )

    def moved_by(self, reader) -> Sequence[Writer]:
        """The writers that a reader is an input of; under a post-norm all heads of its layer, or all neurons."""
        config, layer = self.model.config, reader.layer
        heads, neurons = ([kind(layer, i) for i in range(n)] for kind, n in ((Head, config.n_heads), (Neuron, config.d_mlp)))
        match reader:
            case HeadInput(_, head, part):
                if config.post_norms:
                    return heads
                shared = part in ("k", "v") and self.graph.scope.kv == "grouped"
                return [h for h in heads if h.head * config.n_kv_heads // config.n_heads == head] if shared else [heads[head]]
            case Neuron():
                return neurons if config.post_norms else [replace(reader, position=None)]
            case RouterInput():
                return [Expert(layer, e) for e in range(config.experts.n)]
            case _:
                return [replace(reader, position=None)]

    def positions_moved_by(self, reader) -> list[str | None]:
        """Where a reader's unit writes something else when the reader does: keys and values are looked at from other positions."""
        positions, attends = self.graph.positions, isinstance(reader, AttentionBlock | HeadInput)
        if not attends or (isinstance(reader, HeadInput) and reader.part == "q"):
            return [reader.position]
        later = self.graph.scope.positions == "each" and self.model.config.causal
        return list(positions[positions.index(reader.position) if later else 0 :])
