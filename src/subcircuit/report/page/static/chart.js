// Faithfulness against the number of edges, on a logarithmic axis.

import { grouped, number, svg } from "./dom.js";

const CHART = { width: 380, height: 132, left: 36, right: 10, top: 10, bottom: 30 };

export function curveChart(points, now) {
  const known = points.filter((point) => point.edges > 0 && point.faithfulness !== null);
  if (known.length < 2) return null;
  const [least, most] = [known[0].edges, known.at(-1).edges];
  const values = known.map((point) => point.faithfulness);
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  const x = (edges) => CHART.left + ((CHART.width - CHART.left - CHART.right) * Math.log(Math.max(least, edges) / least)) / Math.log(most / least);
  const y = (value) => CHART.height - CHART.bottom - ((CHART.height - CHART.top - CHART.bottom) * (value - low)) / (high - low);
  const line = (value) => svg("line", { x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value), class: "rule" });
  const word = (text, at_x, at_y, anchor) => svg("text", { x: at_x, y: at_y, "text-anchor": anchor }, text);
  const ticks = [0, 1].filter((value) => value >= low && value <= high);
  const decades = [];
  for (let power = 1; power <= most; power *= 10) if (power >= least) decades.push(power);
  if (!decades.length) decades.push(least, most);
  const spoken = known.map((point) => `${point.edges} edges: ${number(point.faithfulness)}`).join("; ");
  return svg(
    "svg",
    { viewBox: `0 0 ${CHART.width} ${CHART.height}`, class: "chart", role: "img", "aria-label": `faithfulness by number of edges: ${spoken}` },
    ...ticks.flatMap((value) => [line(value), word(String(value), CHART.left - 6, y(value) + 4, "end")]),
    ...decades.map((edges) => word(grouped(edges), x(edges), CHART.height - 14, edges === most ? "end" : "middle")),
    word("edges (log)", CHART.width - CHART.right, CHART.height - 2, "end"),
    svg("line", { x1: x(now), x2: x(now), y1: CHART.top, y2: CHART.height - CHART.bottom, class: "now" }),
    svg("polyline", { points: known.map((point) => `${x(point.edges)},${y(point.faithfulness)}`).join(" "), class: "curve" }),
    ...known.map((point) => svg("circle", { cx: x(point.edges), cy: y(point.faithfulness), r: 2.6, class: "dot" })),
  );
}
