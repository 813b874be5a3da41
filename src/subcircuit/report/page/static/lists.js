// Lists of edges and of numbers, as tables that a screen reader can read too.

import { el, grouped, many, number } from "./dom.js";
import { edgeName } from "./scene.js";

const FIRST = 12;

// Rows of a name, a bar and a number. rows: [{ name, value, kind, act, note }]
export function bars(rows, { caption, first = FIRST, total = rows.length } = {}) {
  const most = Math.max(1e-30, ...rows.map((row) => Math.abs(row.value) || 0));
  const body = el("tbody");
  const fill = (count) => body.replaceChildren(...rows.slice(0, count).map((row) => bar(row, most)));
  fill(first);
  const table = el("table", { class: "bars" }, el("caption", { class: "hidden" }, caption ?? ""), el("colgroup", {}, el("col", { class: "names" }), el("col"), el("col", { class: "numbers" })), body);
  if (rows.length <= first) return table;
  const more = el("button", { type: "button", class: "more" }, rows.length < total ? `first ${grouped(rows.length)} of ${grouped(total)}` : `all ${grouped(total)}`);
  more.addEventListener("click", () => {
    fill(rows.length);
    more.remove();
  });
  return el("div", {}, table, more);
}

function bar({ name, value, kind, act, note }, most) {
  const length = el("i", { class: `length ${value < 0 ? "less" : "more-than"}` });
  length.style.width = `${(100 * Math.abs(value)) / most || 0}%`;
  const label = act ? el("button", { type: "button", class: "link mono", on: { click: act } }, name) : el("span", { class: "mono" }, name);
  const chip = kind ? el("i", { class: `chip ${kind}`, "aria-hidden": "true" }) : null;
  const said = note ? el("span", { class: "note" }, note) : null;
  return el("tr", {}, el("th", { scope: "row" }, chip, label, said), el("td", { class: "track" }, length), el("td", { class: "value mono" }, number(value)));
}

export function edgeRows(graph, scene, edges, onSelect, { end } = {}) {
  return edges.map((edge) => {
    const writer = scene.writers[edge], reader = graph.readers[scene.readers[edge]];
    const name = end === "writer" ? graph.nodes[writer].name : end === "reader" ? reader.name : edgeName(graph, scene, edge);
    const target = end === "writer" ? writer : reader.nodes[0];
    return { name, value: scene.effects[edge], kind: scene.names[scene.kinds[edge]], act: () => onSelect(target) };
  });
}

export function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}

export function facts(rows) {
  return el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export const counted = (edges) => many(edges.length, "edge");
