// Which attention back ends run on this machine, how exact they are, and what they gain.

import { cancelJob, readJobs, submitJob } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";
import { followJob } from "./following.js";

const SHAPES = { ran: ICONS.check, refused: ICONS.minus, failed: ICONS.cross };
const STATUS = { ran: "exact", refused: "can't run here", failed: "wrong" };

export function open(section) {
  const run = h("button", { type: "button", class: "t-button", data: { kind: "main" }, on: { click: start } }, "Run the self-test");
  const stop = h("button", { type: "button", class: "t-button t-hidden" }, "Cancel");
  const says = h("p", { class: "t-room-says", role: "status", "aria-live": "polite" });
  const found = h("div", { class: "t-kernels" });
  section.append(
    h(
      "div",
      { class: "t-room-head" },
      h("h2", {}, "Kernels"),
      h("p", {}, "Large pictures are painted with attention that looks at a window and at the small picture it grows from. Every way to compute it is held here against one plain reference, in double precision, and only one that agrees is timed."),
      h("div", { class: "t-row" }, run, stop),
      says,
    ),
    found,
  );

  async function start() {
    try {
      follow((await submitJob("selftest", {})).job);
    } catch (refusal) {
      says.textContent = refusal.message;
    }
  }

  async function follow(id) {
    run.disabled = true;
    stop.classList.remove("t-hidden");
    stop.onclick = () => cancelJob(id).catch(() => {});
    const job = await followJob(id, (now) => {
      const waits = now.state === "queued" ? "Waiting for what is being painted" : `Testing, ${Math.round(100 * now.fraction)} %`;
      says.textContent = now.is_final ? "" : waits;
    }).catch((refusal) => ({ state: "failed", error: refusal.message }));
    run.disabled = false;
    stop.classList.add("t-hidden");
    if (job.state === "done") draw(job);
    else says.textContent = job.error || "The test was cancelled.";
  }

  function draw(job) {
    const { device, dtypes } = job.result;
    const sound = dtypes.every((facts) => facts.is_sound);
    const when = new Date(job.finished * 1000).toLocaleString();
    says.textContent = `${sound ? "All that is used here is exact" : "Something is wrong: see below"}. Tested on ${device}, ${when}.`;
    found.replaceChildren(...dtypes.map(table));
  }

  readJobs("selftest").then(
    ({ jobs }) => {
      const last = jobs.find((job) => job.state === "done");
      const running = jobs.find((job) => !job.is_final);
      if (last) draw(last);
      if (running) follow(running.id);
    },
    (refusal) => (says.textContent = refusal.message),
  );
  return { take() {} };
}

function table(facts) {
  const rows = facts.backends.map((found) =>
    h(
      "tr",
      { data: { status: found.status } },
      h("th", { scope: "row" }, found.name, found.is_chosen ? h("span", { class: "t-pill" }, "in use") : null),
      h("td", {}, h("span", { class: "t-state" }, icon(SHAPES[found.status]), STATUS[found.status])),
      h("td", { class: "t-number" }, found.max_error === null ? "" : power(found.max_error)),
      h("td", { class: "t-number" }, found.duration_ms === null ? "" : `${found.duration_ms.toFixed(1)} ms`),
      h("td", {}, found.status === "ran" ? "" : found.reason),
    ),
  );
  const names = ["Back end", "", "Largest error", "One call", "Why not"];
  return h(
    "section",
    { class: "t-kernel", "aria-label": facts.dtype },
    h("h3", {}, facts.dtype),
    h("div", { class: "t-scroll", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))),
    speed(facts.speed),
  );
}

/** 3.1e-7 as people write it: 3.1 × 10⁻⁷ */
function power(value) {
  if (value === 0) return "0";
  const exponent = Math.floor(Math.log10(value));
  const digits = [...String(exponent)].map((digit) => (digit === "-" ? "\u207B" : "\u2070\u00B9\u00B2\u00B3\u2074\u2075\u2076\u2077\u2078\u2079"[digit])).join("");
  return `${(value / 10 ** exponent).toFixed(1)} \u00D7 10${digits}`;
}

function speed(facts) {
  if (facts.refusal) return h("div", { class: "t-note", role: "note", data: { kind: "problem" } }, `Not timed: ${facts.refusal}`);
  const most = Math.max(facts.dense_ms, facts.local_ms);
  const bar = (name, value, kind) =>
    h("div", { class: "t-race" }, h("span", {}, name), h("i", { data: { kind }, style: { width: `${(100 * value) / most}%` } }), h("span", { class: "t-number" }, `${value.toFixed(value < 10 ? 1 : 0)} ms`));
  const ratio = (facts.dense_ms / facts.local_ms).toFixed(1);
  return h(
    "figure",
    { class: "t-races" },
    h("figcaption", {}, `${facts.tokens.toLocaleString()} tokens, as in a picture of 1024 pixels: `, h("strong", {}, `${ratio} times as fast`)),
    bar("every token with every other", facts.dense_ms, "dense"),
    bar("window and guide", facts.local_ms, "local"),
  );
}
