// How far a job is: a course of stones, the phases, and the time left.

import { h } from "./dom.js";
import { activity, duration, remaining, size } from "./words.js";

const STONES = 40;

/** The phases of a job in order, with the one it is in: [{label, at: "past" | "now" | "next"}]. */
export function phasesOf(job) {
  const stages = job.plan.length ? job.plan : [[job.request.width, job.request.height]];
  const verifies = job.request.verify > 0;
  const labels = [verifies ? "Verify" : "Read prompt", ...stages.map(([width, height]) => size(width, height)), "Develop", "Save"];
  const paints = stages.length;
  const now = { load: 0, encode: 0, verify: 0, paint: Math.min(Math.max(job.stage, 1), paints), decode: paints + 1, save: paints + 2 };
  const index = job.state === "running" ? (now[job.phase] ?? 0) : -1;
  return labels.map((label, place) => ({ label, at: place < index ? "past" : place === index ? "now" : "next" }));
}

/** The element and an `update(job)` that redraws only what changed. */
export function makeProgress() {
  const stones = Array.from({ length: STONES }, (_, place) => h("i", { data: { tint: String((place * 7) % 3) } }));
  const course = h(
    "div",
    { class: "t-course", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" },
    stones,
  );
  const says = h("h2");
  const eta = h("span", { class: "t-eta" });
  const phases = h("ol", { class: "t-phases" });
  const element = h("div", { class: "t-progress" }, h("div", { class: "t-says" }, says, eta), course, phases);

  function update(job) {
    const fraction = Math.min(1, Math.max(0, job.fraction));
    const laid = job.state === "running" ? Math.floor(fraction * STONES) : 0;
    stones.forEach((stone, place) => {
      const mark = place < laid ? "1" : place === laid && job.state === "running" ? "now" : "";
      if ((stone.dataset.laid || "") !== mark) stone.dataset.laid = mark;
    });
    course.setAttribute("aria-valuenow", String(Math.round(fraction * 100)));
    says.textContent = headline(job);
    eta.textContent = timeLine(job);
    const rows = phasesOf(job);
    if (phases.children.length !== rows.length) phases.replaceChildren(...rows.map(() => h("li")));
    rows.forEach((row, place) => {
      const item = phases.children[place];
      if (item.textContent !== row.label) item.textContent = row.label;
      if (item.dataset.at !== row.at) item.dataset.at = row.at;
    });
  }

  return { element, update };
}

function headline(job) {
  if (job.on_hold) return `On hold: ${job.on_hold}`;
  if (job.state !== "queued") return activity(job);
  if (job.position === 0) return "Waiting to start";
  return job.position === 1 ? "Waiting for the picture before it" : `Waiting for ${job.position} pictures before it`;
}

function timeLine(job) {
  const spent = job.state === "running" ? `${duration(job.elapsed_s)} so far` : "";
  const left = job.eta_s === null ? "" : remaining(job.eta_s);
  return [left, spent].filter(Boolean).join(" \u00B7 ");
}
