// Whether a picture shows what its prompt says: a badge per relation, and the attempts of a search.

import { address } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";

const MARKS = { true: "good", false: "bad", null: "open" };
const WORDS = { good: "shown", bad: "not shown", open: "can't be told" };

/** Boxes for the wall, with the things they stand for. */
export function boxesOf(judgement) {
  return Object.entries(judgement.boxes).map(([place, box]) => ({ box, text: judgement.things[place] }));
}

/**
 * A badge for each relation and each missing thing, and a button that draws the boxes. null when there is nothing
 * to say. `show(on)` draws or removes the boxes.
 */
export function makeBadges(judgement, show) {
  const badges = judgement.relations.map((relation) => badge(relation.text, MARKS[String(relation.passed)], relation.reason));
  const told = new Set(judgement.relations.flatMap((relation) => (relation.reason.startsWith("not found") ? [relation.text] : [])));
  for (const thing of judgement.missing) {
    if (![...told].some((text) => text.includes(thing))) badges.push(badge(thing, "bad", `not found: ${thing}`));
  }
  if (!badges.length) return null;
  const passed = judgement.relations.filter((relation) => relation.passed).length;
  const sum = judgement.relations.length ? `${passed} of ${judgement.relations.length} relations shown` : "Something is missing";
  const boxes = h("button", { type: "button", class: "t-button", "aria-pressed": "false" }, icon(ICONS.eye), "Boxes");
  boxes.addEventListener("click", () => {
    const on = boxes.getAttribute("aria-pressed") !== "true";
    boxes.setAttribute("aria-pressed", String(on));
    show(on);
  });
  return h(
    "section",
    { class: "t-verdict", "aria-label": "What the picture shows of the prompt" },
    h("span", { class: "t-label" }, sum),
    h("ul", { class: "t-badges" }, badges),
    Object.keys(judgement.boxes).length > 0 && boxes,
  );
}

function badge(text, mark, reason) {
  const shape = { good: ICONS.check, bad: ICONS.cross, open: ICONS.minus }[mark];
  const title = [WORDS[mark], reason].filter(Boolean).join(": ");
  return h("li", { data: { mark }, title }, icon(shape), h("span", {}, text), h("span", { class: "sr-only" }, `, ${title}`), reason && mark !== "good" ? h("small", {}, reason) : null);
}

/** The pictures a search painted, in order; `search` is a job's result, `best` marks the one that was taken. */
export function makeAttempts(job, search, best = search.best) {
  const count = search.attempts.length;
  if (!count) return null;
  const tiles = search.attempts.map((attempt, place) => {
    const passed = attempt.judgement.passed;
    const told = attempt.judgement.relations.filter((relation) => relation.passed).length;
    const all = attempt.judgement.relations.length;
    const words = `Try ${place + 1}, seed ${attempt.seed}: ${passed ? "shows all" : `${told} of ${all} relations`}`;
    return h(
      "li",
      { data: { mark: passed ? "good" : "bad" }, "aria-current": place === best ? "true" : null },
      h("img", { src: address(`jobs/${job}/files/attempt-${place + 1}.webp`), alt: words, title: words, loading: "lazy" }),
      h("span", { "aria-hidden": "true" }, icon(passed ? ICONS.check : ICONS.cross), all ? `${told}/${all}` : ""),
    );
  });
  const accepted = search.attempts.filter((attempt) => attempt.judgement.passed).length;
  const sum = `${count} ${count === 1 ? "try" : "tries"}, ${accepted} accepted`;
  return h("section", { class: "t-tries", "aria-label": "All tries" }, h("span", { class: "t-label" }, sum), h("ol", {}, tiles));
}
