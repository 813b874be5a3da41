// Puts the parts together: state in, picture out.

import { fillPickers, fillPrompts, say, setTheme, showCount, showPromptPicker, showReading, showStop, showThreshold, showWork, wireControls } from "./controls.js";
import { apartOf, listed, nearest, readCircuit, readGraph, readPrompts, stopOf } from "./data.js";
import { at, el, grouped, many, number } from "./dom.js";
import { createMap } from "./map.js";
import { WORDS, comparison, sceneOf } from "./scene.js";
import { showChart, showSide } from "./side.js";
import { interpolate, live, load, measure, progress, promptsOf, unmeasured } from "./source.js";
import { createStore } from "./state.js";

const SETTLED = 220, POLL = 2000, POLL_WORK = 400;

async function start() {
  let content = await load();
  const graph = readGraph(content.graph);
  let circuits = content.circuits.map(readCircuit);
  let scene, side = "clean", settling, measured = new Map(), computing = 0, watching = false;
  const busy = { now: false, ahead: false };
  const prompts = new Map(), problems = new Map();
  const labelOf = (name) => circuits[store.get().circuit].labels[name]?.label ?? "";
  const store = createStore(change);
  const map = createMap(graph, { onSelect: (node) => store.set({ node: node === null ? null : graph.nodes[node].name }), labelOf });

  function valid(state) {
    const inside = (index) => index !== null && index < circuits.length;
    const circuit = inside(state.circuit) ? state.circuit : 0;
    const known = prompts.get(circuit);
    return {
      ...state,
      circuit,
      other: inside(state.other) && state.other !== circuit ? state.other : null,
      prompt: known && state.prompt !== null && state.prompt < known.items.length ? state.prompt : null,
      node: graph.byName.has(state.node) ? state.node : null,
    };
  }

  const countOf = (state) => nearest(scene.sizes, state.edges ?? scene.own);
  const range = () => ({ least: scene.least, most: scene.sizes.at(-1) ?? 0 });
  const inView = (state) => [state.circuit, state.other].filter((index) => index !== null).map((index) => circuits[index]);

  function rebuild(state) {
    const circuit = circuits[state.circuit];
    scene = state.other === null ? sceneOf(graph, circuit, prompts.get(state.circuit), state) : comparison(circuit, circuits[state.other], state.all);
    map.populate(touched(state.all));
    document.body.classList.toggle("comparing", state.other !== null);
    document.body.classList.toggle("refined", Boolean(circuit.path));
    at("pick-all").hidden = inView(state).every((circuit) => circuit.path) || circuits.every((circuit) => circuit.path || circuit.count === circuit.keptCount);
    legend(state);
    warn(state);
  }

  // The components that some circuit on the page has an edge of.
  function touched(all) {
    const found = new Set();
    for (const circuit of circuits) {
      for (const edge of listed(circuit, all).edges) {
        found.add(circuit.writers[edge]);
        for (const node of graph.readers[circuit.readers[edge]].nodes) found.add(node);
      }
    }
    return found;
  }

  function change(raw, changed) {
    const state = valid(raw);
    if (changed.has("theme")) setTheme(state.theme);
    if (changed.has("zoom")) map.resize(state.zoom);
    if (["circuit", "other", "all", "prompt"].some((name) => changed.has(name))) rebuild(state);
    if (changed.has("circuit")) fetchPrompts(state.circuit);
    draw(state);
    if (changed.has("theme")) map.repaint();
    if (changed.has("find")) find(state.find);
  }

  function draw(state) {
    const count = countOf(state), shown = scene.prefix(count), circuit = circuits[state.circuit];
    const { edges, sizes } = listed(circuit, state.all);
    const last = count > 0 ? Math.abs(circuit.scores[edges[nearest(sizes, count) - 1]]) : NaN;
    map.show(scene, shown);
    map.select(state.node === null ? null : graph.byName.get(state.node));
    showCount(count, state.edges, range(), sizeWords(state));
    showThreshold(Number.isFinite(last) ? last : null);
    showPromptPicker(prompts.get(state.circuit), state);
    read(state, count);
    clearTimeout(settling);
    settling = setTimeout(() => settle(state, count, shown), SETTLED);
    if (settling && !at("side").dataset.of) panel(state, count, shown);
  }

  // What the sizes are, and how many edges are not among them.
  function sizeWords(state) {
    const refined = inView(state).filter((circuit) => circuit.path);
    if (refined.length) return state.other === null || refined.length === 2 ? ", sizes of the refinement" : `, for ${refined[0].name} sizes of the refinement`;
    const apart = state.all || state.other !== null ? 0 : apartOf(circuits[state.circuit]);
    return apart ? `, ${grouped(apart)} more on no path` : "";
  }

  // What is slower than drawing waits until the slider rests.
  function settle(state, count, shown) {
    panel(state, count, shown);
    measureNow();
    measureAhead();
    say(`${many(shown, "edge")} shown. faithfulness ${at(circuits[state.circuit].path ? `${circuits[state.circuit].path.judge}-faithfulness` : "faithfulness").textContent}`);
  }

  function panel(state, count, shown) {
    const picked = { ...state };
    showSide({
      graph,
      scene,
      shown,
      count,
      side,
      circuit: circuits[state.circuit],
      other: state.other === null ? null : circuits[state.other],
      prompts: prompts.get(state.circuit) ?? null,
      why: problems.get(state.circuit) ?? null,
      measurable: isMeasurable(state),
      undefinedFor: undefinedFor(state),
      state: picked,
      points: pointsOf(state),
      onSelect: (node) => store.set({ node: node === null ? null : graph.nodes[node].name }),
      onSide: (next) => {
        side = next;
        panel(state, count, shown);
      },
    });
  }

  const keyOf = (state) => `${state.circuit} ${state.all}`;

  // In a report, or by the server so far.
  const measurementsOf = (state) => circuits[state.circuit].measured?.[state.all ? "all" : "kept"] ?? measured.get(keyOf(state));
  const pointsOf = (state) => circuits[state.circuit].path?.points ?? measurementsOf(state)?.points ?? [];
  // Why there is no faithfulness, where the metric does not allow one.
  const undefinedFor = (state) => measurementsOf(state)?.why ?? null;

  function read(state, count) {
    showStop(stopOf(circuits[state.circuit], count));
    const points = pointsOf(state);
    const exact = points.find((point) => point.edges === count);
    const waiting = live && !exact && !problems.has(state.circuit);
    showReading(state.other === null ? (exact ?? interpolate(points, count)) : null, circuits[state.circuit].metric, waiting && state.other === null);
  }

  // Circuits of a refinement have been measured by it.
  const isMeasurable = (state) => live && !circuits[state.circuit].path && circuits[state.circuit].finished && state.other === null && !problems.has(state.circuit);

  // The size that is shown, and then that which is shown by then.
  const measureNow = () =>
    inTurn("now", (state) => {
      const count = countOf(state);
      return pointsOf(state).some((point) => point.edges === count) ? undefined : count;
    });

  // When nothing else is waited for: sizes on both sides of it, between which the slider can be read at once.
  const measureAhead = () =>
    inTurn("ahead", (state) => {
      if (busy.now || document.hidden || !prompts.has(state.circuit)) return undefined;
      return unmeasured(listed(circuits[state.circuit], state.all).sizes, pointsOf(state), countOf(state))[0];
    });

  // One measurement after another, as long as there is something to measure.
  async function inTurn(slot, next) {
    if (busy[slot]) return;
    busy[slot] = true;
    for (;;) {
      const state = valid(store.get());
      const edges = isMeasurable(state) ? next(state) : undefined;
      if (edges === undefined) break;
      // another page may have come between, or the circuit have changed: that is asked again later
      if (!(await measureSize(state, edges, slot === "ahead"))) break;
    }
    busy[slot] = false;
    if (slot === "now") measureAhead();
  }

  async function measureSize(state, edges, ahead) {
    try {
      measured.set(keyOf(state), await computed(measure(state.circuit, edges, state.all, ahead)));
    } catch (error) {
      problems.set(state.circuit, `Not measured: ${error.message}`);
    }
    const now = valid(store.get()), count = countOf(now);
    read(now, count);
    if (problems.has(state.circuit)) panel(now, count, scene.prefix(count));
    if (keyOf(now) === keyOf(state)) showChart(pointsOf(now), count, undefinedFor(now));
    return measured.get(keyOf(state))?.points.some((point) => point.edges === edges);
  }

  // While the server computes, the page shows how far it is.
  async function computed(answer) {
    computing++;
    watchWork();
    try {
      return await answer;
    } finally {
      computing--;
    }
  }

  async function watchWork() {
    if (watching || !live) return;
    watching = true;
    while (computing) {
      await new Promise((done) => setTimeout(done, POLL_WORK));
      const state = await progress().catch(() => null);
      showWork(computing ? state?.work : null);
    }
    showWork(null);
    watching = false;
  }

  async function fetchPrompts(circuit) {
    if (prompts.has(circuit)) return;
    try {
      if (!circuits[circuit].finished) throw new Error("they are looked at when the search is done");
      const found = await computed(promptsOf(content, circuit));
      prompts.set(circuit, readPrompts(found, circuits[circuit].count));
    } catch (error) {
      prompts.set(circuit, null);
      problems.set(circuit, `No prompts: ${error.message}`);
    }
    const state = valid(store.get());
    fillPrompts(prompts.get(state.circuit), state);
    if (state.circuit === circuit) {
      rebuild(state);
      draw(state);
      measureAhead();
    }
  }

  function find(text) {
    const wanted = text.trim().toLowerCase();
    const { labels } = circuits[valid(store.get()).circuit];
    const matches = (name) => name.includes(wanted) || labels[name]?.label?.toLowerCase().includes(wanted);
    const hits = wanted ? graph.nodes.flatMap(({ name }, index) => (matches(name) ? [index] : [])) : [];
    map.mark(new Set(hits));
    if (wanted) say(`${many(hits.length, "component")} found`);
    return hits;
  }

  function legend(state) {
    const names = state.other === null ? presentKinds() : ["shared", `only ${circuits[state.circuit].name}`, `only ${circuits[state.other].name}`];
    const classes = state.other === null ? presentKinds().map((kind) => `kind-${kind}`) : ["side-shared", "side-left", "side-right"];
    const items = names.map((name, i) => el("span", {}, el("i", { class: `stroke ${classes[i]}`, "aria-hidden": "true" }), WORDS[name] ?? name));
    const what = state.other === null ? "edges into" : "edges";
    const { meaning } = circuits[state.circuit];
    // on one prompt effects are estimates of their own, and two circuits may come of two methods
    const width = state.prompt === null && state.other === null && meaning ? `width: size of the effect, ${meaning}` : "width: size of the effect";
    at("legend").replaceChildren(el("span", { class: "faint" }, what), ...items, el("span", { class: "faint" }, width));
  }

  const presentKinds = () => Object.keys(WORDS).filter((kind) => graph.readers.some((reader) => reader.kind === kind));

  // What the searches of the circuits in view warned of.
  function warn(state) {
    const named = (circuit, words) => (circuits.length > 1 ? `${circuit.name}: ${words}` : words);
    const lines = inView(state).flatMap((circuit) => circuit.warnings.map((words) => el("p", {}, named(circuit, words))));
    at("warnings").replaceChildren(...lines);
    at("warnings").hidden = lines.length === 0;
  }

  function describe() {
    at("title").textContent = content.title;
  }

  function showProgress(state) {
    const began = !at("progress").hidden;
    at("progress").hidden = !state?.words;
    at("done").hidden = !state?.running;
    if (state?.words) {
      if (typeof state.share === "number") at("done").value = state.share;
      else at("done").removeAttribute("value");
      at("pace").textContent = state.words;
    } else if (state && began) say("the search is done");
  }

  // A search that is still running: its circuit grows on the page.
  async function follow() {
    const state = await progress().catch(() => null);
    showProgress(state);
    if (state && state.version !== content.version) {
      const shape = JSON.stringify(content.graph);
      content = await load();
      // a search from coarse levels to fine ones goes on in another graph
      if (JSON.stringify(content.graph) !== shape) location.reload();
      circuits = content.circuits.map(readCircuit);
      measured = new Map();
      prompts.clear();
      problems.clear();
      const now = valid(store.get());
      fillPickers(circuits, now);
      describe();
      rebuild(now);
      draw(now);
      fetchPrompts(now.circuit);
    }
    measureAhead();
    setTimeout(follow, POLL);
  }

  wireControls(store, { sizes: () => scene.sizes, range, count: () => countOf(valid(store.get())) });
  at("find").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const first = map.best(find(event.target.value), event.target.value.trim());
    if (first === undefined) return;
    // the key is done with: it is not to press the button that gets the focus
    event.preventDefault();
    store.set({ node: graph.nodes[first].name });
    // from there the arrow keys go on
    map.focus(first);
  });
  at("prompt").addEventListener("change", () => fillPrompts(prompts.get(store.get().circuit), store.get()));
  // not of the window alone: what the readings need below takes room from the map
  new ResizeObserver(() => map.resize(store.get().zoom)).observe(at("stage"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    setTheme(store.get().theme);
    map.repaint();
  });

  if (!live) for (const [index, one] of content.circuits.entries()) prompts.set(index, readPrompts(one.prompts, one.edges.count));
  const state = valid(store.get());
  describe();
  at("find").value = state.find;
  at("all").checked = state.all;
  setTheme(state.theme);
  fillPickers(circuits, state);
  map.resize(state.zoom);
  rebuild(state);
  fillPrompts(prompts.get(state.circuit), state);
  draw(state);
  if (state.find) find(state.find);
  document.documentElement.dataset.ready = "1";
  performance.mark("ready");
  if (live) {
    showWork(null);
    measureNow();
    fetchPrompts(state.circuit);
    follow();
  }
}

start().catch((error) => {
  at("side").replaceChildren(el("p", { class: "problem", role: "alert" }, `The page could not be shown: ${error.message}`));
});
