// Edges on a canvas. The strongest are drawn first and later ones beneath them, some in each frame: a hundred thousand
// edges never block the page, and what matters is there at once. How an edge looks depends on itself and its rank alone, so
// pictures of prefixes are kept, and a slider goes on from the nearest of them.

import { STRIDE } from "./layout.js";

const SLICE = 18, CHUNK = 50, SHOTS_FROM = 2000, SHOTS_RATIO = 1.2;
// drawn when it is said, not after the script has ended: only so does the clock tell when a frame is full
const AT_ONCE = { willReadFrequently: true };
export const BUCKETS = 10;

// How wide an edge is, in steps of strength from 0 to 1.
export const bucketOf = (strength) => Math.min(BUCKETS - 1, Math.floor(Math.sqrt(strength) * BUCKETS));
const widthOf = (bucket) => 0.7 + 4.6 * ((bucket + 0.5) / BUCKETS) ** 1.3;
const alphaOf = (bucket, crowd) => Math.min(0.95, crowd + 0.75 * ((bucket + 0.5) / BUCKETS));

export function fit(canvas, width, height) {
  const density = Math.min(2, devicePixelRatio || 1);
  const [w, h] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  return density;
}

export function createPainter(canvas) {
  const context = canvas.getContext("2d", AT_ONCE);
  let present = 0, last = null, painted = 0, shots = [];

  // scene: { edges, count, routed, buckets, kinds, colours, left, top, width, height, fickle }
  return function paint(scene, onDone) {
    const ours = ++present;
    const density = fit(canvas, scene.width, scene.height);
    if (!sameView(scene, last)) [shots, painted] = [[], Infinity];
    const shot = shots.filter((one) => one.count <= scene.count).at(-1);
    if (painted > scene.count || (shot?.count ?? 0) > painted) painted = restore(canvas, context, shot);
    last = scene;
    context.setTransform(density, 0, 0, density, -scene.left * density, -scene.top * density);
    context.globalCompositeOperation = "destination-over";
    const some = () => {
      if (ours !== present) return;
      const until = performance.now() + SLICE;
      while (painted < scene.count && performance.now() < until) {
        const mark = scene.fickle ? Infinity : nextShot(painted);
        const stop = Math.min(scene.count, mark, painted + CHUNK);
        chunk(context, scene, painted, stop);
        painted = stop;
        if (stop === mark && !shots.some((one) => one.count === mark)) shots.push({ count: stop, image: copyOf(canvas) });
      }
      if (painted < scene.count) requestAnimationFrame(some);
      else onDone();
    };
    some();
  };
}

function sameView(scene, last) {
  if (last === null || scene.fickle || last.fickle) return false;
  const same = (name) => scene[name] === last[name];
  return ["edges", "routed", "buckets", "left", "top", "width", "height"].every(same) && String(scene.colours) === String(last.colours);
}

function nextShot(count) {
  let mark = SHOTS_FROM;
  while (mark <= count) mark = Math.ceil(mark * SHOTS_RATIO);
  return mark;
}

function copyOf(canvas) {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  copy.getContext("2d", AT_ONCE).drawImage(canvas, 0, 0);
  return copy;
}

// Go on from a picture that was kept, or from nothing.
function restore(canvas, context, shot) {
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalAlpha = 1;
  context.globalCompositeOperation = "copy";
  if (shot) context.drawImage(shot.image, 0, 0);
  else context.clearRect(0, 0, canvas.width, canvas.height);
  return shot?.count ?? 0;
}

function chunk(context, scene, start, stop) {
  let style = -1;
  for (let i = start; i < stop; i++) {
    const edge = scene.edges[i];
    const bucket = scene.buckets[edge], kind = scene.kinds[edge];
    const wanted = kind * BUCKETS + bucket;
    if (wanted !== style) {
      if (style >= 0) context.stroke();
      context.beginPath();
      context.strokeStyle = scene.colours[kind];
      context.lineWidth = widthOf(bucket);
      context.globalAlpha = alphaOf(bucket, Math.max(0.06, Math.min(0.5, 12 / Math.sqrt(i + 1))));
      style = wanted;
    }
    trace(context, scene.routed, edge * STRIDE);
  }
  if (style >= 0) context.stroke();
}

function trace(context, r, i) {
  context.moveTo(r[i + 1], r[i]);
  if (r[i] !== r[i + 2]) context.lineTo(r[i + 1], r[i + 2]);
  context.bezierCurveTo(r[i + 3], r[i + 4], r[i + 5], r[i + 6], r[i + 7], r[i + 8]);
  if (r[i + 9] !== r[i + 8]) context.lineTo(r[i + 7], r[i + 9]);
}
