// Fields of the rooms: plain HTML controls with a label, a value and a listener.

import { h } from "./dom.js";

let count = 0;
const newId = () => `t-field-${(count += 1)}`;

/** A field under its label; `control` is one element, `named` what the label speaks of in it. */
export function field(label, control, note = null, named = control) {
  const id = named.id || (named.id = newId());
  return h("div", { class: "t-field" }, h("label", { for: id, class: "t-label" }, label), control, note);
}

export function textArea(value, placeholder, rows = 3) {
  const area = h("textarea", { class: "t-area", rows, placeholder, dir: "auto" });
  area.value = value;
  return area;
}

export function numberBox(value, low, high, step = 1) {
  const box = h("input", { type: "number", class: "t-input", min: low, max: high, step });
  box.value = value;
  return box;
}

/** A slider with its value beside the label: {element, input}; `say(value)` words the value. */
export function rangeField(label, { low, high, value }, say = String) {
  const input = h("input", { type: "range", class: "t-range", min: low, max: high, step: "1", value, id: newId() });
  const says = h("output", { class: "t-number", for: input.id }, say(value));
  input.addEventListener("input", () => (says.textContent = say(Number(input.value))));
  const head = h("div", { class: "t-field-head" }, h("label", { for: input.id, class: "t-label" }, label), says);
  return { element: h("div", { class: "t-field" }, head, input), input };
}

/** One of a few choices: {element, value, onChange(listener)}. `choices` are [value, text]. */
export function segments(label, choices, chosen) {
  const name = newId();
  const listeners = [];
  const inputs = choices.map(([value, text]) => {
    const input = h("input", { type: "radio", name, value: String(value), checked: value === chosen });
    input.addEventListener("change", () => listeners.forEach((listener) => listener(value)));
    return [value, input, h("label", {}, input, h("span", {}, text))];
  });
  const element = h(
    "fieldset",
    { class: "t-field" },
    h("legend", { class: "t-label" }, label),
    h("div", { class: "t-segmented" }, inputs.map(([, , item]) => item)),
  );
  return {
    element,
    get value() {
      return inputs.find(([, input]) => input.checked)[0];
    },
    set value(value) {
      for (const [own, input] of inputs) input.checked = own === value;
    },
    onChange: (listener) => listeners.push(listener),
  };
}

/** A seed with a dice; a new one is rolled before each use unless it is kept. {element, take()} */
export function seedField() {
  const roll = () => Math.floor(Math.random() * 4294967296);
  const box = numberBox(roll(), 0, 4294967295);
  const keep = h("input", { type: "checkbox", class: "t-check" });
  const dice = h("button", { type: "button", class: "t-button t-dice", "aria-label": "Roll a new seed", title: "Roll a new seed" });
  dice.addEventListener("click", () => (box.value = roll()));
  box.addEventListener("input", () => (keep.checked = true));
  const row = h("div", { class: "t-seed" }, box, dice, h("label", { class: "t-keep" }, keep, "Keep"));
  return {
    element: field("Seed", row, null, box),
    take() {
      if (!keep.checked) box.value = roll();
      return Math.round(Number(box.value));
    },
  };
}

/** A line that says how a job goes: {element, update(job), clear()}. */
export function makeBar() {
  const fill = h("i");
  const says = h("span", { role: "status", "aria-live": "polite" });
  const track = h("div", { class: "t-track", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const element = h("div", { class: "t-bar-box t-hidden" }, says, track);
  return {
    element,
    update(job, words) {
      element.classList.remove("t-hidden");
      const percent = Math.round(100 * job.fraction);
      fill.style.width = `${percent}%`;
      track.setAttribute("aria-valuenow", String(percent));
      says.textContent = words;
    },
    clear() {
      element.classList.add("t-hidden");
      says.textContent = "";
    },
  };
}

export const note = (text, kind) => h("div", { class: "t-note", role: kind ? "alert" : "note", data: kind ? { kind } : {} }, text);
