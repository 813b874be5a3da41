// What is drawn: some edges in an order of which a prefix is shown, each with a colour and a width. Every edge that is shown lies on
// a path from an embedding to the logits. What is no prefix, as the circuits of a refinement, changes the order first.

import { effectOf, listed, nearest, ownSize } from "./data.js";
import { bucketOf } from "./paint.js";

export const KINDS = ["q", "k", "v", "attention", "mlp", "logits"];
export const WORDS = { q: "query", k: "key", v: "value", attention: "attention", mlp: "MLP", logits: "logits" };
export const SIDES = ["shared", "left", "right"];

// One circuit: colours say what reads.
export function sceneOf(graph, circuit, prompts, { all, prompt }) {
  const kinds = Uint8Array.from(circuit.readers, (reader) => KINDS.indexOf(graph.readers[reader].kind));
  const effects = Float32Array.from(circuit.writers, (_, edge) => effectOf(circuit, prompts, prompt, edge));
  const { edges, sizes, at } = listed(circuit, all);
  const scene = {
    writers: circuit.writers,
    readers: circuit.readers,
    effects,
    edges,
    kinds,
    names: KINDS.map((kind) => `kind-${kind}`),
    // edges outside the circuit that was chosen have no effect in it, and are not to look stronger than those that have
    buckets: buckets(effects, edges, circuit.path ? 0 : 0.12),
    sizes,
    least: circuit.path ? sizes[0] : 1,
    own: ownSize(circuit, all),
    prefix(count) {
      if (circuit.path) scene.edges = at(count);
      return Math.min(count, scene.edges.length);
    },
  };
  return scene;
}

// Two circuits: colours say which of them keeps an edge. Of each the largest circuit of at most so many edges is shown, so edges are
// in the order in which they join the first of the two that has them, and those that either has are shown.
export function comparison(left, right, all) {
  const found = new Map();
  const both = [left, right];
  both.forEach((circuit, side) => {
    const { edges, joins } = listed(circuit, all);
    edges.forEach((edge) => {
      const key = circuit.writers[edge] * 0x100000 + circuit.readers[edge];
      const entry = found.get(key) ?? { writer: circuit.writers[edge], reader: circuit.readers[edge], joins: [Infinity, Infinity], scores: [NaN, NaN], numbers: [null, null] };
      entry.joins[side] = joins[edge];
      entry.numbers[side] = edge;
      entry.scores[side] = circuit.scores[edge];
      found.set(key, entry);
    });
  });
  const first = (entry) => Math.min(...entry.joins);
  const entries = [...found.values()].sort((a, b) => first(a) - first(b));
  const sizes = [largest(left), largest(right)];
  const placed = both.map((circuit) => new Uint32Array(circuit.count));
  entries.forEach(({ numbers }, place) => numbers.forEach((edge, side) => edge !== null && (placed[side][edge] = place)));
  const effects = Float32Array.from(entries, ({ joins, scores }) => scores[joins[0] <= joins[1] ? 0 : 1]);
  const strengths = entries.map(({ scores }) => Math.max(...scores.map((score, side) => Math.abs(score) / sizes[side] || 0)));
  const scene = {
    writers: Uint32Array.from(entries, (entry) => entry.writer),
    readers: Uint32Array.from(entries, (entry) => entry.reader),
    effects,
    edges: Uint32Array.from(entries, (_, index) => index),
    kinds: new Uint8Array(entries.length),
    names: SIDES.map((side) => `side-${side}`),
    buckets: Uint8Array.from(strengths, bucketOf),
    sizes: [...new Set(both.flatMap((circuit) => listed(circuit, all).sizes))].sort((a, b) => a - b),
    own: Math.max(...both.map((circuit) => ownSize(circuit, all))),
    entries,
    prefix(count) {
      const holders = new Uint8Array(entries.length);
      both.forEach((circuit, side) => {
        const { sizes, at } = listed(circuit, all);
        if (sizes[0] <= count) for (const edge of at(count)) holders[placed[side][edge]] |= 1 << side;
      });
      const places = new Uint32Array(entries.length);
      let shown = 0;
      holders.forEach((sides, place) => {
        scene.kinds[place] = KIND_OF_SIDES[sides];
        if (sides) places[shown++] = place;
      });
      scene.edges = places.subarray(0, shown);
      return shown;
    },
  };
  scene.least = left.path && right.path ? (scene.sizes[0] ?? 0) : 1;
  return scene;
}

