// The studio's own routes: jobs to watch, pictures to show.

import { mine } from "./mine.js";

// this file is <root>/studio/assets/js/backend.js, whatever path a proxy puts in front
const root = new URL("../../", import.meta.url);

/** An address of the studio, for instance address("jobs/01H..."). */
export function address(path) {
  return new URL(path, root).href;
}

/** An answer that is not 2xx; `status` is 0 when there was no answer at all. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), { cache: "no-store", ...options });
  } catch {
    throw new Refusal(0, "The studio does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, body.error || "The studio could not do that.");
  return body;
}

const post = { method: "POST" };
const posting = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

/** Ask for something of a kind ("selftest", "tokens", "video"): {job}. */
export const submitJob = (kind, request) => ask("jobs", posting({ kind, request }));
/** What such a request would take: {seconds, memory_bytes, warnings}. */
export const planJob = (kind, request) => ask("plans", posting({ kind, request }));
/** Store a picture file to work on: {source}. */
export const bringPicture = (file) => ask("uploads", { method: "POST", headers: { "content-type": file.type || "image/png" }, body: file });
/** A token file of the first strip with tokens of the second: {strip}, all in base 64. */
export const spliceStrips = (what) => ask("tokens/splice", posting(what));
/** A job's token file in base 64. */
export async function readStrip(id) {
  const response = await fetch(address(`jobs/${encodeURIComponent(id)}/strip.fxtk`), { cache: "no-store" });
  if (!response.ok) throw new Refusal(response.status, "The tokens are not here any more.");
  const bytes = new Uint8Array(await response.arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
}
/** Newest jobs of a kind that this browser may see: {jobs}. */
export const readJobs = (kind) => ask(`jobs?kind=${kind}&mine=${mine().map(encodeURIComponent).join(",")}`);
export const watchJob = (id) => ask(`jobs/${encodeURIComponent(id)}`);
export const cancelJob = (id) => ask(`jobs/${encodeURIComponent(id)}/cancel`, post);
export const retryJob = (id) => ask(`jobs/${encodeURIComponent(id)}/retry`, post);
export const forgetJob = (id) => ask(`jobs/${encodeURIComponent(id)}/forget`, post);
export const deletePicture = (id) => ask(`pictures/${encodeURIComponent(id)}/delete`, post);
export const restorePicture = (id) => ask(`pictures/${encodeURIComponent(id)}/restore`, post);
/** A prompt whose relations were changed by hand: {prompt}. */
export const changePrompt = (change) => ask("relations", posting(change));
/** What the eyes see in a picture: {place, objects, relations}. */
export const readSeen = (id) => ask(`pictures/${encodeURIComponent(id)}/seen`);
/** Whether a picture shows what its prompt says; {} when nothing can be told. */
export const readJudgement = (id) => ask(`pictures/${encodeURIComponent(id)}/judgement`);
/** Which sentences of its prompt a picture shows: {sentences, shown, missing, open}. */
export const readSentences = (id) => ask(`pictures/${encodeURIComponent(id)}/sentences`);
/** How visible the borders of a picture's tiles are: {ratio, worst, column, row}. */
export const readSeams = (id) => ask(`pictures/${encodeURIComponent(id)}/seams`);
/** The picture that an earlier stage was, painted when it was not kept: {job}. */
export const askForStage = (id, index) => ask(`pictures/${encodeURIComponent(id)}/stages/${index}`, post);
/** The same seed with the prompt cut where plain pipelines cut it, painted when it is not there yet: {job}. */
export const askForCut = (id) => ask(`pictures/${encodeURIComponent(id)}/cut`, post);
export const readPicture = (id) => ask(`pictures/${encodeURIComponent(id)}`);
/** Jobs and pictures for the strip. */
export const readOverview = () => ask(`overview?mine=${mine().map(encodeURIComponent).join(",")}`);
