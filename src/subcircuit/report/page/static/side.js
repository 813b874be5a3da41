// The panel beside the map: the circuit as a whole, two circuits compared, or one component.

import { curveChart } from "./chart.js";
import { at, el, grouped, many, number } from "./dom.js";
import { apartOf, stopOf, valueOf } from "./data.js";
import { bars, counted, edgeRows, facts, section } from "./lists.js";
import { patternView } from "./pattern.js";
import { promptView } from "./prompt.js";
import { edgesOf, positionRead, strongestFirst, strongestOf } from "./scene.js";

const STRONGEST = 200, MOST_NODES = 40;

// view: { graph, circuit, other, scene, shown, count, prompts, why, measurable, undefinedFor, state, points, side, onSelect, onSide }
export function showSide(view) {
  const { state, other } = view;
  const panel = at("side");
  const content = state.node !== null ? component(view) : other ? compared(view) : overview(view);
  const key = `${state.node} ${state.other} ${state.circuit}`;
  const scrolled = panel.dataset.of === key ? panel.scrollTop : 0;
  panel.dataset.of = key;
  panel.replaceChildren(...content.filter(Boolean));
  panel.scrollTop = scrolled;
}

function overview({ graph, circuit, scene, shown, count, prompts, why, measurable, undefinedFor, state, points, onSelect }) {
  const chart = curveChart(points, count);
  const item = prompts && state.prompt !== null ? prompts.items[state.prompt] : null;
  const strongest = [...strongestOf(scene, shown, STRONGEST)];
  return [
    el("h2", {}, circuit.name),
    missing(why),
    item ? section(`prompt ${state.prompt + 1} of ${prompts.items.length}`, promptView(item)) : null,
    circuit.path ? alongPath(circuit, chart, count) : chart || undefinedFor || measurable ? bySize(chart, undefinedFor) : null,
    item
      ? section("effect of cutting an edge on this prompt", el("p", { class: "evidence faint" }, howMeasured(prompts)), ...edgesHere(graph, scene, strongest, shown, item, onSelect))
      : section("strongest edges", scoreWords(circuit), ...edgesHere(graph, scene, strongest, shown, item, onSelect)),
    prompts ? section(directTitle(prompts), directNodes(graph, prompts, state.prompt, onSelect)) : null,
    section("how it was found", facts(circuit.rows)),
    apart(circuit),
  ];
}

function apart(circuit) {
  const count = apartOf(circuit);
  return count ? el("p", { class: "faint" }, `${many(count, "kept edge")} on no path from the embedding to the logits ${count === 1 ? "is" : "are"} not drawn, and not measured here.`) : null;
}

function bySize(chart, undefinedFor) {
  return el("section", { class: "by-size" }, el("h3", {}, "faithfulness by size"), chart ?? el("p", { class: "faint" }, undefinedFor ?? "Being measured."));
}

// The circuits of a refinement: what each of them does, and which of them this is.
function alongPath(circuit, chart, count) {
  const { path } = circuit;
  const { action } = stopOf(circuit, count);
  const round = action === "seed" ? "the seed of the refinement" : `after a round of ${action === "grow" ? "growing" : "pruning"}`;
  const own = path.holds_chosen ? "" : ` It is none of these: a smaller one, or one of its size, does better on the ${path.judge} prompts.`;
  return el(
    "section",
    { class: "along-path" },
    el("h3", {}, `faithfulness by size, on the ${path.judge} prompts`),
    chart,
    el("p", { class: "evidence faint" }, `The sizes are those of the refinement: of at most so many edges, the circuit that did best on the ${path.judge} prompts. This one of ${many(count, "edge")} is ${round}.`),
    count !== path.chosen || own ? el("p", { class: "evidence faint" }, `The circuit that was chosen has ${many(path.chosen, "edge")}; effects are those in it, and edges outside it have none.${own}`) : null,
  );
}

// A measurement more: the rest of the panel stays as it is.
export function showChart(points, count, undefinedFor) {
  at("side").querySelector(".by-size")?.replaceWith(bySize(curveChart(points, count), undefinedFor));
}

// Why prompts or measurements are not there, where they would be looked for.
const missing = (why) => (why ? el("p", { class: "problem", role: "status" }, why) : null);

const spaced = (name) => name.replaceAll("_", " ");

// What an edge's number on one prompt is: an estimate, and of which metric.
const howMeasured = (prompts) => `${spaced(prompts.metric)}, estimated to first order (${prompts.method}), for this prompt alone`;

const scoreWords = ({ method, metric }) => (method && metric ? el("p", { class: "evidence faint" }, `by ${method} on the ${spaced(metric)}, all prompts`) : null);

function edgesHere(graph, scene, edges, total, item, onSelect) {
  const rows = edgeRows(graph, scene, edges, onSelect);
  if (item) rows.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  return [bars(rows, { caption: "edges and their effects", total })];
}

