// The slider and its numbers, the pickers, the search field and the theme.

import { at, el, forgetColours, grouped, many, number } from "./dom.js";
import { nearest } from "./data.js";
import { briefly } from "./prompt.js";
import { besides } from "./scene.js";

const STEPS = 1000;

// The slider is logarithmic in the number of edges: the strongest few deserve as much room as the weak thousands.
const room = (least, count) => Math.log(count / Math.max(1, least));
export const toCount = (step, { least, most }) => (most <= least ? most : step <= 0 ? least : Math.round(Math.max(1, least) * Math.exp((step / STEPS) * room(least, most))));
export const toStep = (count, { least, most }) => (count >= most ? STEPS : count <= least ? 0 : Math.round((STEPS * room(least, count)) / room(least, most)));

// Arrow keys on the slider go to the next circuit, whatever room it has there.
const STEP = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };

// sizes: of the circuits that the slider runs over; range: from which to which; count: the size of the one that is shown.
export function wireControls(store, { sizes, range, count }) {
  at("slider").addEventListener("input", ({ target }) => store.set({ edges: toCount(Number(target.value), range()) }));
  at("slider").addEventListener("keydown", (event) => {
    if (!STEP[event.key]) return;
    event.preventDefault();
    store.set({ edges: besides(sizes(), count(), STEP[event.key]) });
  });
  at("count").addEventListener("change", ({ target }) => {
    const wanted = Math.max(0, Math.round(Number(target.value)) || 0);
    // one more than is shown asks for the next circuit
    const edges = wanted === count() + 1 ? besides(sizes(), count(), 1) : nearest(sizes(), wanted);
    store.set({ edges });
    target.value = String(edges);
  });
  at("all").addEventListener("change", ({ target }) => store.set({ all: target.checked, edges: null }));
  const pick = (id, name, empty) => at(id).addEventListener("change", ({ target }) => store.set({ [name]: target.value === "" ? empty : Number(target.value) }));
  pick("circuit", "circuit", 0);
  pick("other", "other", null);
  pick("prompt", "prompt", null);
  at("find").addEventListener("input", ({ target }) => store.set({ find: target.value }));
  at("theme").addEventListener("click", () => store.set({ theme: isDark() ? "light" : "dark" }));
  const zoom = (factor) => store.set({ zoom: Math.min(4, Math.max(1, store.get().zoom * factor)) });
  at("closer").addEventListener("click", () => zoom(1.4));
  at("farther").addEventListener("click", () => zoom(1 / 1.4));
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select")) {
      event.preventDefault();
      at("find").focus();
    }
    if (event.key === "Escape") store.set({ node: null });
  });
}

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  forgetColours();
  at("theme").textContent = isDark() ? "light" : "dark";
  at("theme").setAttribute("aria-label", `change to ${isDark() ? "light" : "dark"} colours`);
}

export function fillPickers(circuits, state) {
  const options = circuits.map(({ name }, index) => el("option", { value: index }, name));
  at("circuit").replaceChildren(...options);
  at("other").replaceChildren(el("option", { value: "" }, "nothing"), ...options.map((option) => option.cloneNode(true)));
  for (const id of ["pick-circuit", "pick-other"]) at(id).hidden = circuits.length < 2;
  at("circuit").value = String(state.circuit);
  at("other").value = state.other === null ? "" : String(state.other);
}

// Where a prompt changes what is seen: in a comparison, the attention of one component alone.
export function showPromptPicker(prompts, state) {
  at("pick-prompt").hidden = !prompts || (state.other !== null && state.node === null);
}

export function fillPrompts(prompts, state) {
  showPromptPicker(prompts, state);
  if (!prompts) return;
  const options = prompts.items.map((item, index) => el("option", { value: index }, `${index + 1}  ${briefly(item)}`));
  at("prompt").replaceChildren(el("option", { value: "" }, `all ${prompts.items.length}`), ...options);
  at("prompt").value = state.prompt === null ? "" : String(state.prompt);
}

// asked: where the slider was moved to; the circuit shown there may be a smaller one.
// words: what else is to be said of the sizes.
export function showCount(count, asked, range, words) {
  const { most } = range;
  at("slider").value = String(toStep(asked ?? count, range));
  at("slider").setAttribute("aria-valuetext", many(count, "edge"));
  if (document.activeElement !== at("count")) at("count").value = String(count);
  at("count").max = String(most);
  at("of").textContent = `of ${grouped(most)}${words}`;
}

// weakest: the smallest score of an edge shown; null where there is none.
export function showThreshold(weakest) {
  at("threshold").textContent = weakest === null ? "–" : `≥ ${number(weakest)}`;
}

// stop: what the refinement measured of the circuit shown; null where there is none, and the other readings stand for it.
export function showStop(stop) {
  for (const reading of document.querySelectorAll("#controls .reading")) reading.hidden = Boolean(stop) !== reading.matches(".stop");
  for (const side of ["validation", "search"]) {
    const standing = stop?.[side];
    at(`on-${side}`).hidden = !standing;
    for (const name of ["faithfulness", "kl"]) at(`${side}-${name}`).textContent = number(standing?.[name]);
  }
}

// point: measured, or about so; null where nothing is known yet, which is waited for or not.
export function showReading(point, metric, waiting) {
  const write = (id, value) => {
    at(id).classList.toggle("about", Boolean(point?.about) || waiting);
    at(id).textContent = waiting && !point ? "…" : value === null || value === undefined ? "–" : `${point.about ? "≈ " : ""}${number(value)}`;
  };
  at("metric-name").textContent = (metric ?? "metric").replaceAll("_", " ");
  write("metric", point?.metric);
  write("faithfulness", point?.faithfulness);
  write("kl", point?.kl);
}

// What the server is computing, and how far it is; null when it has nothing to do. The place for it stays, so that nothing moves.
export function showWork(work) {
  at("measuring").hidden = false;
  at("measured").hidden = !work?.total;
  if (work?.total) at("measured").value = work.done / work.total;
  at("measuring-words").textContent = work?.words ?? "";
}

export const say = (words) => {
  at("said").textContent = words;
};
