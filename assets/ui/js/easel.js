// The right side of the page: follows one job at a time and shows one picture at a time.

import {
  address,
  cancelJob,
  deletePicture,
  readJudgement,
  readOverview,
  readPicture,
  readSentences,
  restorePicture,
  retryJob,
  watchJob,
} from "./backend.js";
import { makeCaption } from "./caption.js";
import { h } from "./dom.js";
import { Exhibit } from "./exhibit.js";
import { remember } from "./mine.js";
import { drawMosaic } from "./mosaic.js";
import { makeProgress } from "./progress.js";
import { makeSentences } from "./sentences.js";
import { makeStrip } from "./strip.js";
import { boxesOf, makeAttempts, makeBadges } from "./verdict.js";
import { size } from "./words.js";

const POLL_MS = 400;
const HIDDEN_POLL_MS = 2500;
const OVERVIEW_MS = 2500;
const TAB_KEY = "tessera.job";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const note = (text, kind) => h("div", { class: "t-note", role: kind ? "alert" : "note", data: kind ? { kind } : {} }, text);

/** The wall, what is said under it, and the strip. `door` is what Gradio hands over; `status(state)` tells the header. */
export class Easel {
  constructor(element, door, status) {
    this.door = door;
    this.status = status;
    this.frame = h("div", { class: "t-frame" });
    this.wall = h("div", { class: "t-wall" }, h("div", { class: "t-hang" }, this.frame));
    this.under = h("div", { class: "t-under" });
    this.section = h("section", { class: "t-easel", "aria-label": "Picture" }, this.wall, this.under);
    this.strip = makeStrip(({ kind, id }) => (kind === "job" ? this.follow(id) : this.showPicture(id)));
    this.announcer = h("div", { class: "sr-only", role: "status", "aria-live": "polite" });
    element.replaceChildren(this.section, this.strip.element, this.announcer);
    this.shown = { kind: "empty", id: null };
    // every change of what is shown takes a new turn; answers that belong to an older turn are dropped
    this.turn = 0;
    this.exhibit = null;
    this.format = [1024, 1024];
    new ResizeObserver(() => this.redrawMosaic()).observe(this.wall);
    new MutationObserver(() => this.redrawMosaic()).observe(document.body, { attributeFilter: ["class"] });
    this.showEmpty();
    this.keepStripFresh();
  }

  // What is shown, and how it hangs

  begin(kind, id, state) {
    this.turn += 1;
    this.shown = { kind, id };
    this.exhibit?.close();
    this.exhibit = null;
    document.documentElement.classList.toggle("t-running", kind === "job");
    if (id) sessionStorage.setItem(TAB_KEY, id);
    this.section.dataset.state = state;
    return this.turn;
  }

  /** Give the wall the proportions of a picture; `most` is its largest useful width on screen, in pixels. */
  shape(width, height, most) {
    this.wall.style.setProperty("--ratio", String(width / height));
    this.wall.style.setProperty("--most", most ? `${most}px` : "100cqw");
  }

  hangMosaic(width, height) {
    this.shape(width, height);
    this.frame.replaceChildren(h("canvas", { "aria-hidden": "true" }));
    this.redrawMosaic();
  }

  redrawMosaic() {
    const canvas = this.frame.querySelector("canvas");
    if (canvas) drawMosaic(canvas);
  }

  showEmpty(title = "Nothing on the wall yet") {
    this.begin("empty", null, "empty");
    this.drawEmpty(title);
  }

  drawEmpty(title) {
    this.hangMosaic(...this.format);
    this.under.replaceChildren(
      h("h2", {}, title),
      h("p", {}, `Describe a picture and press Generate. It will hang here, ${size(...this.format)} pixels large.`),
    );
  }

  /** The form's size changed: an empty wall shows its proportions. */
  setFormat(width, height) {
    if (!(width >= 16 && height >= 16)) return;
    this.format = [width, height];
    // no new turn: a job that is just being looked up is still to be shown
    if (this.shown.kind === "empty") this.drawEmpty(this.under.querySelector("h2").textContent);
  }