const directTitle = (prompts) => `direct effect on the ${prompts.contrast ? "logit difference" : "answer's logit"}`;

// What each node writes to the answer itself: on one prompt, or the mean over all.
function directNodes(graph, prompts, prompt, onSelect) {
  const rows = prompt === null ? prompts.direct.clean : [prompts.direct.clean[prompt]];
  const nodes = graph.nodes.slice(0, rows[0].values.length).map((node, index) => {
    const value = rows.reduce((sum, row) => sum + valueOf(row, index), 0) / rows.length;
    return { name: node.name, value, act: () => onSelect(index) };
  });
  nodes.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  return bars(nodes.slice(0, MOST_NODES), { caption: "components and their direct effects", first: 8, total: nodes.length });
}

function compared({ graph, circuit, other, scene, shown, count, onSelect }) {
  const groups = [[], [], []];
  for (let i = 0; i < shown; i++) groups[scene.kinds[scene.edges[i]]].push(scene.edges[i]);
  const [shared, left, right] = groups;
  const jaccard = shown ? shared.length / shown : 1;
  const names = ["shared", `only ${circuit.name}`, `only ${other.name}`];
  return [
    el("h2", {}, "two circuits"),
    el("p", { class: "faint" }, `${circuit.path || other.path ? `Of each the circuit of at most ${grouped(count)} edges` : `The strongest of each, up to ${grouped(count)} edges`}. Jaccard index ${number(jaccard)}.`),
    el("dl", { class: "facts sides" }, ...groups.flatMap((edges, side) => [el("dt", {}, el("i", { class: `chip side-${["shared", "left", "right"][side]}` }), names[side]), el("dd", {}, counted(edges))])),
    ...[left, right, shared].map((edges, i) =>
      edges.length ? section([names[1], names[2], names[0]][i], bars(edgeRows(graph, scene, strongestFirst(scene, edges), onSelect), { caption: "edges", first: 8 })) : null,
    ),
  ];
}

function component({ graph, circuit, scene, shown, prompts, why, state, side, onSelect, onSide }) {
  const node = graph.byName.get(state.node);
  const { name, kind, layer } = graph.nodes[node];
  const label = circuit.labels[name];
  const { read, written } = edgesOf(graph, scene, shown, node);
  const place = layer === null ? "" : `, layer ${layer}`;
  const prompt = state.prompt ?? 0;
  return [
    el("button", { type: "button", class: "back", on: { click: () => onSelect(null) } }, "← circuit"),
    el("h2", { class: "mono" }, name),
    el("p", { class: "faint" }, `${whatIs(name, kind)}${place}`),
    missing(why),
    label?.label ? el("p", { class: "label" }, label.label) : null,
    label?.evidence ? el("p", { class: "evidence" }, label.evidence) : null,
    prompts && kind === "attention" ? attention(prompts, name, prompt, state.prompt, side, onSide) : null,
    read.length ? section(`reads ${counted(read)}`, bars(edgeRows(graph, scene, read, onSelect, { end: "writer" }).map((row, i) => ({ ...row, note: portOf(graph, scene, read[i]) })), { caption: "what it reads", first: 10 })) : null,
    written.length ? section(`writes ${counted(written)}`, bars(edgeRows(graph, scene, written, onSelect, { end: "reader" }), { caption: "what reads it", first: 10 })) : null,
    !read.length && !written.length ? el("p", {}, "No edge of it is shown at this threshold.") : null,
    prompts && kind !== "logits" ? section(directTitle(prompts), directPrompts(prompts, node, state.prompt)) : null,
  ];
}

function whatIs(name, kind) {
  const part = { n: "neuron", e: "expert", s: "shared expert" }[/^m\d+\.([nes])/.exec(name)?.[1]];
  return part ?? { attention: name.includes(".") ? "attention head" : "attention block", mlp: "MLP", embed: "embedding", logits: "unembedding" }[kind];
}

function portOf(graph, scene, edge) {
  const reader = graph.readers[scene.readers[edge]];
  const port = reader.name.includes("<router>") ? "router" : ({ q: "query", k: "key", v: "value" }[reader.kind] ?? "");
  return `${port} ${positionRead(reader)}`.trim();
}

function attention(prompts, name, prompt, chosen, side, onSide) {
  const hint = chosen === null ? ` (the picker above chooses another)` : "";
  return section("attention", el("p", { class: "faint" }, `prompt ${prompt + 1} of ${prompts.items.length}${hint}`), patternView(prompts, name, prompt, side, onSide));
}

function directPrompts(prompts, node, chosen) {
  const rows = prompts.items.flatMap((_, prompt) => {
    if (chosen !== null && prompt !== chosen) return [];
    return ["clean", "corrupted"].map((run) => ({ name: `${prompt + 1}`, note: run, value: valueOf(prompts.direct[run][prompt], node) }));
  });
  return bars(rows, { caption: `direct effect by prompt, ${many(prompts.items.length, "prompt")}`, first: 8 });
}
