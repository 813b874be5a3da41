// Where data come from: the page itself, or the server that it was opened by.

import { nearest } from "./data.js";
import { at } from "./dom.js";

const embedded = at("document");
const token = document.querySelector("meta[name=subcircuit-token]")?.content;

export const live = embedded === null;

export async function load() {
  return live ? ask("api/document") : JSON.parse(embedded.textContent);
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json", "X-Subcircuit-Token": token }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...options, cache: "no-store" });
  const content = await answer.json();
  if (!answer.ok || content.error) throw new Error(content.error ?? answer.statusText);
  return content;
}

// Prompts with their effects and patterns: in the page, or computed when they are asked for.
export const promptsOf = (content, circuit) => (live ? ask("api/prompts", { circuit }) : Promise.resolve(content.circuits[circuit].prompts));

export const progress = () => ask("api/progress");

// The circuit of so many edges, measured, with all others of its kind that have been. ahead: nobody waits for it, so it gives way.
export const measure = (circuit, edges, all, ahead) => ask("api/measure", { circuit, edges, all, ahead });

// Of about so many sizes, evenly spaced on a logarithmic axis, those not yet measured, nearest first: but before them the
// smallest, which takes little time, so that there is something on both sides.
export function unmeasured(sizes, points, count, about = 12) {
  const most = sizes.at(-1) ?? 0;
  const wanted = Array.from({ length: about }, (_, i) => nearest(sizes, Math.round(most ** (i / (about - 1)))));
  const known = new Set(points.map((point) => point.edges));
  const away = (size) => (size === sizes[0] ? -1 : Math.abs(Math.log(size / count)));
  return [...new Set(wanted)].filter((size) => !known.has(size)).sort((a, b) => away(a) - away(b));
}

// The measured point of this size, or one on the line between its neighbours, which is said to be about so.
export function interpolate(points, edges) {
  const above = points.findIndex((point) => point.edges >= edges);
  if (above < 0) return null;
  const [right, left] = [points[above], points[above - 1]];
  if (right.edges === edges || left === undefined) return right.edges === edges ? right : null;
  const share = Math.log(edges / Math.max(1, left.edges)) / Math.log(right.edges / Math.max(1, left.edges));
  const between = (name) => (left[name] === null || right[name] === null ? null : left[name] + share * (right[name] - left[name]));
  return { edges, metric: between("metric"), kl: between("kl"), faithfulness: between("faithfulness"), about: true };
}