  // A job under way

  async follow(id) {
    const turn = this.begin("job", id, "running");
    remember(id);
    const view = { progress: makeProgress(), preview: 0, hung: false, tried: 0 };
    while (turn === this.turn) {
      const answer = await this.askForJob(id);
      if (turn !== this.turn) return;
      if (answer === "unknown") return this.forget();
      if (answer?.state === "done") return this.showPicture(answer.image_id, true);
      if (answer?.is_final) return this.showStopped(answer);
      if (answer) this.drawJob(answer, view, turn);
      await pause(document.hidden ? HIDDEN_POLL_MS : answer ? POLL_MS : POLL_MS * 4);
    }
  }

  /** The job, "unknown" when the studio has none of that name, null when the studio does not answer. */
  async askForJob(id) {
    try {
      const job = await watchJob(id);
      this.status("ok");
      return job;
    } catch (refusal) {
      if (refusal.status === 404) return "unknown";
      this.status("lost");
      return null;
    }
  }

  forget() {
    sessionStorage.removeItem(TAB_KEY);
    this.showEmpty("That job is no longer known here");
  }

  drawJob(job, view, turn) {
    if (!view.hung) {
      this.hangMosaic(job.request.width, job.request.height);
      this.under.replaceChildren(view.progress.element, ...job.warnings.map((text) => note(text)));
      view.hung = true;
    }
    view.progress.update(job);
    const tried = job.result.attempts?.length || 0;
    if (tried > view.tried) {
      view.tried = tried;
      view.tries?.remove();
      view.tries = makeAttempts(job.id, job.result, null);
      this.under.append(view.tries);
    }
    if (job.preview_number > view.preview) {
      view.preview = job.preview_number;
      this.hangPreview(job, view, turn);
    }
  }

  async hangPreview(job, view, turn) {
    const source = address(`jobs/${job.id}/preview?n=${job.preview_number}`);
    const image = h("img", { class: "t-preview", alt: `Preview: ${job.request.prompt}`, src: source });
    try {
      await image.decode();
    } catch {
      return;
    }
    if (turn !== this.turn) return;
    const before = this.frame.querySelector(":scope > .t-preview");
    if (before && view.stage && job.stage > view.stage) {
      view.guide = h("figure", { class: "t-guide" }, before, h("figcaption", {}, `Guide ${view.size}`));
    }
    view.stage = job.stage;
    view.size = size(job.width, job.height);
    const badge = job.phase === "paint" ? h("div", { class: "t-stage-badge" }, view.size) : "";
    this.frame.replaceChildren(image, badge, view.guide || "");
  }

  showStopped(job) {
    const turn = this.begin("stopped", job.id, job.state);
    this.hangMosaic(job.request.width, job.request.height);
    const titles = { cancelled: "Cancelled", interrupted: "Interrupted", failed: "This picture was not painted" };
    const sentence = job.state === "cancelled" ? "" : [job.error, job.hint].filter(Boolean).join(" ");
    const unsaved = job.has_unsaved_image ? address(`jobs/${job.id}/unsaved.png`) : "";
    const again = unsaved ? "Save it again" : "Paint it after all";
    this.under.replaceChildren(
      h("h2", {}, titles[job.state]),
      h("p", { class: "t-caption", dir: "auto" }, job.request.prompt),
      sentence ? note(sentence, "problem") : "",
      h(
        "div",
        { class: "t-row" },
        job.can_retry && h("button", { type: "button", class: "t-button", on: { click: () => this.retry(job.id) } }, again),
        unsaved && h("a", { class: "t-button", href: unsaved, download: "" }, "Download the unsaved picture"),
      ),
    );
    if (unsaved) this.hangUnsaved(unsaved, job.request, turn);
    this.refreshStrip();
  }

  async hangUnsaved(url, { prompt, width, height }, turn) {
    const image = h("img", { class: "t-picture", alt: prompt, src: url, width, height });
    await image.decode().catch(() => {});
    if (turn !== this.turn) return;
    this.shape(width, height, width * 2);
    this.frame.replaceChildren(image);
  }

