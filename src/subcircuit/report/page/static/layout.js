// Where nodes and edges are. Nodes stand on a grid of layers by components that depends on the graph alone: nothing moves
// when edges come and go. Places are in pixels of the sheet: boxes and names have least sizes that windows and zoom meet
// differently, so they are computed here and not beside the picture's (report/layout.py), whose order of rows and columns they have.

export const MARGIN = { left: 64, right: 118, top: 34, bottom: 34 };
const LEAST_ROW = 15, LEAST_COLUMN = 20;

// used: numbers of the nodes that some circuit of the page touches; parts of one component that none does get no room.
export function layOut(graph, width, height, zoom, used) {
  const columns = 1 + Math.max(0, ...graph.nodes.map((node) => node.column ?? 0));
  const mlps = graph.nodes.some((node) => node.kind === "mlp");
  const cells = cellsOf(graph, used);
  const room = width * zoom - MARGIN.left - MARGIN.right;
  const wide = Math.min(widest(graph, cells), room / 2);
  const across = columns + (wide ? 0.4 : mlps ? 1.25 : 0);
  const column = Math.max(LEAST_COLUMN, (room - wide) / across);
  const row = Math.max(LEAST_ROW, (height * zoom - MARGIN.top - MARGIN.bottom) / (graph.layers + 1.4));
  const sheet = { width: MARGIN.left + MARGIN.right + column * across + wide, height: MARGIN.top + MARGIN.bottom + row * (graph.layers + 1.4) };
  const box = { width: Math.min(64, column - 8), height: Math.min(22, Math.max(9, row * 0.62)) };
  const mlpAt = MARGIN.left + (wide ? column * across + wide - box.width / 2 : column * (columns + 0.75));
  const end = (mlps ? mlpAt : MARGIN.left + column * (columns - 0.5)) + box.width / 2;
  // as wide as the gutters beside the outermost heads, through which edges come to it
  const bar = { left: MARGIN.left - 8, right: end, top: MARGIN.top, bottom: sheet.height - MARGIN.bottom };
  const heads = { left: MARGIN.left + column / 2 - box.width / 2, right: MARGIN.left + column * (columns - 0.5) + box.width / 2 };
  const places = graph.nodes.map((node) => placeOf(node, { sheet, row, column, mlpAt, bar, box, heads }));
  const parts = spread(graph, places, cells, { box, column, wide, right: end });
  return { sheet, row, column, box, bar, places, parts };
}

function placeOf(node, { sheet, row, column, mlpAt, bar, box, heads }) {
  const middle = (bar.left + bar.right) / 2;
  if (node.kind === "logits") return { x: middle, y: bar.top, width: bar.right - bar.left };
  if (node.kind === "embed") return { x: middle, y: bar.bottom, width: bar.right - bar.left };
  const base = sheet.height - MARGIN.bottom - row * (node.layer + 1);
  if (node.kind === "mlp") return { x: mlpAt, y: base - row * 0.42, width: box.width };
  // a block of attention is as wide as its heads would be
  if (node.column === null) return { x: (heads.left + heads.right) / 2, y: base, width: heads.right - heads.left };
  return { x: MARGIN.left + column * (node.column + 0.5), y: base, width: box.width };
}

// Nodes that share a place: parts of one MLP, positions of one head, embeddings apart.
function cellsOf(graph, used) {
  const cells = new Map();
  graph.nodes.forEach((node, index) => {
    const cell = `${node.kind} ${node.layer} ${node.column}`;
    if (!cells.has(cell)) cells.set(cell, { all: [], used: [] });
    cells.get(cell).all.push(index);
    if (used.has(index)) cells.get(cell).used.push(index);
  });
  return [...cells.values()].filter(({ all }) => all.length > 1);
}

const LETTER = 6.4;

export const shortName = (name) => (name.includes(".") ? name.slice(name.indexOf(".") + 1) : name);

// How much room the parts of MLPs ask for: that of their names.
function widest(graph, cells) {
  const length = (node) => shortName(graph.nodes[node].name).length * LETTER + 8;
  const sizes = cells.filter(({ all }) => graph.nodes[all[0]].kind === "mlp").map(({ used }) => used.length * Math.max(0, ...used.map(length)));
  return Math.max(0, ...sizes);
}

// Nodes of one cell side by side, those without an edge behind the next one that has some; returns all that share a cell.
function spread(graph, places, cells, { box, column, wide, right }) {
  const parts = new Set();
  for (const { all, used } of cells) {
    const { kind, layer } = graph.nodes[all[0]];
    const place = places[all[0]];
    const whole = layer === null ? place.width : kind === "mlp" && wide ? wide : Math.max(place.width, column - 4);
    const left = kind === "mlp" && wide ? right - whole : place.x - whole / 2;
    const shown = new Set(used.length ? used : all);
    const step = whole / shown.size;
    const most = layer === null || place.width > box.width ? step : box.width;
    let before = 0;
    for (const node of all) {
      places[node] = { ...places[node], x: left + step * (Math.min(before, shown.size - 1) + 0.5), width: Math.max(3, Math.min(most, step - 2)) };
      if (shown.has(node)) before++;
      if (layer !== null) parts.add(node);
    }
  }
  return parts;
}

