// The map of the circuit: edges on two canvases, components as buttons over them.

import { at, colour, el, many, number } from "./dom.js";
import { MARGIN, distance, layOut, routes, shortName } from "./layout.js";
import { createPainter } from "./paint.js";
import { activity, coincident, edgesOf, positionRead, withoutPosition } from "./scene.js";

const NEAR = 5, PICKABLE = 20000, MOST_BUTTONS = 4000, MOST_POSITIONS = 8;

export function createMap(graph, { onSelect, labelOf }) {
  const [stage, view, sheet, holder] = ["stage", "view", "sheet", "nodes"].map(at);
  const [paintAll, paintSome] = [createPainter(at("edges")), createPainter(at("over"))];
  let layout, scene, routed, shown = 0, selected = null, pointed = null, buttons = new Map(), active, lastLit = 0, used = new Set(), zoomed = 1, laid = null;

  function resize(zoom) {
    zoomed = zoom;
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    if (laid?.width === width && laid.height === height && laid.zoom === zoom && laid.used === used) return;
    laid = { width, height, zoom, used };
    layout = layOut(graph, width, height, zoom, used);
    const { sheet: size } = layout;
    sheet.style.width = `${Math.max(1, Math.floor(size.width))}px`;
    sheet.style.height = `${Math.max(1, Math.floor(size.height))}px`;
    for (const [node, button] of buttons) place(button, layout, node, graph.nodes[node].name);
    writeLayers(graph, layout);
    if (scene) show(scene, shown);
  }

  // Buttons for the components that can be in view; made once, so that focus stays where it is.
  function populate(touched) {
    if ([...touched].some((node) => !used.has(node))) {
      used = touched;
      resize(zoomed);
    }
    const many_ = graph.nodes.length > MOST_BUTTONS;
    graph.nodes.forEach((_, index) => {
      if (!buttons.has(index) && !(many_ && !used.has(index))) add(index);
    });
  }

  function add(index) {
    const { name, kind } = graph.nodes[index];
    const button = el("button", { type: "button", tabindex: "-1", class: `node ${kind} out`, "data-node": name });
    button.append(el("span", {}, name));
    buttons.set(index, button);
    holder.append(button);
    place(button, layout, index, name);
  }

  function show(next, count) {
    if (next !== scene || !routed || routed.layout !== layout) routed = { layout, numbers: routes(graph, next, layout) };
    [scene, shown] = [next, count];
    active = activity(graph, scene, shown);
    for (const [node, button] of buttons) {
      button.classList.toggle("out", !active.onPath[node]);
      button.classList.toggle("labelled", Boolean(labelOf(graph.nodes[node].name)));
    }
    paint();
    rove();
  }

  function paint() {
    const canvas = at("edges");
    canvas.dataset.drawing = "1";
    paintAll(window_(scene.edges, shown), () => {
      canvas.dataset.drawn = String(shown);
      delete canvas.dataset.drawing;
    });
    canvas.setAttribute("aria-label", `${many(shown, "edge")} between components, layers from bottom to top`);
    highlight();
  }

  function window_(edges, count) {
    const colours = scene.names.map(colour);
    const { scrollLeft: left, scrollTop: top } = view;
    const { clientWidth: width, clientHeight: height } = stage;
    return { edges, count, fickle: Boolean(scene.entries), routed: routed.numbers, buckets: scene.buckets, kinds: scene.kinds, colours, left, top, width, height };
  }

  // What is pointed at or selected stands out; everything else steps back.
  function highlight() {
    const node = pointed?.node ?? selected;
    let lit = pointed?.edge === undefined ? [] : [pointed.edge];
    if (!lit.length && node !== null) {
      const { read, written } = edgesOf(graph, scene, shown, node);
      lit = [...read, ...written];
    }
    stage.classList.toggle("focused", lit.length > 0);
    if (lit.length || lastLit) paintSome(window_(Uint32Array.from(lit), lit.length), () => {});
    lastLit = lit.length;
    const ends = lit.flatMap((edge) => [scene.writers[edge], ...graph.readers[scene.readers[edge]].nodes]);
    const near = new Set(ends.filter((end) => active.onPath[end]));
    for (const [index, button] of buttons) {
      button.classList.toggle("near", near.has(index));
      button.classList.toggle("selected", index === selected);
      button.setAttribute("aria-pressed", String(index === selected));
    }
  }

  function point(next, x, y) {
    const same = next?.node === pointed?.node && next?.edge === pointed?.edge;
    pointed = next;
    if (!same) highlight();
    const tip = at("tip");
    tip.hidden = next === null;
    if (next === null) return;
    tip.replaceChildren(...(next.edge === undefined ? aboutNode(next.node) : aboutEdge(next.edge)));
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const area = at("map").getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x - area.left + 14, area.width - width - 8))}px`;
    tip.style.top = `${Math.max(4, y - area.top + 18 + height > area.height ? y - area.top - height - 12 : y - area.top + 18)}px`;
  }

  function aboutNode(node) {
    const { name } = graph.nodes[node];
    const words = `reads ${many(active.reads[node], "edge")}, writes ${many(active.writes[node], "edge")}`;
    const label = labelOf(name);
    return [el("strong", { class: "mono" }, name), label ? el("p", {}, label) : "", el("p", { class: "faint" }, words)];
  }

  function aboutEdge(edge) {
    const reader = graph.readers[scene.readers[edge]];
    const [writer, into] = [graph.nodes[scene.writers[edge]].name, withoutPosition(reader)];
    const labels = [writer, into.replace(/<.*>$/, "")].map((name) => [name, labelOf(name)]).filter(([, label]) => label);
    return [
      el("strong", { class: "mono" }, `${writer} → ${into}`),
      ...effects(coincident(graph, scene, shown, edge)),
      ...labels.map(([name, label]) => el("p", { class: "faint" }, `${name}: ${label}`)),
    ];
  }

  function effects(edges) {
    const where = (edge) => positionRead(graph.readers[scene.readers[edge]]);
    const lines = edges.slice(0, MOST_POSITIONS).map((edge) => el("p", {}, `${where(edge)} effect ${number(scene.effects[edge])}`.trim()));
    return edges.length > MOST_POSITIONS ? [...lines, el("p", { class: "faint" }, `and at ${many(edges.length - MOST_POSITIONS, "other position")}`)] : lines;
  }

  function edgeAt(x, y) {
    const area = view.getBoundingClientRect();
    const [sx, sy] = [x - area.left + view.scrollLeft, y - area.top + view.scrollTop];
    let [best, least] = [undefined, NEAR];
    for (let i = 0; i < Math.min(shown, PICKABLE); i++) {
      const away = distance(routed.numbers, scene.edges[i], sx, sy);
      if (away < least) [best, least] = [scene.edges[i], away];
      if (least < 1.5) break;
    }
    return best;
  }

  // One component is in the order of the tab key; arrows go to the next one in their direction.
  function rove(to) {
    const current = to ?? [...buttons].find(([, button]) => button.tabIndex === 0 && !button.classList.contains("out"))?.[0];
    const chosen = current ?? selected ?? [...buttons].find(([, button]) => !button.classList.contains("out"))?.[0];
    for (const [index, button] of buttons) button.tabIndex = index === chosen ? 0 : -1;
    if (to !== undefined) buttons.get(to).focus();
  }

  function neighbour(from, dx, dy) {
    const here = layout.places[from];
    let [best, least] = [from, Infinity];
    for (const [index, button] of buttons) {
      if (index === from || button.classList.contains("out")) continue;
      const there = layout.places[index];
      const [x, y] = [there.x - here.x, there.y - here.y];
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead > 0.5 && ahead + 2.5 * aside < least) [best, least] = [index, ahead + 2.5 * aside];
    }
    return best;
  }

  const nodeOf = (target) => {
    const name = target.closest?.("[data-node]")?.dataset.node;
    return name === undefined ? null : graph.byName.get(name);
  };

  // The component that is not in the circuit whose place this is.
  function absentAt(x, y) {
    const area = view.getBoundingClientRect();
    const [sx, sy] = [x - area.left + view.scrollLeft, y - area.top + view.scrollTop];
    const inside = (node) => Math.abs(sx - layout.places[node].x) <= layout.places[node].width / 2 && Math.abs(sy - layout.places[node].y) <= layout.box.height / 2;
    return [...buttons.keys()].find((node) => !active.onPath[node] && inside(node));
  }

  // What is at a point: a component of the circuit, else an edge, else a component whose place is empty.
  function thingAt({ target, clientX, clientY }) {
    const node = nodeOf(target);
    if (node !== null) return { node };
    const edge = edgeAt(clientX, clientY);
    if (edge !== undefined) return { edge };
    const absent = absentAt(clientX, clientY);
    return absent === undefined ? null : { node: absent };
  }

  const opened = (thing) => thing?.node ?? (thing?.edge === undefined ? null : graph.readers[scene.readers[thing.edge]].nodes.find((node) => active.onPath[node]));

  view.addEventListener("scroll", () => scene && paint());
  view.addEventListener("pointermove", (event) => scene && point(thingAt(event), event.clientX, event.clientY));
  view.addEventListener("pointerleave", () => scene && point(null));
  view.addEventListener("click", (event) => {
    const node = opened(thingAt(event));
    onSelect(node === selected ? null : node);
  });
  holder.addEventListener("focusin", ({ target }) => {
    const node = nodeOf(target);
    const area = target.getBoundingClientRect();
    target.setAttribute("aria-label", [...aboutNode(node)].map((part) => part.textContent ?? part).filter(Boolean).join(", "));
    if (target.matches(":focus-visible")) point({ node }, area.right - 10, area.bottom - 10);
  });
  holder.addEventListener("focusout", () => scene && point(null));
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    rove(neighbour(nodeOf(event.target), ...step));
  });

  return {
    resize,
    populate,
    show,
    repaint: () => scene && paint(),
    select(node) {
      selected = node;
      highlight();
    },
    // Of the components found: the one of this name, else the first of the circuit, else the first.
    best: (found, name) => found.find((node) => graph.nodes[node].name === name) ?? found.find((node) => active.onPath[node]) ?? found[0],
    focus(node) {
      if (!buttons.has(node)) add(node);
      rove(node);
      buttons.get(node).scrollIntoView({ block: "nearest", inline: "nearest" });
    },
    mark(nodes) {
      for (const [index, button] of buttons) button.classList.toggle("hit", nodes.has(index));
    },
  };
}

function place(button, layout, node, name) {
  const { x, y, width } = layout.places[node];
  const { height } = layout.box;
  Object.assign(button.style, { left: `${x - width / 2}px`, top: `${y - height / 2}px`, width: `${width}px`, height: `${height}px` });
  const short = shortName(name);
  const letter = height < 13 ? 5.4 : 6.4;
  const text = name.length * letter + 6 <= width ? name : short.length * letter + 4 <= width ? short : "";
  button.firstChild.textContent = text;
  button.classList.toggle("small", height < 13);
}

function writeLayers(graph, layout) {
  const every = layout.row >= 15 ? 1 : 5;
  const labels = [];
  for (let layer = 0; layer < graph.layers; layer += every) {
    const y = layout.sheet.height - MARGIN.bottom - layout.row * (layer + 1);
    const label = el("span", {}, layer === 0 || layout.row > 30 ? `layer ${layer}` : String(layer));
    label.style.top = `${y}px`;
    labels.push(label);
  }
  at("layers").replaceChildren(...labels);
}
