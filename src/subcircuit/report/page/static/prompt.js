// A prompt in words: clean above corrupted, tokens that differ set off, and the answers.

import { el } from "./dom.js";
import { visible } from "./pattern.js";

export function promptView(item) {
  const line = (tokens, other) => el("p", { class: "tokens mono" }, ...tokens.map((token, i) => word(token, token !== other[i])));
  const answers = (name, tokens) => (tokens.length ? el("p", { class: "answers" }, el("span", { class: "faint" }, name), " ", ...listOf(tokens)) : null);
  return el(
    "div",
    { class: "prompt" },
    el("h3", {}, "clean"),
    line(item.clean, item.corrupted),
    el("h3", {}, "corrupted"),
    line(item.corrupted, item.clean),
    answers("right", item.correct),
    answers("wrong", item.wrong),
  );
}

function listOf(tokens) {
  const some = tokens.slice(0, 6).map((token) => el("span", { class: "token mono" }, visible(token)));
  if (tokens.length > 6) some.push(el("span", { class: "faint" }, `and ${tokens.length - 6} more`));
  return some.flatMap((one) => [one, " "]);
}

function word(token, differs) {
  return differs ? el("mark", {}, visible(token)) : el("span", {}, visible(token));
}

export const briefly = (item) => {
  const text = item.clean.join("").trim();
  return text.length > 46 ? `${text.slice(0, 45)}…` : text;
};
