// Deep zoom for large pictures: OpenSeadragon over the one PNG, with controls of our own.

import { address } from "./backend.js";
import { boxElement } from "./boxes.js";
import { makeCurtain } from "./curtain.js";
import { h, icon, ICONS } from "./dom.js";

const NAVIGATOR_PX = 112;
const STEP = 1.6;
let loading = null;

/** Fetch the bundled library once; small pictures never need it. */
function library() {
  loading ||= new Promise((resolve, reject) => {
    const script = h("script", { src: address("assets/openseadragon/openseadragon.min.js") });
    script.onload = () => resolve(window.OpenSeadragon);
    script.onerror = () => {
      loading = null;
      reject(new Error("The viewer could not be loaded."));
    };
    document.head.append(script);
  });
  return loading;
}

/**
 * Open `url` (a picture of width x height pixels) inside `host`, which it fills. `alt` describes the picture to
 * those who can't see it. Gives {close(), showBoxes(items), compare({url, label}) or compare(null)}.
 */
export async function openViewer(host, { url, alt, width, height }) {
  const OpenSeadragon = await library();
  const stage = h("div", { class: "t-viewer", role: "group", "aria-label": `Zoomable picture: ${alt}` });
  host.append(stage);
  const viewer = OpenSeadragon({ element: stage, ...options(url, width, height) });
  // these keys would turn and mirror the picture, which nobody asks for here
  viewer.addHandler("canvas-key", (event) => {
    if (["r", "R", "f", "F"].includes(event.originalEvent.key)) event.preventDefaultAction = true;
  });
  const readout = h("output", { "aria-label": "Zoom" });
  stage.append(toolbar(viewer, stage, readout));
  const report = () => {
    // the picture itself: the viewport's own conversion complains while a stage hangs beside it
    const zoom = viewer.world?.getItemAt(0)?.viewportToImageZoom(viewer.viewport.getZoom(true));
    if (Number.isFinite(zoom)) readout.textContent = `${Math.round(zoom * pixelRatio() * 100)} %`;
  };
  viewer.addHandler("open", () => {
    stage.dataset.ready = "1";
    report();
  });
  viewer.addHandler("animation", report);
  viewer.addHandler("resize", report);
  const curtain = makeCurtain(OpenSeadragon, viewer, stage);
  return {
    close() {
      viewer.destroy();
      stage.remove();
    },
    compare: curtain.hang,
    showBoxes(items) {
      viewer.clearOverlays();
      const tall = height / width;
      for (const item of items) {
        const [left, top, right, bottom] = item.box;
        const location = new OpenSeadragon.Rect(left, top * tall, right - left, (bottom - top) * tall);
        viewer.addOverlay({ element: boxElement(item), location });
      }
    },
  };
}

const pixelRatio = () => window.devicePixelRatio || 1;

function options(url, width, height) {
  const scale = NAVIGATOR_PX / Math.max(width, height);
  return {
    tileSources: { type: "image", url },
    // a canvas also draws pictures that are larger than the texture limit of small graphics cards
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "TOP_RIGHT",
    navigatorWidth: `${Math.round(width * scale)}px`,
    navigatorHeight: `${Math.round(height * scale)}px`,
    animationTime: 0.5,
    maxZoomPixelRatio: 8,
    minZoomImageRatio: 0.9,
    visibilityRatio: 0.8,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  };
}

function toolbar(viewer, stage, readout) {
  const zoomTo = (zoom) => {
    viewer.viewport.zoomTo(zoom);
    viewer.viewport.applyConstraints();
  };
  const by = (factor) => zoomTo(viewer.viewport.getZoom() * factor);
  const button = (label, face, act) =>
    h("button", { type: "button", "aria-label": label, title: label, on: { click: act } }, face);
  const pixelForPixel = () => zoomTo(viewer.world.getItemAt(0).imageToViewportZoom(1 / pixelRatio()));
  return h(
    "div",
    { class: "t-zoom", role: "toolbar", "aria-label": "Zoom" },
    readout,
    button("Zoom out", icon(ICONS.minus), () => by(1 / STEP)),
    button("Zoom in", icon(ICONS.plus), () => by(STEP)),
    button("Whole picture", "Fit", () => viewer.viewport.goHome()),
    button("One picture pixel on one screen pixel", "1:1", pixelForPixel),
    document.fullscreenEnabled && button("Full screen", icon(ICONS.full), () => toggleFullscreen(stage)),
  );
}

function toggleFullscreen(element) {
  if (document.fullscreenElement) document.exitFullscreen();
  else element.requestFullscreen().catch(() => {});
}