  async retry(id) {
    try {
      await retryJob(id);
      this.follow(id);
    } catch (refusal) {
      this.under.append(note(refusal.message, "problem"));
    }
  }

  isRunning() {
    return this.shown.kind === "job";
  }

  cancel() {
    if (this.shown.kind === "job") cancelJob(this.shown.id).catch(() => this.status("lost"));
  }

  // A finished picture

  async showPicture(id, isNew = false) {
    const turn = this.begin("picture", id, "loading");
    let picture;
    try {
      picture = await readPicture(id);
    } catch (refusal) {
      if (turn === this.turn) this.showEmpty(refusal.message);
      return;
    }
    if (turn !== this.turn) return;
    this.exhibit = new Exhibit(this, picture, () => turn === this.turn);
    this.under.replaceChildren(
      makeCaption(picture, {
        restore: () => this.door.trigger("restore", { id }),
        again: () => this.door.trigger("again", { id }),
        remove: () => this.remove(picture),
        see: (on) => this.exhibit.see(on),
        seams: (on) => this.exhibit.seams(on),
        compare: (what) => this.exhibit.compare(what),
      }),
    );
    this.refreshStrip();
    if (isNew) this.announcer.textContent = `Finished: ${picture.request.prompt}`;
    await this.exhibit.hang();
    if (!picture.can_be_seen) return;
    await this.judge(picture, turn);
    this.tellSentences(picture, turn);
  }

  /** Say under the picture what it shows of its prompt. */
  async judge(picture, turn) {
    const judgement = await readJudgement(picture.id).catch(() => ({}));
    if (turn !== this.turn || !judgement.relations) return;
    const badges = makeBadges(judgement, (on) => this.exhibit.mark(on ? boxesOf(judgement) : []));
    const tries = picture.search.attempts ? makeAttempts(picture.id, picture.search) : null;
    this.under.querySelector(".t-facts").after(...[badges, tries].filter(Boolean));
  }

  /** Say below that which sentences it shows. */
  async tellSentences(picture, turn) {
    const found = await readSentences(picture.id).catch(() => null);
    const list = found && turn === this.turn && makeSentences(found);
    if (list) this.under.querySelector(".t-row").before(list);
  }

  /** Move a picture to the trash; it can be taken out again at once. */
  async remove(picture) {
    try {
      await deletePicture(picture.id);
    } catch (refusal) {
      this.under.append(note(refusal.message, "problem"));
      return;
    }
    sessionStorage.removeItem(TAB_KEY);
    this.showEmpty("The picture is in the trash");
    const undo = h("button", { type: "button", class: "t-button" }, "Take it out again");
    undo.addEventListener("click", () => {
      restorePicture(picture.id).then(
        () => this.showPicture(picture.id),
        (refusal) => this.under.append(note(refusal.message, "problem")),
      );
    });
    this.under.querySelector("p").textContent = "It stays there for 30 days.";
    this.under.append(h("div", { class: "t-row" }, undo));
    this.refreshStrip();
    undo.focus();
  }

  // The strip, and coming back

  async refreshStrip() {
    try {
      const overview = await readOverview();
      this.strip.update(overview, this.shown.id);
      this.status("ok", overview.status);
    } catch {
      this.status("lost");
    }
  }

  async keepStripFresh() {
    for (;;) {
      if (!document.hidden) await this.refreshStrip();
      await pause(this.shown.kind === "job" ? OVERVIEW_MS : OVERVIEW_MS * 2);
    }
  }

  /** Take up what this tab showed before a reload, else what this browser started last, if that still runs. */
  async resume(last) {
    const turn = this.turn;
    const own = sessionStorage.getItem(TAB_KEY);
    if (!own && !last) return;
    const job = await watchJob(own || last).catch(() => null);
    if (!job || turn !== this.turn) return;
    if (!job.is_final) this.follow(job.id);
    else if (own && job.state === "done") this.showPicture(job.image_id);
    else if (own) this.showStopped(job);
  }
}
