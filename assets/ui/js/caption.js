// What is said under a finished picture: its settings, what to do with it, what it cost.

import { address } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";
import { isOffered, visit } from "./rooms.js";
import { bytes, duration, size } from "./words.js";

const PHASE_NAMES = { load: "Load model", verify: "Verify", encode: "Read prompt", paint: "Paint", enlarge: "Enlarge", decode: "Develop", save: "Save" };

const SEAM_SCALE = "How tile borders differ from what is beside them: 1 not at all, from 1.2 on they show";

/**
 * The block under a picture. Its buttons call `act`: restore(), again(), remove(), see(on), seams(on) and
 * compare(index, "cut" or null); the last three answer with a promise that is fulfilled when the wall shows it.
 */
export function makeCaption(picture, act) {
  const { request } = picture;
  const comparing = oneAtATime(act);
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
    ),
    stages(picture, comparing),
    h(
      "div",
      { class: "t-row t-quiet" },
      picture.can_be_seen && toggle("What the eyes see", ICONS.eye, act.see),
      picture.cut_at > 0 && cutPrompt(picture, comparing),
      picture.has_borders && seamMeter(act),
      sendTo("tokens", "Turn into tokens", picture),
      sendTo("video", "Set in motion", picture),
      copyButton("Copy as Python", picture.python),
      copyButton("Copy command", picture.shell),
      h("button", { type: "button", class: "t-button", on: { click: act.remove } }, icon(ICONS.bin), "Delete"),
    ),
    picture.warnings.map((text) => h("div", { class: "t-note", role: "note" }, text)),
    cost(picture),
  );
}

/** A button that takes the picture to another room, where there is one. */
function sendTo(room, label, picture) {
  if (!isOffered(room)) return null;
  const what = { id: picture.id, url: address(`pictures/${picture.id}/thumbnail`), prompt: picture.request.prompt };
  return h("button", { type: "button", class: "t-button", on: { click: () => visit(room, what) } }, icon(ICONS.send), label);
}

/** A button that stays pressed; `act(on)` may take a while and may fail, which is said in the button's place. */
function toggle(label, shape, act) {
  const words = h("span", {}, label);
  const button = h("button", { type: "button", class: "t-button", "aria-pressed": "false", on: { click } }, shape && icon(shape), words);
  async function click() {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-busy", "true");
    try {
      await act(on);
      button.setAttribute("aria-pressed", String(on));
    } catch (refusal) {
      words.textContent = refusal.message;
      setTimeout(() => (words.textContent = label), 4000);
    }
    button.removeAttribute("aria-busy");
  }
  return button;
}

/** The button that measures seams; what it found stands in its place while they are marked. */
function seamMeter(act) {
  const meter = toggle("Seam meter", ICONS.seam, async (on) => {
    const found = await act.seams(on);
    meter.querySelector("span").textContent = on ? `Seams ${found.ratio.toFixed(2)}` : "Seam meter";
    const where = on && (found.column === null ? `row ${found.row}` : `column ${found.column}`);
    meter.title = on ? `${found.worst.toFixed(2)} at ${where}` : SEAM_SCALE;
  });
  meter.title = SEAM_SCALE;
  return meter;
}

/** Makes buttons that lay another picture over this one, of which one at a time is pressed. */
function oneAtATime(act) {
  const buttons = [];
  return (label, shape, what) => {
    const button = toggle(label, shape, async (on) => {
      await act.compare(on ? what : null);
      for (const other of buttons) if (other !== button) other.setAttribute("aria-pressed", "false");
    });
    buttons.push(button);
    return button;
  };
}

/** The button that lays beside the picture what the same seed gives for the prompt cut where plain pipelines cut it. */
function cutPrompt(picture, comparing) {
  const button = comparing("Compare with the cut prompt", ICONS.cut, "cut");
  button.title = `Paint it once more from the first ${picture.cut_at} tokens of the prompt, which the text encoder reads at once`;
  return button;
}

/** The stages a picture grew through; pressing an earlier one lays it, enlarged, beside what was painted. */
function stages(picture, comparing) {
  if (picture.stages.length < 2) return null;
  const last = picture.stages.length - 1;
  const chips = picture.stages.slice(0, last).map((stage, index) => comparing(size(...stage), null, index));
  chips.forEach((chip, index) => {
    chip.title = "Compare with this stage, enlarged";
    // what it looked like when the next stage grew from it
    if (picture.guides[index]) chip.prepend(h("img", { src: address(picture.guides[index]), alt: "", loading: "lazy" }));
  });
  return h(
    "div",
    { class: "t-grown" },
    h("span", { class: "t-label" }, "Compare with an earlier stage"),
    chips.map((chip) => [chip, h("i", { "aria-hidden": "true" }, "\u2192")]),
    h("span", {}, size(...picture.stages[last])),
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
