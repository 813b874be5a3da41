"""Layout of a picture's nodes: layers from bottom to top, heads in columns, MLPs in a column of their own on the right.

The grid is that of the whole model, so pictures of one model can be laid side by side. Rows and columns in which the
circuit has no node are narrower: a circuit of ten edges in thirty layers still fits a page. Units are inches. The page
(``page/static/layout.js``) has the same order of rows and columns, at sizes that follow its window.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from subcircuit.graph import Circuit, Graph, Node

Point: TypeAlias = tuple[float, float]

BOX_WIDTH, BOX_HEIGHT = 0.5, 0.185
_COLUMN, _EMPTY_COLUMN = 0.84, 0.3
_ROW, _CLOSE_ROW, _EMPTY_ROW, _TALL = 0.45, 0.27, 0.06, 12.5
_LEFT, _BAR_GAP, _BAR_STEP, _LEAST_GRID = 0.95, 0.55, 0.32, 3.4


@dataclass(frozen=True)
class Layout:
    """Places of all nodes of a graph, those outside the circuit included.

    Args:
        circuit: what is drawn.
        labelled: the circuit's nodes; rows and columns without one are narrow.
    """

    circuit: Circuit

    @property
    def graph(self) -> Graph:
        """The graph whose nodes these are."""
        return self.circuit.graph

    @cached_property
    def labelled(self) -> frozenset[Node]:
        """The circuit's nodes; embeddings and logits stand as bars and are always shown."""
        return frozenset(node for node in self.circuit.nodes if node.layer is not None)

    @cached_property
    def rows(self) -> dict[tuple[int, str], float]:
        """Height of each layer's row of heads (``"attention"``) and row of its MLP (``"mlp"``)."""
        kinds = ("attention", "mlp") if self.graph.shape.mlps else ("attention",)
        used = {(node.layer, node.kind) for node in self.labelled}
        row_height = max(_CLOSE_ROW, min(_ROW, _TALL / max(1, len(used))))
        heights, y = {}, _BAR_GAP
        for row in ((layer, kind) for layer in range(self.graph.shape.n_layers) for kind in kinds):
            step = row_height if row in used else _EMPTY_ROW
            heights[row] = y + step / 2
            y += step
        return heights

    @cached_property
    def columns(self) -> dict[int, float]:
        """Horizontal place of each column of heads; one column where attention blocks are not resolved."""
        count = 1 + max(writer.column or 0 for writer in self.graph.writers)
        used = {node.column or 0 for node in self.labelled if node.kind == "attention"}
        widths = [_COLUMN if column in used else _EMPTY_COLUMN for column in range(count)]
        slack = max(0.0, _LEAST_GRID - sum(widths)) / count
        places, x = {}, _LEFT
        for column, width in enumerate(widths):
            places[column] = x + (width + slack) / 2
            x += width + slack
        return places

    @property
    def mlp_column(self) -> float:
        """Horizontal place of the MLPs."""
        return self.columns[len(self.columns) - 1] + (1.15 if self.graph.shape.mlps else 0.2)

    @property
    def top(self) -> float:
        """Height of the bar of logits."""
        return max(self.rows.values()) + _BAR_GAP + _ROW / 4

    @property
    def bottom(self) -> float:
        """Height of the lowest bar; the first is at 0, that of positions below it."""
        return min(self.place(writer)[1] for writer in self.graph.embeddings)

    def place(self, node: Node) -> Point:
        """The middle of a node."""
        if node.layer is None:
            below = self.graph.writer_index.get(node)
            return sum(self.bar) / 2, self.top if below is None else below * -_BAR_STEP + 0.0
        x = self.mlp_column if node.kind == "mlp" else self.columns[node.column or 0]
        return x, self.rows[node.layer, node.kind]

    @property
    def bar(self) -> Point:
        """Left and right end of the bars of embedding and logits."""
        return min(self.columns.values()) - _COLUMN / 2, self.mlp_column + BOX_WIDTH / 2

    @property
    def unlabelled(self) -> list[Point]:
        """Places of the nodes that are not in the circuit."""
        return [self.place(w) for w in self.graph.writers if w.layer is not None and w not in self.labelled]

    @property
    def layers(self) -> list[tuple[int, float]]:
        """Layers that have a node in the circuit, with the height of their lower row."""
        rows: dict[int, float] = {}
        for node in self.labelled:
            y = self.place(node)[1]
            rows[node.layer or 0] = min(y, rows.get(node.layer or 0, y))
        return sorted(rows.items())
