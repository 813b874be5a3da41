// Elements and numbers. Foreign text only ever becomes a text node.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const at = (id) => document.getElementById(id);

// 12,345: the browser's own formatter takes longer to load than the page.
export const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");

// Three digits, a real minus sign, no exponent where a reader can do without.
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  let words;
  if (size === 0 || size < 1e-9) words = "0";
  else if (size >= 1000) words = grouped(Math.round(size));
  else if (size >= 0.001) words = String(Number(size.toPrecision(3)));
  else words = size.toExponential(1);
  return (value < 0 && words !== "0" ? "−" : "") + words;
}

export const many = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;

// A colour of the style sheet, as it is in the present theme; asking the browser makes it lay out the page, so once is enough.
const colours = new Map();

export function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

export const forgetColours = () => colours.clear();
