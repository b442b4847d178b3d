// A finished picture on the wall: as it is or in the viewer, with what the eyes see, beside an earlier stage.

import { address, askForCut, askForStage, readSeams, readSeen, watchJob } from "./backend.js";
import { boxLayer } from "./boxes.js";
import { h } from "./dom.js";
import { openViewer } from "./viewer.js";
import { size } from "./words.js";

// above this a picture no longer fits a screen pixel for pixel and opens in the viewer
const ZOOM_FROM_PX = 1500;
const POLL_MS = 300;

/** "red cat", "dotted green tree". */
const named = (item) => [item.pattern === "plain" ? "" : item.pattern, item.colour, item.kind].filter(Boolean).join(" ");

export class Exhibit {
  /** `easel` has wall, frame, section and shape(); `isCurrent()` tells whether this picture is still shown. */
  constructor(easel, picture, isCurrent) {
    this.easel = easel;
    this.picture = picture;
    this.isCurrent = isCurrent;
    this.viewer = null;
    this.boxes = [];
  }

  async hang() {
    const { width, height } = this.picture.request;
    if (Math.max(width, height) > ZOOM_FROM_PX) await this.hangViewer();
    else await this.hangFlat();
  }

  async hangFlat() {
    const { prompt, width, height } = this.picture.request;
    const url = address(`pictures/${this.picture.id}.png`);
    const image = h("img", { class: "t-picture", alt: prompt, src: url, width, height });
    await image.decode().catch(() => {});
    if (!this.isCurrent()) return;
    this.viewer?.close();
    this.viewer = null;
    this.easel.section.dataset.state = "done";
    // a sketch of 256 pixels is shown at most twice as large, so that it stays what it is
    this.easel.shape(width, height, width * 2);
    this.easel.frame.replaceChildren(image);
    this.drawBoxes();
  }

  async hangViewer() {
    if (this.viewer) return;
    const { prompt, width, height } = this.picture.request;
    const url = address(`pictures/${this.picture.id}/zoom`);
    let viewer;
    try {
      viewer = await openViewer(this.easel.wall, { url, alt: prompt, width, height });
    } catch {
      return this.hangFlat();
    }
    if (!this.isCurrent()) return viewer.close();
    this.easel.shape(width, height);
    this.viewer = viewer;
    this.easel.section.dataset.state = "zoom";
    this.easel.frame.replaceChildren();
    this.drawBoxes();
  }

  /** Show or hide what the eyes see. */
  async see(on) {
    this.boxes = on ? (await readSeen(this.picture.id)).objects.map((item) => ({ box: item.box, text: named(item) })) : [];
    this.drawBoxes();
    if (on && !this.boxes.length) throw new Error("The eyes see no object here");
  }

  /** Show these boxes ({box, text, mark}) instead. */
  mark(boxes) {
    this.boxes = boxes;
    this.drawBoxes();
  }

  /** Measure the seams and mark the clearest one, or take the mark away; gives {ratio, worst, column, row}. */
  async seams(on) {
    if (!on) return this.mark([]);
    const found = await readSeams(this.picture.id);
    const { width, height } = this.picture.request;
    const [across, down] = [found.column / width, found.row / height];
    const line = found.column === null ? [0, down, 1, down + 1 / height] : [across, 0, across + 1 / width, 1];
    this.mark([{ box: line, text: `seam ${found.worst.toFixed(2)}`, mark: "line" }]);
    return found;
  }

  drawBoxes() {
    if (!this.isCurrent()) return;
    this.easel.frame.querySelector(".t-boxes")?.remove();
    if (this.viewer) this.viewer.showBoxes(this.boxes);
    else if (this.boxes.length) this.easel.frame.append(boxLayer(this.boxes));
  }

  /**
   * Lay another picture over the left half: an earlier stage, enlarged, by its index, or "cut", what the same seed
   * gives for the prompt cut short. null takes it away.
   */
  async compare(what) {
    if (what === null) {
      this.viewer?.compare(null);
      return;
    }
    const { job } = await (what === "cut" ? askForCut(this.picture.id) : askForStage(this.picture.id, what));
    for (;;) {
      const state = await watchJob(job);
      if (!this.isCurrent()) return;
      if (state.state === "done") break;
      if (state.is_final) throw new Error(state.error || "The other picture was not painted");
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    await this.hangViewer();
    const label = what === "cut" ? `first ${this.picture.cut_at} tokens` : `${size(...this.picture.stages[what])}, enlarged`;
    this.viewer?.compare({ url: address(`pictures/${job}.png`), label });
  }

  close() {
    this.viewer?.close();
    this.viewer = null;
  }
}
