// Rate against distortion: how much of a picture so many tokens keep.

import { h } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 190;
const PAD = { left: 42, right: 12, top: 12, bottom: 34 };

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** {element, show(points, kept, target)}; points are {count, psnr}, the target in dB draws a line. */
export function makeCurve() {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "t-curve", role: "img" });
  const element = h("figure", { class: "t-figure" }, svg);
  return { element, show: (points, kept, target) => draw(svg, points, kept, target) };
}

function draw(svg, points, kept, target) {
  if (!points.length) return svg.replaceChildren();
  const most = Math.max(8, Math.log2(Math.max(...points.map((point) => point.count))));
  const values = points.map((point) => point.psnr).concat(target ?? []);
  const low = Math.floor(Math.min(...values) - 1);
  const high = Math.ceil(Math.max(...values) + 1);
  const x = (count) => PAD.left + (Math.log2(count) / most) * (WIDTH - PAD.left - PAD.right);
  const y = (psnr) => HEIGHT - PAD.bottom - ((psnr - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const parts = [];
  for (const psnr of [low, (low + high) / 2, high]) {
    parts.push(shape("line", { class: "t-grid", x1: PAD.left, x2: WIDTH - PAD.right, y1: y(psnr), y2: y(psnr) }));
    parts.push(shape("text", { class: "t-tick", x: PAD.left - 6, y: y(psnr) + 4, "text-anchor": "end" }, String(Math.round(psnr))));
  }
  for (const count of [1, 4, 16, 64, 256]) {
    parts.push(shape("text", { class: "t-tick", x: x(count), y: HEIGHT - 18, "text-anchor": "middle" }, String(count)));
  }
  parts.push(shape("text", { class: "t-tick", x: WIDTH - PAD.right, y: HEIGHT - 3, "text-anchor": "end" }, "tokens"));
  parts.push(shape("text", { class: "t-tick", x: 2, y: 11 }, "dB"));
  if (target !== null) parts.push(shape("line", { class: "t-target", x1: PAD.left, x2: WIDTH - PAD.right, y1: y(target), y2: y(target) }));
  const path = points.map((point) => `${x(point.count)},${y(point.psnr)}`).join(" ");
  parts.push(shape("polyline", { class: "t-line", points: path }));
  for (const point of points) {
    const isKept = point.count === kept;
    parts.push(shape("circle", { class: isKept ? "t-point t-kept" : "t-point", cx: x(point.count), cy: y(point.psnr), r: isKept ? 6 : 3.5 }));
  }
  svg.setAttribute("aria-label", `Quality by number of tokens: ${points.map((point) => `${point.count}: ${point.psnr.toFixed(1)} dB`).join(", ")}`);
  svg.replaceChildren(...parts);
}
