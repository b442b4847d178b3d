// A picture that grows while its tokens are drawn: each preview is what the tokens so far show.

import { address } from "./backend.js";
import { h } from "./dom.js";

/** {element, show(job), clear()}. While it shows something, its parent carries the class t-grows. */
export function makeGrowing() {
  const says = h("figcaption", {});
  const figure = h("figure", {}, says);
  const element = h("div", { class: "t-pair t-growing t-hidden" }, figure);
  // the preview that is shown or on its way
  let latest = "";

  function clear() {
    latest = "";
    element.classList.add("t-hidden");
    element.parentElement?.classList.remove("t-grows");
  }

  async function show(job) {
    const source = address(`jobs/${job.id}/preview?n=${job.preview_number}`);
    if (source === latest) return;
    latest = source;
    const words = `${job.step} of ${job.steps} tokens`;
    const image = h("img", { src: source, alt: `The picture that ${words} show` });
    try {
      await image.decode();
    } catch {
      // the job has gone on since: there is no preview any more
      return;
    }
    if (source !== latest) return;
    figure.replaceChildren(image, says);
    says.textContent = words;
    element.classList.remove("t-hidden");
    element.parentElement?.classList.add("t-grows");
  }

  return { element, show, clear };
}
