// A token strip as a field of stones: one per token, its colour made from its number.

import { h } from "./dom.js";

/** The same number has the same colour everywhere; near numbers differ clearly. */
export const tokenColour = (id, night) => `hsl(${(id * 137.508) % 360} ${night ? 38 : 42}% ${(night ? 46 : 62) + ((id * 7) % 11) - 5}%)`;

/**
 * {element, show(tokens, kept, other)}. Tokens past `kept` are pale; those whose place is in the set `other` come from
 * a second picture. `pick(place)` is called with the place of a stone that was pressed.
 */
export function makeStripView(pick) {
  const field = h("ol", { class: "t-stones", "aria-label": "Tokens in their order" });
  const element = h("div", { class: "t-stones-box" }, field);
  let drawn = "";

  function build(tokens, foreign, other) {
    const night = document.body.classList.contains("dark");
    const key = JSON.stringify([tokens, [...other], foreign, night]);
    if (key === drawn) return;
    drawn = key;
    field.replaceChildren(
      ...tokens.map((id, place) => {
        const isOther = other.has(place);
        const shown = isOther ? foreign[place] : id;
        const label = `Token ${place + 1}: ${shown}${isOther ? ", from the other picture" : ""}`;
        const stone = h("button", { type: "button", tabindex: place === 0 ? "0" : "-1", title: label, "aria-label": label, on: { click: () => pick(place) } });
        stone.style.background = tokenColour(shown, night);
        return h("li", { data: isOther ? { other: "1" } : {} }, stone);
      }),
    );
  }

  // one stop of the Tab key for all stones, arrows between them
  field.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 32, ArrowUp: -32 }[event.key];
    const stones = [...field.querySelectorAll("button")];
    const at = stones.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = stones[Math.min(stones.length - 1, Math.max(0, at + step))];
    stones[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  return {
    element,
    show(tokens, kept, foreign = [], other = new Set()) {
      build(tokens, foreign, other);
      [...field.children].forEach((item, place) => item.classList.toggle("t-pale", place >= kept));
    },
  };
}
