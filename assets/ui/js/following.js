// Following one job from outside the easel: for the other rooms.

import { watchJob } from "./backend.js";
import { remember } from "./mine.js";

const POLL_MS = 400;

/**
 * Tell `update(job)` how a job goes until it has ended; the promise gives its last state. `goesOn()` ends it early,
 * with null. While the studio does not answer it goes on asking.
 */
export async function followJob(id, update, goesOn = () => true) {
  remember(id);
  for (;;) {
    let job = null;
    try {
      job = await watchJob(id);
    } catch (refusal) {
      if (refusal.status === 404) throw refusal;
    }
    if (!goesOn()) return null;
    if (job) update(job);
    if (job?.is_final) return job;
    await new Promise((resolve) => setTimeout(resolve, job ? POLL_MS : POLL_MS * 4));
  }
}
