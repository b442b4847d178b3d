// Choosing a picture to work on: one that was painted here, or one that is brought along.

import { address, bringPicture, readOverview } from "./backend.js";
import { h } from "./dom.js";

/**
 * {element, value, set(source, url)}; value is "" or the name that requests use. `change(source)` is called when
 * another one was chosen. With `optional`, none may be chosen.
 */
export function makePicker(label, change = () => {}, optional = false) {
  const image = h("img", { class: "t-picked", alt: "" });
  const says = h("span", {}, "Drop a picture here, or press to choose a file");
  const input = h("input", { type: "file", class: "sr-only", accept: "image/png,image/jpeg,image/webp", "aria-label": label });
  const drop = h("label", { class: "t-dropzone" }, input, image, says);
  const own = h("div", { class: "t-own", role: "group", "aria-label": "Pictures painted here" });
  const none = optional ? h("button", { type: "button", class: "t-button t-small t-hidden", on: { click: () => set("", "") } }, "Without") : null;
  const element = h("div", { class: "t-field" }, h("span", { class: "t-label" }, label), drop, own, none);
  let source = "";

  function set(name, url) {
    source = name;
    image.src = url || "data:,";
    drop.classList.toggle("t-has", Boolean(name));
    says.textContent = name ? "" : "Drop a picture here, or press to choose a file";
    none?.classList.toggle("t-hidden", !name);
    for (const button of own.children) button.setAttribute("aria-pressed", String(`picture:${button.dataset.id}` === name));
    change(name);
  }

  async function bring(file) {
    if (!file) return;
    says.textContent = "Bringing it here";
    try {
      const { source: name } = await bringPicture(file);
      set(name, URL.createObjectURL(file));
    } catch (refusal) {
      set("", "");
      says.textContent = refusal.message;
    }
    input.value = "";
  }

  input.addEventListener("change", () => bring(input.files[0]));
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    document.documentElement.classList.remove("t-dropping");
    bring(event.dataTransfer.files[0]);
  });

  async function refresh() {
    const { pictures } = await readOverview().catch(() => ({ pictures: [] }));
    own.replaceChildren(
      ...pictures.slice(0, 12).map((picture) => {
        const url = address(`pictures/${picture.id}/thumbnail`);
        const name = `picture:${picture.id}`;
        const face = h("img", { src: url, alt: picture.prompt, loading: "lazy" });
        return h("button", { type: "button", data: { id: picture.id }, title: picture.prompt, "aria-pressed": String(name === source), on: { click: () => set(name, url) } }, face);
      }),
    );
  }

  refresh();
  return {
    element,
    set,
    refresh,
    get value() {
      return source;
    },
  };
}
