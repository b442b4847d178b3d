// The rooms of the studio, one shown at a time; the address keeps which, so that a reload and "back" work.

import { h } from "./dom.js";

const FIRST = "create";
// a room's script is fetched when it is first visited; `open(section)` builds it and gives {take(what)}
const SCRIPTS = {
  tokens: () => import("./room_tokens.js"),
  video: () => import("./room_video.js"),
  kernels: () => import("./room_kernels.js"),
};
const opened = new Map();
let offered = [FIRST];
let host = null;

const links = () => [...document.querySelectorAll(".t-rooms a")];

/** Called once, with the element that holds every room but the first. */
export function mountRooms(element) {
  host = element;
  window.addEventListener("hashchange", show);
  show();
}

/** Show the links of these rooms; one whose model is not here has none. */
export function offerRooms(rooms) {
  if (rooms.join() === offered.slice(1).join()) return;
  offered = [FIRST, ...rooms];
  document.querySelector(".t-rooms").hidden = offered.length < 2;
  for (const link of links()) link.hidden = !offered.includes(link.dataset.room);
  show();
}

export const isOffered = (room) => offered.includes(room);
export const currentRoom = () => document.documentElement.dataset.room || FIRST;

/** Go to a room and hand it something, for instance a picture to work on. */
export async function visit(room, what) {
  location.hash = room === FIRST ? "create" : room;
  const { take } = await enter(room);
  take(what);
}

function show() {
  const asked = location.hash.slice(1);
  const room = isOffered(asked) ? asked : FIRST;
  document.documentElement.dataset.room = room;
  for (const link of links()) {
    if (link.dataset.room === room) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (room !== FIRST && host) enter(room);
  // what was laid out while hidden has no size yet
  window.dispatchEvent(new Event("resize"));
}

function enter(room) {
  if (!opened.has(room)) {
    const section = h("section", { class: "t-room", data: { of: room } });
    host.append(section);
    opened.set(
      room,
      SCRIPTS[room]().then((script) => script.open(section)),
    );
  }
  return opened.get(room);
}
