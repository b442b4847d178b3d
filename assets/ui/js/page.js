// Entry point: what Gradio mounts, plus keyboard, theme and files dropped on the page.

import { h } from "./dom.js";
import { Easel } from "./easel.js";
import { makeLength } from "./length.js";
import { makeRelations } from "./relations.js";
import { mountRooms, offerRooms } from "./rooms.js";

const THEME_KEY = "tessera.theme";
const byId = (id) => document.getElementById(id);
const buttonOf = (id) => byId(id)?.closest("button") || byId(id)?.querySelector("button") || byId(id);

let easel = null;

/** Called by the easel's gr.HTML; `door` has trigger, props and watch. */
export function mountEasel(element, door) {
  easel = new Easel(element, door, showStatus);
  const take = () => {
    const order = door.props.value;
    if (order?.follow) {
      easel.follow(order.follow);
      bringIntoView(element);
    } else if (order) {
      easel.resume(order.last || "");
    }
  };
  door.watch("value", take);
  take();
  takeDrops();
  listenToKeys();
}

/** Called by the header's gr.HTML. */
export function mountHeader(element) {
  const chosen = localStorage.getItem(THEME_KEY);
  if (chosen) document.body.classList.toggle("dark", chosen === "dark");
  document.documentElement.classList.toggle("t-mac", /Mac|iPhone|iPad/.test(navigator.platform));
  element.querySelector("[data-act=theme]").addEventListener("click", () => {
    const isDark = document.body.classList.toggle("dark");
    localStorage.setItem(THEME_KEY, isDark ? "dark" : "light");
  });
  const dialog = element.querySelector("dialog");
  element.querySelector("[data-act=keys]").addEventListener("click", () => dialog.showModal());
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
}

/** Called by the examples' gr.HTML: a click writes the example into the prompt box. */
export function mountExamples(element) {
  element.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-example]");
    if (!chosen) return;
    writePrompt(chosen.textContent);
    byId("t-prompt").querySelector("textarea").focus();
  });
}

/** Called by the gr.HTML under the prompt; its value is {reading, aspect}. */
export function mountRelations(element, door) {
  const relations = makeRelations(element, writePrompt);
  const take = () => relations.show(door.props.value?.reading || null, door.props.value?.aspect || 1);
  door.watch("value", take);
  take();
}

/** Called by the meter's gr.HTML; its value is what `create.length_of` answers. */
export function mountLength(element, door) {
  const length = makeLength(element);
  const take = () => length.show(door.props.value);
  door.watch("value", take);
  take();
}

/** Called by the forecast's gr.HTML whenever the form's size changed. */
export function mountForecast(element, door) {
  const tell = () => {
    const shape = element.querySelector("[data-width]")?.dataset;
    if (shape) easel?.setFormat(Number(shape.width), Number(shape.height));
  };
  door.watch("value", tell);
  tell();
}

/** Called by the gr.HTML that holds the other rooms. */
export function mountOtherRooms(element) {
  mountRooms(element);
}

/** The Cancel button. */
export function cancel() {
  easel?.cancel();
}

function showStatus(state, status) {
  const pill = document.querySelector(".t-status");
  if (!pill) return;
  if (state === "lost") {
    pill.dataset.state = "lost";
    pill.replaceChildren(h("span", {}, "No answer, trying again"));
  } else if (status) {
    offerRooms(status.rooms);
    pill.dataset.state = status.state;
    pill.replaceChildren(h("span", { class: "t-status-model" }, status.model), h("span", {}, status.text));
  }
}

function bringIntoView(element) {
  if (window.matchMedia("(max-width: 900px)").matches) element.scrollIntoView({ behavior: "smooth", block: "start" });
}

function writePrompt(text) {
  const box = byId("t-prompt").querySelector("textarea");
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, textarea, select, [contenteditable]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      pressGenerate();
    } else if (event.key === "Escape" && easel?.isRunning() && !document.querySelector("dialog[open]") && !document.fullscreenElement) {
      cancel();
    } else if (!isTyping && event.key === "/") {
      event.preventDefault();
      byId("t-prompt").querySelector("textarea").focus();
    } else if (!isTyping && event.key === "?") {
      document.querySelector(".t-dialog").showModal();
    }
  });
}

/** Gradio hears of typed text when a field loses focus or after an input event; give it that moment first. */
function pressGenerate() {
  const active = document.activeElement;
  active?.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => buttonOf("t-generate").click(), 0);
}

/** A picture dropped anywhere goes to the field that reads settings out of pictures. */
function takeDrops() {
  const veil = h("div", { class: "t-drop-veil" }, h("div", {}, "Drop the picture to take its settings"));
  document.body.append(veil);
  const carriesFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const set = (on) => document.documentElement.classList.toggle("t-dropping", on);
  document.addEventListener("dragenter", (event) => carriesFile(event) && set(true));
  veil.addEventListener("dragover", (event) => event.preventDefault());
  veil.addEventListener("dragleave", () => set(false));
  veil.addEventListener("drop", (event) => {
    event.preventDefault();
    set(false);
    const field = byId("t-drop").querySelector("input[type=file]");
    if (!field || !event.dataTransfer.files.length) return;
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    field.files = files.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

