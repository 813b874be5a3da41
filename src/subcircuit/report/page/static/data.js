// The document as typed arrays. Edges are numbered strongest first. A threshold leaves those of the stronger ones that lie on a
// path from an embedding to the logits; these circuits are told apart by their size. The circuits of a refinement are listed one by one.

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array, f4: Float32Array };

export function unpack(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new TYPES[packed.type](bytes.buffer);
}

export function readGraph(graph) {
  const byName = new Map(graph.nodes.map((node, index) => [node.name, index]));
  return { ...graph, byName };
}

export function readCircuit(circuit) {
  const edges = circuit.edges;
  const path = circuit.path && readPath(circuit.path, edges.count);
  return {
    ...circuit,
    path,
    count: edges.count,
    keptCount: edges.kept_count,
    writers: unpack(edges.writers),
    readers: unpack(edges.readers),
    scores: unpack(edges.scores),
    kept: path?.circuits ?? joining(unpack(edges.among_kept)),
    all: path?.circuits ?? joining(unpack(edges.among_all)),
  };
}

// joins: of each edge, the size of the smallest circuit that holds it, 0 where none does. edges: those that some circuit holds,
// in the order in which they join. sizes: of all circuits, from the smallest. at: the edges of the largest circuit of at most so many.
function joining(joins) {
  const keys = new Float64Array(joins.length);
  for (let edge = 0; edge < joins.length; edge++) keys[edge] = joins[edge] * joins.length + edge;
  const edges = Uint32Array.from(keys.sort(), (key) => key % joins.length).filter((edge) => joins[edge]);
  const sizes = [...new Set(Array.from(edges, (edge) => joins[edge]))];
  return { joins, edges, sizes, at: (count) => edges.subarray(0, nearest(sizes, count)) };
}

// The circuits of a refinement. Edges come and go between them, so each is a list of its own, strongest edge first.
function readPath(path, count) {
  const lists = path.stops.map((stop) => unpack(stop.edges));
  const sizes = lists.map((list) => list.length);
  const joins = new Uint32Array(count);
  lists.forEach((list) => list.forEach((edge) => (joins[edge] ||= list.length)));
  const points = path.stops.map((stop, index) => ({ ...stop, edges: sizes[index], ...(stop.validation ?? stop.search) }));
  const circuits = { ...joining(joins), sizes, at: (most) => lists[sizes.indexOf(nearest(sizes, most))] };
  return { ...path, points, circuits, judge: path.stops.some((stop) => stop.validation) ? "validation" : "search" };
}

// What the refinement measured of the circuit that the slider leaves; null without a refinement.
export const stopOf = ({ path }, count) => path?.points.find((point) => point.edges === count) ?? null;

// The size with which a circuit is shown first: its own.
export const ownSize = (circuit, all) => circuit.path?.chosen ?? listed(circuit, all).sizes.at(-1) ?? 0;

// How many kept edges lie on no path. Where a node that reads nothing writes what it is ablated to, as with corrupted prompts, they
// change nothing. Circuits of a refinement are shown whole.
export const apartOf = ({ keptCount, kept, path }) => (path ? 0 : keptCount - kept.edges.length);

// What the slider runs over: the circuit's edges, or all that are in the document; of a refinement its circuits.
export const listed = (circuit, all) => (all ? circuit.all : circuit.kept);

// The largest of these sizes that is at most count; the smallest where all are larger.
export function nearest(sizes, count) {
  let [low, high] = [0, sizes.length];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sizes[middle] <= count) low = middle;
    else high = middle;
  }
  return sizes[low] ?? 0;
}

export function readPrompts(prompts, edges) {
  if (!prompts) return null;
  const rows = (packed, width) => {
    const flat = unpack(packed);
    return packed.scale.map((scale, row) => ({ scale, values: flat.subarray(row * width, (row + 1) * width) }));
  };
  const nodes = (packed) => rows(packed, unpack(packed).length / prompts.items.length);
  return {
    ...prompts,
    effects: rows(prompts.effects, edges),
    direct: { clean: nodes(prompts.direct.clean), corrupted: nodes(prompts.direct.corrupted) },
    packedPatterns: prompts.patterns,
    patterns: new Map(),
  };
}

export const valueOf = (row, index) => row.values[index] * row.scale;

// The effect of an edge: over all prompts, or on one of them.
export function effectOf(circuit, prompts, prompt, edge) {
  if (prompt === null || !prompts) return circuit.scores[edge];
  return valueOf(prompts.effects[prompt], edge);
}

// A head's attention on one prompt, as rows of queries; null where the page does not hold it.
export function patternOf(prompts, name, prompt, corrupted) {
  const place = prompts.heads.indexOf(name);
  if (place < 0) return null;
  if (!prompts.patterns.has(name)) prompts.patterns.set(name, unpack(prompts.packedPatterns[place]));
  const flat = prompts.patterns.get(name);
  const size = (item) => (prompts.causal ? (item.clean.length * (item.clean.length + 1)) / 2 : item.clean.length ** 2);
  let start = 0;
  for (const item of prompts.items.slice(0, prompt)) start += 2 * size(item);
  const item = prompts.items[prompt];
  start += corrupted ? size(item) : 0;
  const length = item.clean.length;
  return Array.from({ length }, (_, query) => {
    const seen = prompts.causal ? query + 1 : length;
    const from = start + (prompts.causal ? (query * (query + 1)) / 2 : query * length);
    return Array.from({ length }, (_, key) => (key < seen ? flat[from + key] / 255 : 0));
  });
}
