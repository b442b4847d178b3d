// What the prompt says about space: a chip per relation, and a sketch whose boxes can be moved. Chips, sketch and
// text always say the same: changing one writes the others.

import { changePrompt } from "./backend.js";
import { h } from "./dom.js";

const COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"];
const KEY_STEP = 0.05;
const SETTLE_MS = 350;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const colourOf = (text) => COLOURS.find((word) => text.toLowerCase().split(/\s+/).includes(word)) || "";
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The panel in `element`; `write(prompt)` puts a text into the prompt box. Gives {show(reading, aspect)}. */
export function makeRelations(element, write) {
  const chips = h("ul", { class: "t-relations", "aria-label": "Relations in the prompt" });
  const sketch = h("div", { class: "t-sketch", role: "group", "aria-label": "Layout: move a box to change the text" });
  const notes = h("div");
  const hint = h("p", { class: "t-hint" }, "Drag a box, or move it with the arrow keys: the text follows.");
  const said = h("div", { class: "sr-only", role: "status", "aria-live": "polite" });
  const panel = h("section", { class: "t-space t-hidden", "aria-label": "Where things are" }, h("span", { class: "t-label" }, "Where things are"), h("div", { class: "t-space-parts" }, h("div", {}, chips, hint), sketch), notes, said);
  element.replaceChildren(panel);

  let reading = null;
  let aspect = 1;
  let boxes = {};
  // the text that the boxes have just written: its reading leaves them where they are
  let written = null;
  let settling = 0;

  async function change(what) {
    const asked = reading.prompt;
    try {
      const { prompt } = await changePrompt({ prompt: asked, ...what });
      // the text has changed meanwhile: boxes that were moved again say what they show of the new one
      if (asked !== reading.prompt) return what.boxes ? settle() : undefined;
      if (prompt === asked) return;
      if (what.boxes) written = prompt;
      write(prompt);
    } catch (refusal) {
      notes.replaceChildren(note(refusal.message));
    }
  }

  function settle() {
    clearTimeout(settling);
    settling = setTimeout(() => change({ boxes, aspect }), SETTLE_MS);
  }

  function show(next, ratio) {
    const moved = next && next.prompt === written;
    const before = reading;
    reading = next;
    aspect = ratio;
    const isEmpty = !next || !next.relations.length;
    panel.classList.toggle("t-hidden", isEmpty);
    document.documentElement.classList.toggle("t-related", !isEmpty);
    if (!next) return;
    if (!moved) boxes = { ...next.boxes };
    if (moved && before) said.textContent = next.relations.map((relation) => relation.text).join(", ");
    written = null;
    drawChips();
    if (!moved || sketch.children.length !== Object.keys(boxes).length) drawSketch();
    else nameBoxes();
    const sentences = [...next.impossible.map(([, message]) => message), ...next.remarks];
    notes.replaceChildren(...sentences.map(note));
  }

  const note = (text) => h("div", { class: "t-note", role: "note" }, text);

  function drawChips() {
    const wrong = new Set(reading.impossible.flatMap(([places]) => places));
    const focused = document.activeElement?.closest?.(".t-relations li")?.dataset.place;
    chips.replaceChildren(...reading.relations.map((relation, place) => chip(relation, place, wrong.has(place))));
    if (focused) chips.querySelector(`[data-place="${focused}"] select`)?.focus();
  }

  function chip(relation, place, isWrong) {
    const name = (index) => h("b", { data: { colour: colourOf(reading.things[index].text) } }, reading.things[index].text);
    const objects = relation.objects.flatMap((index, at) => (at ? [" and ", name(index)] : [name(index)]));
    return h("li", { data: { place, mark: isWrong ? "bad" : "" } }, name(relation.subject), saidAs(relation, place), ...objects);
  }

  function saidAs(relation, place) {
    if (!relation.options.length) return h("span", {}, relation.predicate);
    const options = [...new Set([relation.predicate, ...relation.options])];
    const label = `How ${relation.text} is said`;
    const select = h("select", { "aria-label": label }, options.map((text) => h("option", { value: text, selected: text === relation.predicate }, text)));
    select.addEventListener("change", () => change({ relation: place, predicate: select.value }));
    return select;
  }

  function drawSketch() {
    sketch.style.setProperty("--ratio", String(aspect));
    sketch.replaceChildren(...Object.keys(boxes).map(box));
    sketch.classList.toggle("t-hidden", !Object.keys(boxes).length);
    hint.classList.toggle("t-hidden", !Object.keys(boxes).length);
    nameBoxes();
  }

  function nameBoxes() {
    for (const button of sketch.children) {
      const text = reading.things[button.dataset.place].text;
      button.dataset.colour = colourOf(text);
      button.firstChild.textContent = text;
      lay(button);
    }
  }

  function lay(button) {
    const [left, top, right, bottom] = boxes[button.dataset.place];
    const percent = (value) => `${(100 * value).toFixed(2)}%`;
    Object.assign(button.style, { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) });
    const across = Math.round(50 * (left + right));
    const down = Math.round(50 * (top + bottom));
    button.setAttribute("aria-label", `${button.textContent}, ${across} % from the left, ${down} % from the top`);
  }

  function move(button, dx, dy) {
    const [left, top, right, bottom] = boxes[button.dataset.place];
    const x = clamp(dx, -left, 1 - right);
    const y = clamp(dy, -top, 1 - bottom);
    boxes[button.dataset.place] = [left + x, top + y, right + x, bottom + y];
    lay(button);
  }

  function box(place) {
    const button = h("button", { type: "button", data: { place } }, h("span"));
    let from = null;
    button.addEventListener("keydown", (event) => {
      const step = MOVES[event.key];
      if (!step) return;
      event.preventDefault();
      move(button, step[0] * KEY_STEP, step[1] * KEY_STEP);
      settle();
    });
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY];
    });
    button.addEventListener("pointermove", (event) => {
      if (!from) return;
      move(button, (event.clientX - from[0]) / sketch.clientWidth, (event.clientY - from[1]) / sketch.clientHeight);
      from = [event.clientX, event.clientY];
    });
    const end = () => {
      if (!from) return;
      from = null;
      settle();
    };
    button.addEventListener("pointerup", end);
    button.addEventListener("pointercancel", end);
    return button;
  }

  return { show };
}
