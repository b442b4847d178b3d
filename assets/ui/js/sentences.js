// Which sentences of a page a finished picture shows, and which may be missing.

import { h, icon, ICONS } from "./dom.js";

const MARKS = { true: "good", false: "bad", null: "open" };
const SHAPES = { good: ICONS.check, bad: ICONS.cross, open: ICONS.minus };
const WORDS = { good: "shown", bad: "may be missing", open: "can't be told" };

/**
 * A list of the sentences with a mark each, open when one may be missing; null where there is nothing to tell, or
 * only one sentence, of which the badges tell already.
 */
export function makeSentences(found) {
  if (found.sentences.length < 2 || found.shown + found.missing === 0) return null;
  const counts = [
    `${found.shown} shown`,
    found.missing && `${found.missing} may be missing`,
    found.open && `${found.open} can't be told`,
  ];
  return h(
    "details",
    { class: "t-told", open: found.missing > 0 },
    h("summary", {}, "Sentence by sentence", h("span", {}, counts.filter(Boolean).join(", "))),
    // long pages scroll inside: a region that scrolls has to be reached by keyboard
    h("ol", { class: "t-lines", tabindex: "0", "aria-label": "Sentences of the prompt" }, found.sentences.map(line)),
  );
}

function line(sentence) {
  const mark = MARKS[String(sentence.shown)];
  const said = sentence.reason ? `${WORDS[mark]}: ${sentence.reason}` : WORDS[mark];
  return h(
    "li",
    { data: { mark } },
    icon(SHAPES[mark]),
    h("span", { dir: "auto" }, sentence.text),
    mark === "bad" ? h("small", {}, said) : h("span", { class: "sr-only" }, `, ${said}`),
  );
}
