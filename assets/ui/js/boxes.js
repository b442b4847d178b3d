// Boxes with a word each, over a picture: what the eyes see.

import { h } from "./dom.js";

/** One box; `item` has text and, for the look of it, "good", "bad" or nothing in `mark`. */
export function boxElement(item) {
  return h("div", { class: "t-box", data: item.mark ? { mark: item.mark } : {} }, h("span", {}, item.text));
}

/** A layer of boxes for an element that the picture fills; boxes are [left, top, right, bottom], 0 to 1. */
export function boxLayer(items) {
  const percent = (value) => `${(100 * value).toFixed(2)}%`;
  const layer = h("div", { class: "t-boxes", "aria-hidden": "true" });
  for (const item of items) {
    const [left, top, right, bottom] = item.box;
    const element = boxElement(item);
    Object.assign(element.style, {
      left: percent(left),
      top: percent(top),
      width: percent(right - left),
      height: percent(bottom - top),
    });
    layer.append(element);
  }
  return layer;
}
