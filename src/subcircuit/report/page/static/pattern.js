// A head's attention on one prompt: queries down, keys across.

import { colour, el, number } from "./dom.js";
import { patternOf } from "./data.js";
import { fit } from "./paint.js";

const MATRIX = 392, LABEL = 84, LARGEST = 26;
const RUNS = ["clean", "corrupted", "difference"];

export function patternView(prompts, name, prompt, side, onSide) {
  const clean = patternOf(prompts, name, prompt, false);
  if (!clean) return el("p", { class: "faint" }, "This page holds no attention patterns of this head.");
  const corrupted = patternOf(prompts, name, prompt, true);
  const rows = { clean, corrupted, difference: clean.map((row, q) => row.map((value, k) => value - corrupted[q][k])) }[side];
  const item = prompts.items[prompt];
  const tokens = side === "corrupted" ? item.corrupted : item.clean;
  const tabs = RUNS.map((one) =>
    el("button", { type: "button", "aria-pressed": String(one === side), on: { click: () => onSide(one) } }, one),
  );
  const said = el("output", { class: "mono cell" }, strongest(rows, tokens, item, side));
  return el("div", { class: "pattern" }, el("div", { class: "tabs", role: "group", "aria-label": "run" }, ...tabs), drawing(rows, tokens, item, side, said), said, side === "difference" ? scale() : null);
}

// What the two ends of a difference stand for.
function scale() {
  const end = (shade, words) => el("span", {}, el("i", { class: `chip ${shade}`, "aria-hidden": "true" }), words);
  return el("p", { class: "scale faint" }, end("all", "more in the clean prompt"), end("none", "less"));
}

// Where the answer's position looks most.
function strongest(rows, tokens, item, side) {
  const query = item.positions.at(-1);
  const order = rows[query].map((value, key) => [value, key]).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
  const words = order.slice(0, 3).map(([value, key]) => `${visible(tokens[key])} ${number(value)}`);
  return `${visible(tokens[query])} ${side === "difference" ? "changes at" : "looks at"}: ${words.join(", ")}`;
}

function drawing(rows, tokens, item, side, said) {
  const count = tokens.length;
  const cell = Math.max(3, Math.min(LARGEST, (MATRIX - LABEL) / count));
  const every = Math.ceil(9 / cell);
  const [width, height] = [LABEL + cell * count, LABEL + cell * count];
  const canvas = el("canvas", { role: "img", class: "matrix", "aria-label": `attention, ${side}: ${said.textContent}` });
  const density = fit(canvas, width, height);
  // narrower pages shrink it
  canvas.style.height = "auto";
  const context = canvas.getContext("2d");
  context.scale(density, density);
  const [ink, faint] = [colour("ink"), colour("faint")];
  // differences by lightness alone: towards the ink where there is more, towards the page where there is less
  const [grid, less] = side === "difference" ? [colour("middle"), colour("page")] : [colour("line"), ink];
  rows.forEach((row, query) =>
    row.forEach((value, key) => {
      context.globalAlpha = 1;
      context.fillStyle = grid;
      context.fillRect(LABEL + key * cell, LABEL + query * cell, cell - 1, cell - 1);
      context.globalAlpha = Math.min(1, Math.abs(value) ** (side === "difference" ? 0.5 : 0.7));
      context.fillStyle = value < 0 ? less : ink;
      context.fillRect(LABEL + key * cell, LABEL + query * cell, cell - 1, cell - 1);
    }),
  );
  context.globalAlpha = 1;
  context.font = `${Math.min(11, Math.max(8, cell * 0.8))}px ${colour("mono")}`;
  context.textBaseline = "middle";
  tokens.forEach((token, position) => {
    if (position % every) return;
    context.fillStyle = item.positions.includes(position) ? ink : faint;
    const middle = LABEL + (position + 0.5) * cell;
    context.textAlign = "right";
    context.fillText(short(token), LABEL - 6, middle);
    context.save();
    context.translate(middle, LABEL - 6);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(short(token), 0, 0);
    context.restore();
  });
  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
    const shrunk = width / canvas.clientWidth;
    const [key, query] = [offsetX, offsetY].map((offset) => Math.floor((offset * shrunk - LABEL) / cell));
    if (rows[query]?.[key] === undefined) return;
    said.textContent = `${visible(tokens[query])} → ${visible(tokens[key])}: ${number(rows[query][key])}`;
  });
  return canvas;
}

export const visible = (token) => (token === "" ? "∅" : token.replaceAll(" ", "·"));
const short = (token) => (visible(token).length > 10 ? `${visible(token).slice(0, 9)}…` : visible(token));
