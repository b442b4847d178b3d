// Any picture as 1 to 256 ordered tokens: make them, look at any number of them, mix two pictures, draw from text.

import { cancelJob, readJobs, submitJob } from "./backend.js";
import { field, makeBar, note, numberBox, rangeField, seedField, segments, textArea } from "./controls.js";
import { h } from "./dom.js";
import { followJob } from "./following.js";
import { makeGrowing } from "./growing.js";
import { makePicker } from "./picker.js";
import { makeTokenTable } from "./token_table.js";

const KINDS = "encode,decode,generate";
const LARGEST = 8;
const DRAWN = 5; // of text: later tokens tell details, in which a small generator errs
const WORDS = { encode: "Reading the picture", generate: "Drawing tokens", decode: "Showing prefixes", load: "Loading the model", save: "Saving" };

export function open(section) {
  const source = segments("Tokens", [["picture", "From a picture"], ["text", "From text"]], "picture");
  const picker = makePicker("Picture");
  const fit = segments("How it gets into the model's square", [["letterbox", "Whole"], ["crop", "Middle"], ["tiles", "Tiles"]], "letterbox");
  const prompt = textArea("a red cat in a meadow", "a red cat in a meadow");
  const keep = rangeField("Tokens", { low: 0, high: LARGEST, value: DRAWN }, (doublings) => String(2 ** doublings));
  const temperature = numberBox(1, 0.1, 10, 0.1);
  const seed = seedField();
  const go = h("button", { type: "button", class: "t-button t-go", data: { kind: "main" }, on: { click: start } }, "Turn into tokens");
  const stop = h("button", { type: "button", class: "t-button t-hidden" }, "Cancel");
  const bar = makeBar();
  const says = h("div");
  const fromPicture = h("div", { class: "t-stack" }, picker.element, fit.element);
  const fromText = h("div", { class: "t-stack t-hidden" }, field("Describe the picture", prompt), keep.element, field("Temperature", temperature));
  const growing = makeGrowing();
  const table = makeTokenTable({ mixed, rerolled });
  const strip = h("ul", { class: "t-strip", "aria-label": "Earlier tokens" });
  section.append(
    h(
      "div",
      { class: "t-bench" },
      h("div", { class: "t-form" }, source.element, fromPicture, fromText, seed.element, h("div", { class: "t-row" }, go, stop), bar.element, says),
      h("div", { class: "t-work" }, growing.element, table.element, h("section", { class: "t-strip-box", "aria-label": "History" }, h("div", { class: "t-strip-head" }, h("h3", {}, "Earlier tokens")), strip)),
    ),
  );
  source.onChange(showSource);

  function showSource(value) {
    fromPicture.classList.toggle("t-hidden", value !== "picture");
    fromText.classList.toggle("t-hidden", value !== "text");
    go.textContent = value === "text" ? "Draw tokens" : "Turn into tokens";
  }

  let turn = 0;

  function start() {
    if (source.value === "text") {
      return run("generate", { prompt: prompt.value, keep: 2 ** keep.input.value, temperature: Number(temperature.value), seed: seed.take() });
    }
    if (!picker.value) return complain("Choose a picture first.");
    return run("encode", { source: picker.value, fit: fit.value, seed: seed.take() });
  }

  const complain = (text) => says.replaceChildren(note(text, "problem"));

  async function run(kind, request) {
    says.replaceChildren();
    try {
      await follow((await submitJob(kind, request)).job);
    } catch (refusal) {
      complain(refusal.message);
    }
  }

  async function follow(id) {
    turn += 1;
    const mine = turn;
    stop.classList.remove("t-hidden");
    stop.onclick = () => cancelJob(id).catch(() => {});
    const job = await followJob(
      id,
      (now) => {
        bar.update(now, now.state === "queued" ? "Waiting for what is being painted" : WORDS[now.phase] || "Working");
        if (now.result.stops?.length) {
          growing.clear();
          table.show(now);
        } else if (now.preview_number && !now.is_final) {
          growing.show(now);
        }
      },
      () => mine === turn,
    );
    if (!job) return;
    bar.clear();
    growing.clear();
    stop.classList.add("t-hidden");
    if (job.state === "done") {
      table.show(job);
      says.replaceChildren(...job.warnings.map((text) => note(text)));
    } else if (job.state !== "cancelled") {
      complain([job.error, job.hint].filter(Boolean).join(" "));
    }
    refresh();
  }

  /** A mix of two strips is shown like any other strip. */
  function mixed(data) {
    return run("decode", { strip: data, seed: seed.take() });
  }

  function rerolled(tokens, text, count) {
    return run("generate", { prompt: text, prefix: tokens, keep: count, seed: seed.take(), temperature: Number(temperature.value) });
  }

  async function refresh() {
    const { jobs } = await readJobs(KINDS).catch(() => ({ jobs: [] }));
    const done = jobs.filter((job) => job.state === "done" && job.result.stops?.length);
    strip.replaceChildren(...done.map((job) => h("li", {}, tile(job))));
    table.offer(done);
    return jobs;
  }

  function tile(job) {
    const open = () => {
      turn += 1;
      bar.clear();
      growing.clear();
      table.show(job);
    };
    const words = `${job.request.prompt || "A picture"}, ${job.result.count} tokens`;
    return h("button", { type: "button", title: words, on: { click: open } }, h("img", { src: table.pictureOf(job), alt: words, loading: "lazy" }));
  }

  refresh().then((jobs) => {
    const running = jobs.find((job) => !job.is_final);
    const last = jobs.find((job) => job.state === "done" && job.result.stops?.length);
    if (last) table.show(last);
    if (running) follow(running.id).catch((refusal) => complain(refusal.message));
  });

  return {
    /** A picture of the gallery, to be turned into tokens at once. */
    take({ id, url }) {
      source.value = "picture";
      showSource("picture");
      picker.refresh();
      picker.set(`picture:${id}`, url);
      start();
    },
  };
}
