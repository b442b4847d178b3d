// A clip, then more clips that continue it: what is filmed, clip by clip, and every clip can be filmed again.

import { address, cancelJob, planJob, readJobs, submitJob } from "./backend.js";
import { field, makeBar, note, numberBox, rangeField, seedField, segments, textArea } from "./controls.js";
import { h } from "./dom.js";
import { followJob } from "./following.js";
import { makePicker } from "./picker.js";
import { makeScreen } from "./screen.js";
import { duration, remaining } from "./words.js";

const WORDS = { encode: "Reading the prompt", smooth: "Putting frames in between", load: "Loading the model", save: "Writing the video" };
const PLAN_MS = 500;

export function open(section) {
  const prompt = textArea("a red ball bounces in a meadow", "a red ball bounces in a meadow");
  const { element: clipsField, input: clips } = rangeField("Clips", { low: 1, high: 12, value: 4 });
  const schedule = h("div", { class: "t-schedule" });
  const picker = makePicker("Begin with a picture", planSoon, true);
  const fps = numberBox(8, 1, 60);
  const smooth = segments("Frames in between", [[1, "None"], [2, "2 times"], [4, "4 times"]], 1);
  const loop = h("input", { type: "checkbox", class: "t-check" });
  const seed = seedField();
  const cost = h("p", { class: "t-hint", role: "status" });
  const go = h("button", { type: "button", class: "t-button t-go", data: { kind: "main" }, on: { click: start } }, "Film");
  const stop = h("button", { type: "button", class: "t-button t-hidden" }, "Cancel");
  const bar = makeBar();
  const says = h("div");
  const screen = makeScreen({ again: filmAgain });
  const strip = h("ul", { class: "t-strip", "aria-label": "Earlier videos" });
  const more = h("details", { class: "t-tool-box" }, h("summary", {}, "Speed, loop, frames in between"), field("Frames per second", fps), smooth.element, h("label", { class: "t-keep" }, loop, "Let the end lead back to the beginning"));
  section.append(
    h(
      "div",
      { class: "t-bench" },
      h("div", { class: "t-form" }, field("Describe the first clip", prompt), clipsField, schedule, picker.element, more, seed.element, cost, h("div", { class: "t-row" }, go, stop), bar.element, says),
      h("div", { class: "t-work" }, screen.element, h("section", { class: "t-strip-box", "aria-label": "History" }, h("div", { class: "t-strip-head" }, h("h3", {}, "Earlier videos")), strip)),
    ),
  );

  let turn = 0;
  let planning = 0;
  const changes = new Map();

  /** One line per clip from the second on; what is empty goes on with the prompt before it. */
  function drawSchedule() {
    const rows = [];
    for (let clip = 2; clip <= Number(clips.value); clip += 1) {
      const box = h("input", { type: "text", class: "t-input", placeholder: "as before", "aria-label": `Prompt from clip ${clip} on`, dir: "auto" });
      box.value = changes.get(clip) || "";
      box.addEventListener("input", () => {
        changes.set(clip, box.value);
        planSoon();
      });
      rows.push(h("div", { class: "t-clip-line" }, h("span", { class: "t-number" }, `Clip ${clip}`), box));
    }
    schedule.replaceChildren(...rows);
    planSoon();
  }

  function request(chosenSeed) {
    const last = Number(clips.value);
    const prompts = [...changes].filter(([clip, text]) => clip <= last && text.trim());
    return {
      prompt: prompt.value,
      prompts_at: prompts,
      clips: last,
      fps: Number(fps.value),
      smooth: smooth.value,
      is_loop: loop.checked,
      seed: chosenSeed,
      start: picker.value || null,
    };
  }

  function planSoon() {
    clearTimeout(planning);
    planning = setTimeout(plan, PLAN_MS);
  }

  async function plan() {
    try {
      const { seconds, warnings } = await planJob("video", request(0));
      cost.textContent = [`About ${duration(Math.max(1, Math.ceil(seconds)))}.`, ...warnings].join(" ");
    } catch (refusal) {
      cost.textContent = refusal.message;
    }
  }

  const complain = (text) => says.replaceChildren(note(text, "problem"));

  async function run(asked) {
    says.replaceChildren();
    try {
      await follow((await submitJob("video", asked)).job);
    } catch (refusal) {
      complain(refusal.message);
    }
  }

  function start() {
    return run(request(seed.take()));
  }

  /** The same video with one clip filmed anew; the video that was there stays. */
  function filmAgain(job, clip) {
    const seeds = job.request.clip_seeds.filter(([other]) => other !== clip);
    const fresh = [clip, Math.floor(Math.random() * 4294967296)];
    return run({ ...job.request, clip_seeds: [...seeds, fresh], redo: [job.id, clip] });
  }

  async function follow(id) {
    turn += 1;
    const mine = turn;
    stop.classList.remove("t-hidden");
    stop.onclick = () => cancelJob(id).catch(() => {});
    const job = await followJob(
      id,
      (now) => {
        const filming = now.phase === "film" || now.phase === "clip";
        const doing = filming ? `Filming clip ${now.stage} of ${now.stages}` : WORDS[now.phase] || "Working";
        const left = now.eta_s === null ? "" : `, ${remaining(now.eta_s)}`;
        bar.update(now, now.state === "queued" ? "Waiting for what is being painted" : doing + left);
        screen.show(now);
      },
      () => mine === turn,
    );
    if (!job) return;
    bar.clear();
    stop.classList.add("t-hidden");
    screen.show(job);
    if (job.state === "done") says.replaceChildren(...job.warnings.map((text) => note(text)));
    else if (job.state !== "cancelled") complain([job.error, job.hint].filter(Boolean).join(" "));
    refresh();
  }

  async function refresh() {
    const { jobs } = await readJobs("video").catch(() => ({ jobs: [] }));
    const shown = jobs.filter((job) => job.state === "done");
    strip.replaceChildren(...shown.map((job) => h("li", {}, tile(job))));
    return jobs;
  }

  function tile(job) {
    const open = () => {
      turn += 1;
      bar.clear();
      screen.show(job);
    };
    const face = h("img", { src: address(`jobs/${job.id}/files/poster.webp`), alt: job.request.prompt, loading: "lazy" });
    return h("button", { type: "button", title: job.request.prompt, on: { click: open } }, face);
  }

  clips.addEventListener("input", drawSchedule);
  prompt.addEventListener("input", planSoon);
  for (const control of [fps, loop]) control.addEventListener("input", planSoon);
  smooth.onChange(planSoon);
  drawSchedule();
  refresh().then((jobs) => {
    const running = jobs.find((job) => !job.is_final);
    const last = jobs.find((job) => job.state === "done");
    if (running) follow(running.id).catch((refusal) => complain(refusal.message));
    else if (last) screen.show(last);
  });

  return {
    /** A picture of the gallery to begin with. */
    take({ id, url, prompt: text }) {
      picker.refresh();
      picker.set(`picture:${id}`, url);
      prompt.value = text;
      planSoon();
      prompt.focus();
    },
  };
}
