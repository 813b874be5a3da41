// Edges on a canvas. The strongest are drawn first and later ones beneath them, a slice of time at a stretch: a hundred
// thousand edges never block the page, and what matters is there at once.

import { STRIDE } from "./layout.js";

const SLICE = 24, CHUNK = 500;
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
  const context = canvas.getContext("2d");
  let present = 0;

  // scene: { edges, count, routed, buckets, kinds, colours, left, top, width, height }
  return function paint(scene, onDone) {
    const ours = ++present;
    const density = fit(canvas, scene.width, scene.height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(density, 0, 0, density, -scene.left * density, -scene.top * density);
    context.globalCompositeOperation = "destination-over";
    const crowd = Math.max(0.06, Math.min(0.5, 12 / Math.sqrt(scene.count + 1)));
    let next = 0;
    const some = () => {
      if (ours !== present) return;
      const until = performance.now() + SLICE;
      while (next < scene.count && performance.now() < until) {
        const stop = Math.min(scene.count, next + CHUNK);
        chunk(context, scene, next, stop, crowd);
        next = stop;
      }
      if (next < scene.count) requestAnimationFrame(some);
      else onDone();
    };
    some();
  };
}

function chunk(context, scene, start, stop, crowd) {
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
      context.globalAlpha = alphaOf(bucket, crowd);
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
