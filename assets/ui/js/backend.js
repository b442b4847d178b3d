// The studio's own routes: jobs to watch, pictures to show. Paths are relative to where the page is served.

const root = (window.gradio_config?.root || "").replace(/\/$/, "");

/** An address of the studio, for instance address("jobs/01H...") . */
export function address(path) {
  return `${root}/studio/${path}`;
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

export const watchJob = (id) => ask(`jobs/${encodeURIComponent(id)}`);
export const cancelJob = (id) => ask(`jobs/${encodeURIComponent(id)}/cancel`, post);
export const retryJob = (id) => ask(`jobs/${encodeURIComponent(id)}/retry`, post);
export const readPicture = (id) => ask(`pictures/${encodeURIComponent(id)}`);
export const readOverview = () => ask("overview");
