// What a strip of tokens shows: the picture of any prefix beside the original, the stones, the curve, what to do.

import { address, readStrip, spliceStrips } from "./backend.js";
import { makeCurve } from "./curve.js";
import { field, note, numberBox, textArea } from "./controls.js";
import { h, icon, ICONS } from "./dom.js";
import { makeStripView } from "./strip_view.js";

const fileOf = (job, name) => address(`jobs/${job.id}/files/${name}`);
const prefixOf = (job, count) => fileOf(job, `k-${String(count).padStart(3, "0")}.png`);

/** {element, show(job), offer(jobs), pictureOf(job)}; `act` has mixed(strip) and rerolled(tokens, text, count). */
export function makeTokenTable(act) {
  const original = h("img", { alt: "The picture as it was" });
  const shown = h("img", { alt: "" });
  const slider = h("input", { type: "range", class: "t-range", min: "0", max: "0", step: "1", value: "0", "aria-label": "Number of tokens" });
  const says = h("p", { class: "t-token-says", role: "status", "aria-live": "polite" });
  const facts = h("div", { class: "t-facts" });
  const stones = makeStripView(pick);
  const curve = makeCurve();
  const target = numberBox("", 0, 60, 0.5);
  const found = h("p", { class: "t-hint" });
  const download = h("a", { class: "t-button", download: "" }, icon(ICONS.download), "Download tokens");
  const save = h("a", { class: "t-button", download: "" }, icon(ICONS.download), "Download picture");
  const partner = h("select", { class: "t-input", "aria-label": "Other picture" });
  const mixSays = h("p", { class: "t-hint" });
  const tail = textArea("", "what the picture shows", 2);
  const problem = h("div");
  const originalFrame = h("figure", {}, original, h("figcaption", {}, "Original"));
  const budget = h("div", { class: "t-budget" }, curve.element, field("Good enough from (dB)", target), found);
  const element = h(
    "div",
    { class: "t-token-table t-hidden" },
    h("div", { class: "t-pair" }, originalFrame, h("figure", {}, shown, h("figcaption", {}, says))),
    slider,
    facts,
    stones.element,
    h("div", { class: "t-row" }, download, save),
    h(
      "div",
      { class: "t-tools" },
      budget,
      h("div", {}, h(
        "details",
        { class: "t-tool-box" },
        h("summary", {}, "Mix with another picture"),
        field("Other picture", partner),
        h("div", { class: "t-row" }, h("button", { type: "button", class: "t-button", on: { click: cut } }, "First tokens from this, rest from the other"), h("button", { type: "button", class: "t-button", on: { click: mix } }, "Show the mix")),
        mixSays,
      ),
      h(
        "details",
        { class: "t-tool-box" },
        h("summary", {}, "Draw the rest anew"),
        field("What the picture shows", tail),
        h("button", { type: "button", class: "t-button", on: { click: reroll } }, "Keep these tokens, draw the others"),
      )),
    ),
    problem,
  );

  let job = null;
  let stops = [];
  let others = [];
  let places = new Set();

  const kept = () => stops[Number(slider.value)];
  const foreign = () => others.find((other) => other.id === partner.value);

  function show(next) {
    const isSame = job?.id === next.id;
    const wasLast = Number(slider.value) === Number(slider.max);
    job = next;
    stops = next.result.stops;
    element.classList.remove("t-hidden");
    slider.max = String(stops.length - 1);
    if (!isSame || wasLast) slider.value = slider.max;
    if (!isSame) {
      places = new Set();
      problem.replaceChildren();
      tail.value = next.request.prompt || "";
    }
    originalFrame.classList.toggle("t-hidden", !next.result.has_original);
    if (next.result.has_original) original.src = fileOf(next, "original.png");
    budget.classList.toggle("t-hidden", next.result.points.length < 2);
    draw();
  }

  function draw() {
    const { result } = job;
    const count = kept();
    shown.src = prefixOf(job, count);
    shown.alt = `The picture that ${count} tokens show`;
    const bytes = 2 * count * result.tiles;
    const point = result.points.find((each) => each.count === count);
    slider.setAttribute("aria-valuetext", `${count} of ${result.count} tokens`);
    says.textContent = `${count} of ${result.count} tokens`;
    const numbers = [`${bytes} bytes`, `${((8 * bytes) / (result.width * result.height)).toFixed(4)} bits per pixel`];
    if (point) numbers.push(`${point.psnr.toFixed(1)} dB`, `mean error ${(100 * point.error).toFixed(1)} %`);
    numbers.push(`${result.width} \u00D7 ${result.height}`, `${result.codes.toLocaleString()} different tokens`);
    facts.replaceChildren(...numbers.map((text) => h("span", {}, text)));
    stones.show(result.tokens, count, foreign()?.result.tokens, places);
    curve.show(result.points, count, target.value ? Number(target.value) : null);
    download.href = address(`jobs/${job.id}/strip.fxtk?keep=${count}`);
    save.href = prefixOf(job, count);
    judgeBudget();
    mixSays.textContent = places.size ? `${places.size} of ${result.count} tokens come from the other picture.` : "Press stones to take them from the other picture.";
  }

  /** The fewest tokens that are good enough. */
  function judgeBudget() {
    if (!target.value) {
      found.textContent = "How many tokens are needed? Give a quality.";
      return;
    }
    const enough = job.result.points.find((point) => point.psnr >= Number(target.value));
    found.textContent = enough ? `${enough.count} tokens (${2 * enough.count} bytes) are enough.` : `Not even ${job.result.count} tokens reach that.`;
  }

  /** A stone was pressed: it changes sides in a mix, else the slider goes where it is the last one. */
  function pick(place) {
    if (foreign()) {
      if (!places.delete(place)) places.add(place);
    } else {
      slider.value = String(Math.max(0, stops.findIndex((stop) => stop > place)));
    }
    draw();
  }

  function cut() {
    if (!foreign()) return;
    places = new Set(job.result.tokens.map((_, place) => place).filter((place) => place >= kept()));
    draw();
  }

  async function mix() {
    const other = foreign();
    if (!other) return complain("Choose another picture first.");
    if (!places.size) return complain("Press the stones that should come from the other picture.");
    try {
      const [first, second] = await Promise.all([readStrip(job.id), readStrip(other.id)]);
      const { strip } = await spliceStrips({ first, second, places: [...places].sort((a, b) => a - b) });
      await act.mixed(strip);
    } catch (refusal) {
      complain(refusal.message);
    }
  }

  function reroll() {
    if (!tail.value.trim()) return complain("Say what the picture shows.");
    const { tokens, count } = job.result;
    if (kept() === count) return complain("Keep fewer tokens: there is none left to draw.");
    act.rerolled(tokens.slice(0, kept()), tail.value, count);
  }

  const complain = (text) => problem.replaceChildren(note(text, "problem"));

  slider.addEventListener("input", draw);
  target.addEventListener("input", draw);
  partner.addEventListener("change", () => {
    places = new Set();
    draw();
  });

  return {
    element,
    show,
    pictureOf: (each) => prefixOf(each, each.result.stops.at(-1)),
    /** Strips that can be mixed with. */
    offer(jobs) {
      others = jobs.filter((each) => each.result.tiles === 1);
      const chosen = partner.value;
      const words = (each) => `${each.request.prompt || "a picture"}, ${each.result.count} tokens`;
      partner.replaceChildren(h("option", { value: "" }, "none"), ...others.map((each) => h("option", { value: each.id, selected: each.id === chosen }, words(each))));
    },
  };
}
