// A video as it grows: finished clips play one after the other, the whole plays once it is there.

import { address } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";

/** {element, show(job)}; `act.again(job, clip)` is called to film one clip anew. */
export function makeScreen(act) {
  const player = h("video", { class: "t-player", playsinline: true, controls: true, muted: true });
  const preview = h("img", { class: "t-player t-hidden", alt: "Preview of what is being filmed" });
  const empty = h("p", { class: "t-empty" }, "Nothing has been filmed yet. Describe what happens and press Film.");
  const line = h("ol", { class: "t-timeline", "aria-label": "Clips" });
  const loop = h("input", { type: "checkbox", class: "t-check" });
  const download = h("a", { class: "t-button", data: { kind: "main" }, download: "" }, icon(ICONS.download), "Download MP4");
  const title = h("h3", { dir: "auto" });
  const facts = h("div", { class: "t-facts" });
  const tools = h("div", { class: "t-row t-hidden" }, download, h("label", { class: "t-keep" }, loop, "Play again and again"));
  const element = h("div", { class: "t-screen" }, h("div", { class: "t-stage" }, player, preview, empty), title, facts, line, tools);
  player.muted = true;

  let job = null;
  let drawn = "";
  // the clip that plays, 0 for the whole video
  let playing = 0;
  let previewed = 0;

  const file = (name) => address(`jobs/${job.id}/files/${name}`);

  function show(next) {
    const isNew = job?.id !== next.id;
    const wasFinal = job?.is_final;
    job = next;
    if (isNew) {
      drawn = "";
      playing = previewed = 0;
      player.removeAttribute("src");
    }
    empty.classList.add("t-hidden");
    title.textContent = next.request.prompt;
    drawFacts();
    drawLine();
    const whole = next.state === "done" && next.result.file;
    tools.classList.toggle("t-hidden", !whole);
    if (whole) {
      download.href = file(next.result.file);
      if (isNew || !wasFinal) play(0);
    } else {
      followClips(next);
    }
  }

  /** While it is filmed: the newest finished clip plays, and until there is one, previews are shown. */
  function followClips(next) {
    const clips = next.result.clips || [];
    const hasNone = !clips.length;
    preview.classList.toggle("t-hidden", !hasNone || !next.preview_number);
    player.classList.toggle("t-hidden", hasNone);
    if (hasNone && next.preview_number > previewed) {
      previewed = next.preview_number;
      preview.src = address(`jobs/${next.id}/preview?n=${previewed}`);
    }
    if (!hasNone && !playing) play(clips[0].clip);
  }

  function drawFacts() {
    const { result, request } = job;
    const seconds = result.frames ? (result.frames / result.fps).toFixed(1) : "";
    const texts = [`${request.clips} clips`, result.width && `${result.width} \u00D7 ${result.height}`, seconds && `${result.frames} frames, ${seconds} s`, `seed ${request.seed}`];
    facts.replaceChildren(...texts.filter(Boolean).map((text) => h("span", {}, text)));
  }

  function drawLine() {
    const clips = job.result.clips || [];
    const key = JSON.stringify([job.id, job.state, clips.length, playing, job.stage]);
    if (key === drawn) return;
    drawn = key;
    const prompts = new Map(job.request.prompts_at);
    let text = job.request.prompt;
    const items = [];
    for (let clip = 1; clip <= job.request.clips; clip += 1) {
      text = prompts.get(clip) || text;
      items.push(card(clip, text, clips.find((each) => each.clip === clip)));
    }
    line.replaceChildren(...items);
  }

  function card(clip, text, made) {
    const isNow = !made && job.state === "running" && job.stage === clip;
    const face = made
      ? h("button", { type: "button", class: "t-clip-face", "aria-label": `Play clip ${clip}: ${text}`, on: { click: () => play(clip) } }, h("img", { src: file(`clip-${String(clip).padStart(3, "0")}.webp`), alt: "" }))
      : h("div", { class: "t-clip-face", data: { at: isNow ? "now" : "next" } }, isNow ? "filming" : "");
    const again = made && job.state === "done" && h("button", { type: "button", class: "t-button t-small", "aria-label": `Film clip ${clip} again`, on: { click: () => act.again(job, clip) } }, icon(ICONS.dice), "Again");
    return h("li", { "aria-current": playing === clip ? "true" : null }, face, h("div", { class: "t-clip-words" }, h("span", { class: "t-number" }, `Clip ${clip}`), h("span", { class: "t-clip-text", dir: "auto", title: text }, text)), again);
  }

  function play(clip) {
    playing = clip;
    preview.classList.add("t-hidden");
    player.classList.remove("t-hidden");
    const made = (job.result.clips || []).find((each) => each.clip === clip);
    player.src = file(clip ? made.file : job.result.file);
    player.loop = clip === 0 && loop.checked;
    player.play().catch(() => {});
    drawLine();
  }

  player.addEventListener("ended", () => {
    const next = (job.result.clips || []).find((each) => each.clip === playing + 1);
    if (playing && next) play(next.clip);
  });
  loop.addEventListener("change", () => {
    const hasEnded = player.ended; // what loops has never ended, says the browser
    player.loop = playing === 0 && loop.checked;
    if (player.loop && hasEnded) player.play().catch(() => {});
  });

  return { element, show };
}
