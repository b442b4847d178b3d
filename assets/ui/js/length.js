// How long the prompt is: a bar per text encoder with a stone per sentence, and the sentences as a list. A stone and
// its sentence light up together, under the pointer or by arrow keys.

import { h } from "./dom.js";

const MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };

/** The meter in `element`. Gives {show(length)}, which takes what `create.length_of` answers. */
export function makeLength(element) {
  const bars = h("div", { class: "t-gauges" });
  const said = h("p", { class: "t-dropped" });
  const list = h("ol", { class: "t-lines", role: "listbox", tabindex: "0", "aria-label": "Sentences with their tokens" });
  const parts = h("details", { class: "t-parts" }, h("summary", {}, "Sentences and their tokens"), list);
  element.replaceChildren(h("div", { class: "t-length" }, bars, said, parts));
  let at = -1;

  const linked = (place) => element.querySelectorAll(`[data-part="${place}"]`);

  /** Light up a sentence and its stones; -1: none. */
  function light(place, isSeen = false) {
    for (const part of linked(at)) delete part.dataset.lit;
    at = place;
    for (const part of linked(at)) part.dataset.lit = "1";
    const line = list.querySelector(`[data-part="${at}"]`);
    for (const other of list.children) other.setAttribute("aria-selected", String(other === line));
    if (line) list.setAttribute("aria-activedescendant", line.id);
    else list.removeAttribute("aria-activedescendant");
    // by hand, not scrollIntoView: the page itself stays where it is
    if (line && !isSeen) list.scrollTop = Math.max(line.offsetTop + line.offsetHeight - list.clientHeight, Math.min(list.scrollTop, line.offsetTop));
  }

  for (const [area, isSeen] of [[bars, false], [list, true]]) {
    area.addEventListener("pointerover", (event) => light(Number(event.target.closest("[data-part]")?.dataset.part ?? -1), isSeen));
    area.addEventListener("pointerleave", () => light(-1));
  }
  list.addEventListener("focus", () => at < 0 && light(0));
  list.addEventListener("blur", () => light(-1));
  list.addEventListener("keydown", (event) => {
    if (!(event.key in MOVES)) return;
    event.preventDefault();
    light(Math.min(list.children.length - 1, Math.max(0, at + MOVES[event.key])));
  });

  function show(length) {
    at = -1;
    const gauges = length?.gauges || [];
    bars.replaceChildren(...gauges.map((gauge) => bar(gauge, length.sentences)));
    const words = length?.said || "";
    if (said.textContent !== words) said.textContent = words;
    if (length?.is_lost) said.setAttribute("role", "alert");
    else said.removeAttribute("role");
    const sentences = length?.sentences || [];
    parts.classList.toggle("t-hidden", sentences.length < 2);
    list.replaceChildren(...sentences.map(line), ...(length?.more ? [h("li", { "aria-disabled": "true" }, `and ${length.more.toLocaleString("en")} more`)] : []));
  }

  return { show };
}

/** One bar: stones as long as their sentences; what nobody reads stands out at the end. */
function bar(gauge, sentences) {
  const stones = gauge.rows.map((rows, place) => rows > 0 && h("i", { data: { part: place }, title: sentences[place]?.text || null, style: { flex: `${rows} 1 0` } }));
  const over = gauge.dropped > 0 && h("i", { class: "t-over", style: { flex: `${gauge.dropped} 1 0` } });
  return h(
    "div",
    { class: "t-gauge", data: { encoder: gauge.encoder, over: Number(gauge.dropped > 0) } },
    h("span", {}, gauge.encoder),
    h("span", { class: "t-gauge-bar", "aria-hidden": "true" }, stones, h("b", { style: { flex: `${gauge.free} 1 0` } }), over),
    h("span", {}, h("strong", {}, gauge.tokens.toLocaleString("en")), ` ${gauge.room}`),
  );
}

/** One sentence: its words, those that nobody reads struck out, and its tokens. */
function line(sentence, place) {
  const lost = sentence.lost;
  const isEnd = lost && sentence.text.endsWith(lost);
  const kept = isEnd ? sentence.text.slice(0, -lost.length) : sentence.text;
  return h(
    "li",
    { id: `t-part-${place}`, role: "option", "aria-selected": "false", data: { part: place } },
    h("span", { dir: "auto" }, kept, lost && h("span", { class: "sr-only" }, " not read: "), lost && h("s", {}, isEnd ? lost : ` ${lost}`)),
    h("span", { class: "t-count" }, sentence.tokens.toLocaleString("en"), h("span", { class: "sr-only" }, " tokens")),
  );
}
