// What is said under a finished picture: its settings, what to do with it, what it cost.

import { address } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";
import { bytes, duration, size } from "./words.js";

const PHASE_NAMES = { load: "Load model", encode: "Read prompt", paint: "Paint", decode: "Develop", save: "Save" };

/** The block under a picture; `act.restore()` and `act.again()` are called by its buttons. */
export function makeCaption(picture, act) {
  const { request } = picture;
  const facts = [
    size(request.width, request.height),
    `seed ${request.seed}`,
    request.style ? `style ${request.style}` : "",
    total(picture.seconds) ? duration(total(picture.seconds)) : "",
    picture.file_bytes ? bytes(picture.file_bytes) : "",
  ];
  return h(
    "div",
    {},
    h("h2", { class: "t-caption", dir: "auto", title: request.prompt }, request.prompt),
    h("div", { class: "t-facts" }, facts.filter(Boolean).map((fact) => h("span", {}, fact))),
    h(
      "div",
      { class: "t-row" },
      h(
        "a",
        { class: "t-button", data: { kind: "main" }, href: address(`pictures/${picture.id}.png?download=1`), download: "" },
        icon(ICONS.download),
        "Download PNG",
      ),
      h("button", { type: "button", class: "t-button", on: { click: act.again } }, icon(ICONS.dice), "New seed"),
      h("button", { type: "button", class: "t-button", on: { click: act.restore } }, icon(ICONS.restore), "Use these settings"),
      copyButton("Copy as Python", picture.python),
      copyButton("Copy command", picture.shell),
    ),
    picture.warnings.map((text) => h("div", { class: "t-note", role: "note" }, text)),
    cost(picture),
  );
}

const total = (seconds) => Object.values(seconds).reduce((sum, value) => sum + value, 0);

function copyButton(label, text) {
  const words = h("span", {}, label);
  const copy = async () => {
    words.textContent = (await toClipboard(text)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (words.textContent = label), 1600);
  };
  return h("button", { type: "button", class: "t-button", data: { copy: text }, on: { click: copy } }, icon(ICONS.copy), words);
}

/** Copy text; pages served over plain http to another machine have no clipboard API, so a selection is the fallback. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = h("textarea", { style: { position: "fixed", opacity: "0" } });
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}

function cost(picture) {
  const entries = Object.entries(picture.seconds).filter(([, value]) => value > 0);
  const sum = total(picture.seconds);
  const hue = (place) => `t-hue-${place % 5}`;
  const bar = h(
    "div",
    { class: "t-bar", "aria-hidden": "true" },
    entries.map(([, value], place) => h("i", { class: hue(place), style: { flex: `${value} 1 0` } })),
  );
  const pair = (name, value, mark) => h("div", {}, h("dt", {}, mark || null, name), h("dd", {}, value));
  const rows = entries.map(([phase, value], place) => pair(phaseName(phase), duration(value), h("i", { class: hue(place) })));
  const facts = [
    [picture.is_measured ? "Peak memory" : "Memory (forecast)", bytes(picture.memory_bytes)],
    ["Attention", picture.backend],
    ["Device", [picture.device, picture.dtype].filter(Boolean).join(", ")],
    ["Model", picture.model],
    ["Stages", picture.stages.map(([width, height]) => size(width, height)).join(" \u2192 ")],
  ];
  return h(
    "details",
    { class: "t-cost" },
    h("summary", {}, "What this cost", h("span", {}, duration(sum))),
    bar,
    h("dl", {}, rows, facts.filter(([, value]) => value).map(([name, value]) => pair(name, value))),
  );
}

const phaseName = (phase) => PHASE_NAMES[phase] || phase.replaceAll("_", " ");
