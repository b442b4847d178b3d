// Two pictures of one scene, one behind the other: a line that is dragged, or moved by arrow keys, parts them.

import { h } from "./dom.js";

const KEY_STEP = 0.02;
const MOVES = { ArrowLeft: -1, ArrowRight: 1, PageUp: 5, PageDown: -5 };

/**
 * The curtain of an OpenSeadragon viewer. `hang({url, label})` lays a second picture over the left part, stretched
 * to the first one's size; `hang(null)` takes it away.
 */
export function makeCurtain(OpenSeadragon, viewer, stage) {
  let item = null;
  let line = null;
  let at = 0.5;
  let turn = 0;

  /** Show the second picture up to the line, whatever part of it is in view. */
  function part() {
    if (!item || !line) return;
    line.style.left = `${100 * at}%`;
    line.setAttribute("aria-valuenow", String(Math.round(100 * at)));
    const point = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(at * stage.clientWidth, 0), true);
    const size = item.getContentSize();
    const edge = Math.min(1, Math.max(0, point.x)) * size.x;
    item.setClip(new OpenSeadragon.Rect(0, 0, edge, size.y));
  }

  function move(to) {
    at = Math.min(1, Math.max(0, to));
    part();
  }

  function makeLine(label) {
    const handle = h("div", {
      class: "t-curtain",
      role: "slider",
      tabindex: "0",
      "aria-label": `Where the picture begins; to the left of it: ${label}`,
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      on: {
        keydown(event) {
          const ends = { Home: 0, End: 1 };
          if (event.key in MOVES) move(at + MOVES[event.key] * KEY_STEP);
          else if (event.key in ends) move(ends[event.key]);
          else return;
          event.preventDefault();
          event.stopPropagation();
        },
        pointerdown(event) {
          handle.setPointerCapture(event.pointerId);
          event.preventDefault();
          handle.focus();
        },
        pointermove(event) {
          if (!handle.hasPointerCapture(event.pointerId)) return;
          const box = stage.getBoundingClientRect();
          move((event.clientX - box.left) / box.width);
        },
      },
    }, h("span", { class: "t-curtain-name" }, label));
    return handle;
  }

  function takeDown() {
    if (item) viewer.world.removeItem(item);
    line?.remove();
    item = line = null;
  }

  for (const event of ["update-viewport", "resize", "animation"]) viewer.addHandler(event, part);

  return {
    hang(second) {
      turn += 1;
      const mine = turn;
      takeDown();
      if (!second) return;
      viewer.addTiledImage({
        tileSource: { type: "image", url: second.url },
        width: 1,
        success: (event) => {
          if (mine !== turn) return viewer.world.removeItem(event.item);
          item = event.item;
          line = makeLine(second.label);
          stage.append(line);
          part();
        },
      });
    },
  };
}
