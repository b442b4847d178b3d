// Earlier pictures and jobs under way, newest first; a click opens one.

import { address } from "./backend.js";
import { h } from "./dom.js";

/** The strip and its `update(overview, current)`; `open({kind, id})` is called with what was clicked. */
export function makeStrip(open) {
  const count = h("span");
  const list = h("ul", { class: "t-strip", "aria-label": "Earlier pictures" });
  const element = h(
    "section",
    { class: "t-strip-box t-hidden", "aria-label": "History" },
    h("div", { class: "t-strip-head" }, h("h2", {}, "Earlier pictures"), count),
    list,
  );
  let drawn = "";

  function update(overview, current) {
    const jobs = overview.jobs.filter((job) => job.id !== current);
    element.classList.toggle("t-hidden", !jobs.length && !overview.pictures.length);
    count.textContent = overview.total ? String(overview.total) : "";
    const wanted = JSON.stringify([jobs.map((job) => [job.id, job.state, Math.round(job.fraction * 50)]), overview.pictures.map((p) => p.id), current]);
    if (wanted === drawn) return;
    drawn = wanted;
    const focused = document.activeElement?.dataset?.id;
    list.replaceChildren(
      ...jobs.map((job) => h("li", {}, jobTile(job, () => open({ kind: "job", id: job.id })))),
      ...overview.pictures.map((picture) =>
        h("li", {}, pictureTile(picture, picture.id === current, () => open({ kind: "picture", id: picture.id }))),
      ),
    );
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  return { element, update };
}

function jobTile(job, act) {
  const word = job.state === "running" ? `${Math.round(job.fraction * 100)} %` : "waiting";
  return h(
    "button",
    { type: "button", data: { id: job.id, kind: "job" }, title: job.prompt, "aria-label": `Job, ${word}: ${job.prompt}`, on: { click: act } },
    h("span", { class: "t-job-fill", style: { height: `${Math.round(job.fraction * 100)}%` } }),
    h("span", { class: "t-job-word" }, word),
  );
}

function pictureTile(picture, isCurrent, act) {
  const longest = Math.max(picture.width, picture.height);
  return h(
    "button",
    {
      type: "button",
      data: { id: picture.id, kind: "picture" },
      title: picture.prompt,
      "aria-current": isCurrent ? "true" : null,
      on: { click: act },
    },
    h("img", { src: address(`pictures/${picture.id}/thumbnail`), alt: picture.prompt, loading: "lazy", decoding: "async" }),
    longest >= 2048 ? h("span", { class: "t-size-tag" }, `${Math.floor(longest / 1024)}K`) : null,
  );
}
