// What is drawn: some edges in an order of which a prefix is shown, each with a colour and a width.

import { effectOf, listed } from "./data.js";
import { bucketOf } from "./paint.js";

export const KINDS = ["q", "k", "v", "attention", "mlp", "logits"];
export const WORDS = { q: "query", k: "key", v: "value", attention: "attention", mlp: "MLP", logits: "logits" };
export const SIDES = ["shared", "left", "right"];

// One circuit: colours say what reads.
export function sceneOf(graph, circuit, prompts, { all, prompt }) {
  const kinds = Uint8Array.from(circuit.readers, (reader) => KINDS.indexOf(graph.readers[reader].kind));
  const effects = Float32Array.from(circuit.writers, (_, edge) => effectOf(circuit, prompts, prompt, edge));
  const edges = listed(circuit, all);
  return {
    writers: circuit.writers,
    readers: circuit.readers,
    effects,
    edges,
    kinds,
    names: KINDS.map((kind) => `kind-${kind}`),
    buckets: buckets(effects, edges),
    most: edges.length,
    prefix: (count) => Math.min(count, edges.length),
  };
}

// Two circuits: colours say which of them keeps an edge. Both are cut off at the same number of edges, so edges are in the
// order of the better of their two ranks, and again a prefix is shown.
export function comparison(left, right, all) {
  const found = new Map();
  [left, right].forEach((circuit, side) => {
    listed(circuit, all).forEach((edge, rank) => {
      const key = circuit.writers[edge] * 0x100000 + circuit.readers[edge];
      const entry = found.get(key) ?? { writer: circuit.writers[edge], reader: circuit.readers[edge], ranks: [Infinity, Infinity], scores: [NaN, NaN] };
      entry.ranks[side] = rank;
      entry.scores[side] = circuit.scores[edge];
      found.set(key, entry);
    });
  });
  const better = (entry) => Math.min(...entry.ranks);
  const entries = [...found.values()].sort((a, b) => better(a) - better(b));
  const sizes = [largest(left), largest(right)];
  const effects = Float32Array.from(entries, ({ ranks, scores }) => scores[ranks[0] <= ranks[1] ? 0 : 1]);
  const strengths = entries.map(({ scores }) => Math.max(...scores.map((score, side) => Math.abs(score) / sizes[side] || 0)));
  const scene = {
    writers: Uint32Array.from(entries, (entry) => entry.writer),
    readers: Uint32Array.from(entries, (entry) => entry.reader),
    effects,
    edges: Uint32Array.from(entries, (_, index) => index),
    kinds: new Uint8Array(entries.length),
    names: SIDES.map((side) => `side-${side}`),
    buckets: Uint8Array.from(strengths, bucketOf),
    most: Math.max(listed(left, all).length, listed(right, all).length),
    entries,
    prefix(count) {
      let shown = 0;
      while (shown < entries.length && better(entries[shown]) < count) {
        scene.kinds[shown] = sideOf(entries[shown], count);
        shown++;
      }
      return shown;
    },
  };
  return scene;
}

export function sideOf({ ranks }, count) {
  const [left, right] = ranks.map((rank) => rank < count);
  return left && right ? 0 : left ? 1 : 2;
}

function largest(circuit) {
  const first = Math.abs(circuit.scores[circuit.all[0]]);
  return first > 0 ? first : 1;
}

// Widths by effect, the largest in view being the widest; edges without one are thin alike.
function buckets(effects, edges) {
  let most = 0;
  for (const edge of edges) if (Math.abs(effects[edge]) > most) most = Math.abs(effects[edge]);
  return Uint8Array.from(effects, (effect) => (most > 0 && Number.isFinite(effect) ? bucketOf(Math.abs(effect) / most) : bucketOf(0.12)));
}

// How often each node reads and writes among the edges shown, and how strongly.
export function activity(graph, scene, shown) {
  const [reads, writes] = [new Uint32Array(graph.nodes.length), new Uint32Array(graph.nodes.length)];
  for (let i = 0; i < shown; i++) {
    const edge = scene.edges[i];
    writes[scene.writers[edge]]++;
    for (const node of graph.readers[scene.readers[edge]].nodes) reads[node]++;
  }
  return { reads, writes };
}

// The edges shown that a node reads and writes, strongest first.
export function edgesOf(graph, scene, shown, node) {
  const [read, written] = [[], []];
  for (let i = 0; i < shown; i++) {
    const edge = scene.edges[i];
    if (scene.writers[edge] === node) written.push(edge);
    if (graph.readers[scene.readers[edge]].nodes.includes(node)) read.push(edge);
  }
  const strongest = (a, b) => (Math.abs(scene.effects[b]) || 0) - (Math.abs(scene.effects[a]) || 0);
  return { read: read.sort(strongest), written: written.sort(strongest) };
}

// At which position or token role something reads; nothing where places are not told apart.
export const placeRead = (reader) => /@.*$/.exec(reader.name)?.[0] ?? "";

// The edges shown that lie on each other: of the same two components and kind, at one place each.
export function coincident(graph, scene, shown, edge) {
  const [writer, reader] = [scene.writers[edge], graph.readers[scene.readers[edge]]];
  if (!placeRead(reader)) return [edge];
  const same = (other) => scene.writers[other] === writer && withoutPlace(graph.readers[scene.readers[other]]) === withoutPlace(reader);
  return [...scene.edges.subarray(0, shown)].filter(same);
}

export const withoutPlace = (reader) => reader.name.slice(0, reader.name.length - placeRead(reader).length);

export const edgeName = (graph, scene, edge) => `${graph.nodes[scene.writers[edge]].name} → ${graph.readers[scene.readers[edge]].name}`;