// Ten numbers an edge: where it starts and a line goes to the curve, the curve's four points, where a line ends it.
export const STRIDE = 10;
const PORT = { q: -0.27, k: 0, v: 0.27 };

export function routes(graph, circuit, layout) {
  const routed = new Float32Array(circuit.writers.length * STRIDE);
  for (let edge = 0; edge < circuit.writers.length; edge++) {
    route(graph, layout, circuit.writers[edge], circuit.readers[edge], routed, edge * STRIDE);
  }
  return routed;
}

function route(graph, layout, writer, reader, out, from) {
  const { kind, nodes } = graph.readers[reader];
  const target = nodes[nodes.length >> 1];
  const [a, b] = [layout.places[writer], layout.places[target]];
  const [source, sink] = [graph.nodes[writer].kind, graph.nodes[target].kind];
  const half = layout.box.height / 2;
  // beside a head is the gutter of its column, beside a block that of all its heads
  const beside = (node, place) => (graph.nodes[node].kind === "attention" ? Math.max(layout.column, place.width) : layout.column) / 2;
  const port = b.x + (PORT[kind] ?? 0) * b.width;
  const [right, left] = [a.x + a.width / 2, b.x - b.width / 2];
  // parts of an MLP are entered from below and left from above, as heads are
  const [from_part, into_part] = [source === "mlp" && layout.parts.has(writer), sink === "mlp" && layout.parts.has(target)];
  const side = !from_part && !into_part && (sink === "mlp" || sink === "logits") && source === "mlp";
  if (side || (source === "embed" && sink === "mlp" && !into_part)) arc(layout, right, a.y, b.x + b.width / 2, b.y, out, from);
  else if (source === "embed") {
    const gutter = into_part ? port : b.x - beside(target, b) + (PORT[kind] ?? 0) * 12;
    const turn = Math.min(a.y - half, b.y + half + layout.row * 0.75);
    write(out, from, a.y - half, gutter, turn, gutter, turn - layout.row * 0.4, port, b.y + half + layout.row * 0.4, port, b.y + half, b.y + half);
  } else if (sink === "logits") {
    const gutter = from_part ? a.x : a.x + beside(writer, a);
    const turn = Math.max(b.y + half, a.y - half - layout.row * 0.75);
    write(out, from, a.y - half, a.x, a.y - half, a.x, a.y - half - layout.row * 0.4, gutter, turn + layout.row * 0.4, gutter, turn, b.y + half);
  } else if (sink === "mlp" && !into_part && !from_part) {
    const rise = Math.min(a.y - b.y, layout.row * 1.5);
    write(out, from, a.y - half, a.x, a.y - half, a.x, a.y - half - rise, left - layout.column * 0.9, b.y, left, b.y, b.y);
  } else if (source === "mlp" && !from_part && !into_part) {
    const start = a.x - a.width / 2;
    write(out, from, a.y, start, a.y, start - layout.column * 0.9, a.y, port, b.y + half + Math.min(a.y - b.y, layout.row * 1.5), port, b.y + half, b.y + half);
  } else {
    const rise = Math.max(layout.row * 0.5, (a.y - b.y) * 0.4);
    // through the gutter beside the column, not through the nodes in it
    const bend = Math.abs(a.x - b.x) < 1 && a.y - b.y > layout.row * 1.5 ? -layout.column * 0.62 : 0;
    write(out, from, a.y - half, a.x, a.y - half, a.x + bend, a.y - half - rise, port + bend, b.y + half + rise, port, b.y + half, b.y + half);
  }
}

function arc(layout, x0, y0, x1, y1, out, from) {
  const bulge = Math.min(MARGIN.right + 20, 16 + 9 * Math.sqrt(Math.abs(y0 - y1) / 4));
  write(out, from, y0, x0, y0, Math.max(x0, x1) + bulge, y0, Math.max(x0, x1) + bulge, y1, x1, y1, y1);
}

function write(out, from, ...numbers) {
  out.set(numbers, from);
}

// Distance of a point from an edge, by points along it.
export function distance(routed, edge, x, y) {
  const [startY, x0, y0, x1, y1, x2, y2, x3, y3, endY] = routed.subarray(edge * STRIDE, (edge + 1) * STRIDE);
  let least = Math.min(offLine(x0, startY, y0, x, y), offLine(x3, y3, endY, x, y));
  let [px, py] = [x0, y0];
  for (let step = 1; step <= 16; step++) {
    const t = step / 16, s = 1 - t;
    const qx = s * s * s * x0 + 3 * s * s * t * x1 + 3 * s * t * t * x2 + t * t * t * x3;
    const qy = s * s * s * y0 + 3 * s * s * t * y1 + 3 * s * t * t * y2 + t * t * t * y3;
    least = Math.min(least, offSegment(px, py, qx, qy, x, y));
    [px, py] = [qx, qy];
  }
  return least;
}

function offLine(x, from, to, px, py) {
  return from === to ? Infinity : offSegment(x, from, x, to, px, py);
}

function offSegment(ax, ay, bx, by, px, py) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = Math.max(0, Math.min(1, ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(px - ax - along * dx, py - ay - along * dy);
}
