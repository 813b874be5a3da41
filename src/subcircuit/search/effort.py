"""How much of a search's work is done, before anybody knows which trials it will take.

    share done = Σ over decided edges weight(edge) / Σ over all edges weight(edge)
    weight(edge) = depth^1.25,        depth: units from the logits back to the edge's reader

Near the logits a trial recomputes next to nothing. Further down it recomputes the nodes that were kept on the way, and more readers
are live there, of which each edge takes a trial; both grow with depth. Readers that are not live lose their edges untested, and
their weight is done at once. A reader costs more than its trials, as much as ``_READER`` edges: cuts are made definite.

The exponent fits two searches of SmolLM2-135M, IOI with the logit difference at τ 0.1 and subject-verb agreement with KL at τ 0.02: from
a sixth of the search to nine tenths of it, time left is told within a factor of two. It fails where circuits thin out towards the
embedding, or where kept edges lie in few layers.
"""

from collections.abc import Iterable

from jaxtyping import Bool
from torch import Tensor

from subcircuit.graph import Graph

_GROWTH = 1.25
_READER = 4.0


class Effort:
    """The work of one search, as it is done.

    Args:
        tried: the edges that the search decides on.
    """

    def __init__(self, graph: Graph, tried: Bool[Tensor, "writer reader"]):
        self._edges, depth = tried.sum(0).tolist(), len(graph.units)
        self._weights = [(depth - graph.unit_of[reader]) ** _GROWTH for reader in range(len(graph.readers))]
        self._total = sum(map(self._whole, range(len(graph.readers))))
        self._done = 0.0

    def _whole(self, reader: int) -> float:
        edges = self._edges[reader]
        return (edges + _READER) * self._weights[reader] if edges else 0.0

    def edges(self, reader: int, count: int) -> None:
        """So many more edges into a reader are decided."""
        self._done += count * self._weights[reader]

    def reader(self, reader: int) -> None:
        """All edges into a reader are decided, and those of ``edges`` are counted already."""
        self._done += _READER * self._weights[reader] if self._edges[reader] else 0.0

    def whole(self, readers: Iterable[int]) -> None:
        """Readers are decided all at once."""
        self._done += sum(map(self._whole, readers))

    @property
    def share(self) -> float:
        """Of all work, how much is done."""
        return min(self._done / self._total, 1.0) if self._total else 1.0
