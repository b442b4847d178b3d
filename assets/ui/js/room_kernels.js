// Which attention back ends run on this machine, how exact they are, and what they gain.

import { cancelJob, readJobs, submitJob } from "./backend.js";
import { h, icon, ICONS } from "./dom.js";
import { followJob } from "./following.js";

const SHAPES = { ran: ICONS.check, refused: ICONS.minus, failed: ICONS.cross };
const STATUS = { ran: "right", refused: "can't run here", failed: "wrong" };

export function open(section) {
  const run = h("button", { type: "button", class: "t-button", data: { kind: "main" }, on: { click: start } }, "Run the self-test");
  const stop = h("button", { type: "button", class: "t-button t-hidden" }, "Cancel");
  const line = h("p", { class: "t-room-says", role: "status", "aria-live": "polite" });
  const found = h("div", { class: "t-kernels" });
  section.append(
    h(
      "div",
      { class: "t-room-head" },
      h("h2", {}, "Kernels"),
      h("p", {}, "Large pictures are painted with attention that looks at a window and at the small picture it grows from. Every way to compute it is held here against one plain reference, in double precision, and only one that agrees is timed."),
      h("div", { class: "t-row" }, run, stop),
      line,
    ),
    found,
  );

  let tested = ""; // when and where, of the tables that are shown

  function says(text, isProblem = false) {
    line.textContent = text;
    line.dataset.kind = isProblem ? "problem" : "";
  }

  async function start() {
    try {
      follow((await submitJob("selftest", {})).job);
    } catch (refusal) {
      says(refusal.message, true);
    }
  }

  async function follow(id) {
    run.disabled = true;
    stop.classList.remove("t-hidden");
    stop.onclick = () => cancelJob(id).catch(() => {});
    const job = await followJob(id, (now) => {
      const waits = now.state === "queued" ? "Waiting for what is being painted" : `Testing, ${Math.round(100 * now.fraction)} %`;
      says(now.is_final ? "" : waits);
    }).catch((refusal) => ({ state: "failed", error: refusal.message }));
    run.disabled = false;
    stop.classList.add("t-hidden");
    if (job.state === "done") return draw(job);
    const before = tested && ` Below is the test before. ${tested}`;
    says(`${job.error || "The test was cancelled."}${before}`, job.state === "failed");
  }

  function draw(job) {
    const { device, dtypes } = job.result;
    tested = `Tested on ${device}, ${new Date(job.finished * 1000).toLocaleString()}.`;
    if (dtypes.every((facts) => facts.is_sound)) says(`Every back end that runs here agrees with the reference. ${tested}`);
    else says(`${problem(dtypes)} ${tested}`, true);
    found.replaceChildren(...dtypes.map((facts, index) => table(facts, index === 0)));
  }

  readJobs("selftest").then(
    ({ jobs }) => {
      const last = jobs.find((job) => job.state === "done");
      const running = jobs.find((job) => !job.is_final);
      if (last) draw(last);
      if (running) follow(running.id);
    },
    (refusal) => says(refusal.message, true),
  );
  return { take() {} };
}

/** What is wrong, and where. */
function problem(dtypes) {
  const wrong = dtypes.flatMap((facts) => facts.backends.filter((found) => found.status === "failed").map((found) => `${found.name} in ${facts.dtype}`));
  return wrong.length ? `Wrong here: ${wrong.join(", ")}.` : "The back end that is in use can't run here.";
}

/** The verdicts in one precision; `isUsed`: pictures are painted in it. */
function table(facts, isUsed) {
  const pill = (is) => (is ? [" ", h("span", { class: "t-pill" }, "in use")] : null);
  const rows = facts.backends.map((found) =>
    h(
      "tr",
      { data: { status: found.status } },
      h("th", { scope: "row" }, found.name, pill(found.is_chosen)),
      verdict(found),
      found.max_error === null ? null : h("td", { class: "t-number" }, power(found.max_error)),
      found.duration_ms === null ? null : h("td", { class: "t-number" }, `${found.duration_ms.toFixed(1)} ms`),
    ),
  );
  const names = ["Back end", "Verdict", "Largest error", "One call"];
  return h(
    "section",
    { class: "t-kernel", "aria-label": facts.dtype },
    h("h3", {}, facts.dtype, pill(isUsed)),
    h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)),
    speed(facts.speed),
  );
}

/** The cell of a verdict; one without figures has their room for its reason. */
function verdict(found) {
  return h(
    "td",
    { colspan: found.max_error === null ? "3" : null },
    h("span", { class: "t-state" }, icon(SHAPES[found.status]), STATUS[found.status]),
    found.status === "ran" ? null : h("p", {}, found.reason),
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
