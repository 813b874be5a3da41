"""The way an edge takes through the picture, as one cubic or several joined Bézier curves.

    embed -> head     up a lane on the left of the head's column, in at the bottom of the head
    head -> logits    out at the top of the head, up a lane on the right of its column
    head -> head      from top to bottom; within one column it bows out to the side
    head -> MLP       in from the left
    MLP -> head       out on the left
    embed, MLP -> MLP, logits   an arc on the right of the MLPs, the wider the more layers it spans

So an edge passes beside the boxes of its own column instead of through them.
"""

from matplotlib.path import Path

from subcircuit.graph import Node, Reader, Writer
from subcircuit.report.layout import BOX_HEIGHT, BOX_WIDTH, Layout, Point

BAR_HEIGHT = 0.2
_PORTS = {"q": -0.15, "v": 0.15}


def route(layout: Layout, writer: Writer, reader: Reader, node: Node) -> Path:
    """The curve of an edge into ``reader``, an input of ``node``."""
    match writer.kind, node.kind:
        case "embed", "attention":
            return _from_embedding(layout, writer, reader, node)
        case "attention", "logits":
            return _to_logits(layout, writer)
        case "attention", "mlp":
            return _into_mlp(layout, writer, node)
        case "attention", "attention":
            return _upwards(layout, writer, reader, node)
        case "mlp", "attention":
            return _from_mlp(layout, writer, reader, node)
        case _:
            return _arc(layout, writer, node)


def arc_reach(layout: Layout, writer: Writer, node: Node) -> float:
    """How far right of the MLPs' boxes an arc bows out."""
    low, high = layout.place(writer)[1], layout.place(node)[1]
    return 0.12 + 0.55 * (high - low) ** 0.62 / 1.6


def _from_embedding(layout: Layout, writer: Writer, reader: Reader, node: Node) -> Path:
    x, y = layout.place(node)
    port, side = _port(reader), 1 if layout.graph.writer_index[writer] else -1
    lane = x + side * (BOX_WIDTH / 2 + 0.03 + 0.09 * _share(node)) + port * 0.12
    bottom = y - BOX_HEIGHT / 2
    turn = max(BAR_HEIGHT / 2, bottom - 0.3)
    start = layout.place(writer)[1] + BAR_HEIGHT / 2
    return _path(
        (lane, start),
        (lane, turn),
        (lane, turn),
        (lane, turn),
        (lane, bottom - 0.1),
        (x + port, bottom - 0.16),
        (x + port, bottom),
    )


def _to_logits(layout: Layout, writer: Writer) -> Path:
    x, y = layout.place(writer)
    lane = x + BOX_WIDTH / 2 + 0.03 + 0.09 * _share(writer)
    top, end = y + BOX_HEIGHT / 2, layout.top - BAR_HEIGHT / 2
    turn = min(end, top + 0.3)
    return _path((x, top), (x, top + 0.16), (lane, top + 0.1), (lane, turn), (lane, turn), (lane, turn), (lane, end))


def _upwards(layout: Layout, writer: Writer, reader: Reader, node: Node) -> Path:
    (x0, y0), (x1, y1) = layout.place(writer), layout.place(node)
    start, end = (x0, y0 + BOX_HEIGHT / 2), (x1 + _port(reader), y1 - BOX_HEIGHT / 2)
    rise = end[1] - start[1]
    lift = min(0.5 * rise, 0.35 + 0.12 * rise)
    bow = 0.0
    if abs(x1 - x0) < BOX_WIDTH and rise > 0.4:
        bow = (1 if reader.kind == "v" else -1) * (BOX_WIDTH * 0.75 + 0.03 * rise)
    return _path(start, (start[0] + bow, start[1] + lift), (end[0] + bow, end[1] - lift), end)


def _into_mlp(layout: Layout, writer: Writer, node: Node) -> Path:
    (x0, y0), (x1, y1) = layout.place(writer), layout.place(node)
    start, end = (x0, y0 + BOX_HEIGHT / 2), (x1 - BOX_WIDTH / 2, y1)
    lift = min(max(end[1] - start[1], 0.1), 0.9)
    return _path(start, (start[0], start[1] + lift), (end[0] - 0.45, end[1]), end)


def _from_mlp(layout: Layout, writer: Writer, reader: Reader, node: Node) -> Path:
    (x0, y0), (x1, y1) = layout.place(writer), layout.place(node)
    start, end = (x0 - BOX_WIDTH / 2, y0), (x1 + _port(reader), y1 - BOX_HEIGHT / 2)
    lift = min(max(end[1] - start[1], 0.1), 0.9)
    return _path(start, (start[0] - 0.45, start[1]), (end[0], end[1] - lift), end)


def _port(reader: Reader) -> float:
    """How far from the middle of a head an edge enters it."""
    return _PORTS.get(reader.kind, 0.0)


def _share(node: Node) -> float:
    """How far out in its lane an edge runs, so that those of neighbouring layers do not hide each other."""
    return (node.layer or 0) % 5 / 4


def _arc(layout: Layout, writer: Writer, node: Node) -> Path:
    start, end = (_right_side(layout, n) for n in (writer, node))
    reach = layout.mlp_column + BOX_WIDTH / 2 + arc_reach(layout, writer, node) * 4 / 3
    return _path(start, (reach, start[1] + 0.03), (reach, end[1] - 0.03), end)


def _right_side(layout: Layout, node: Node) -> Point:
    return layout.mlp_column + BOX_WIDTH / 2, layout.place(node)[1]


def _path(start: Point, *controls: Point) -> Path:
    return Path([start, *controls], [Path.MOVETO] + [Path.CURVE4] * len(controls))