// The place in SIDES of what neither, the left one, the right one and both have.
const KIND_OF_SIDES = [0, 1, 2, 0];

function largest(circuit) {
  const first = Math.abs(circuit.scores[0]);
  return first > 0 ? first : 1;
}

// Widths by effect, the largest in view being the widest; edges without one are thin alike.
function buckets(effects, edges, without) {
  let most = 0;
  for (const edge of edges) if (Math.abs(effects[edge]) > most) most = Math.abs(effects[edge]);
  return Uint8Array.from(effects, (effect) => (most > 0 && Number.isFinite(effect) ? bucketOf(Math.abs(effect) / most) : bucketOf(without)));
}

// How many of the edges shown each node reads and writes, and which nodes are on their paths: what writes an edge, and what reads
// one, of heads that share keys or values only those that write.
export function activity(graph, scene, shown) {
  const [reads, writes] = [new Uint32Array(graph.nodes.length), new Uint32Array(graph.nodes.length)];
  for (let i = 0; i < shown; i++) {
    const edge = scene.edges[i];
    writes[scene.writers[edge]]++;
    for (const node of graph.readers[scene.readers[edge]].nodes) reads[node]++;
  }
  const onPath = Uint8Array.from(writes, (count) => count > 0);
  for (let i = 0; i < shown; i++) {
    const { nodes } = graph.readers[scene.readers[scene.edges[i]]];
    if (!nodes.some((node) => writes[node])) for (const node of nodes) onPath[node] = 1;
  }
  return { reads, writes, onPath };
}

// The first edges shown, strongest first: of one circuit, edges are numbered by strength.
export const strongestOf = (scene, shown, count) => scene.edges.slice(0, shown).sort().subarray(0, count);

// The size next to this one, up or down.
export function besides(sizes, count, step) {
  const place = sizes.indexOf(nearest(sizes, count)) + step;
  return sizes[Math.max(0, Math.min(sizes.length - 1, place))] ?? 0;
}

// The edges shown that a node reads and writes, strongest first.
export function edgesOf(graph, scene, shown, node) {
  const [read, written] = [[], []];
  for (let i = 0; i < shown; i++) {
    const edge = scene.edges[i];
    if (scene.writers[edge] === node) written.push(edge);
    if (graph.readers[scene.readers[edge]].nodes.includes(node)) read.push(edge);
  }
  return { read: strongestFirst(scene, read), written: strongestFirst(scene, written) };
}

export const strongestFirst = (scene, edges) => edges.sort((a, b) => (Math.abs(scene.effects[b]) || 0) - (Math.abs(scene.effects[a]) || 0));

// At which position or token role something reads; nothing where places are not told apart.
export const positionRead = (reader) => /@.*$/.exec(reader.name)?.[0] ?? "";

// The edges shown that lie on each other: of the same two components and kind, at one place each, strongest first.
export function coincident(graph, scene, shown, edge) {
  const [writer, reader] = [scene.writers[edge], graph.readers[scene.readers[edge]]];
  if (!positionRead(reader)) return [edge];
  const same = (other) => scene.writers[other] === writer && withoutPosition(graph.readers[scene.readers[other]]) === withoutPosition(reader);
  return strongestFirst(scene, [...scene.edges.subarray(0, shown)].filter(same));
}

export const withoutPosition = (reader) => reader.name.slice(0, reader.name.length - positionRead(reader).length);

export const edgeName = (graph, scene, edge) => `${graph.nodes[scene.writers[edge]].name} → ${graph.readers[scene.readers[edge]].name}`;
