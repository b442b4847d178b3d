// How numbers are said.

/** 0.4 s, 12 s, 10 min, 2 min 5 s, 1 h 10 min. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [large, small] = whole < 3600 ? ["min", "s"] : ["h", "min"];
  const parts = whole < 3600 ? whole : Math.floor(whole / 60);
  return parts % 60 ? `${Math.floor(parts / 60)} ${large} ${parts % 60} ${small}` : `${parts / 60} ${large}`;
}

/** Time left, in steps a person would use: nothing finer than it is known. */
export function remaining(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 1.5) return "almost done";
  const step = seconds < 20 ? 1 : seconds < 120 ? 5 : 15;
  const rounded = Math.ceil(seconds / step) * step;
  return `about ${rounded < 60 ? `${rounded} s` : duration(rounded)} left`;
}

/** 84 KB, 6.4 MB, 640 MB, 2.3 GB (powers of ten). */
export function bytes(count) {
  if (!Number.isFinite(count) || count <= 0) return "";
  if (count < 1e6) return `${Math.max(1, Math.round(count / 1e3))} KB`;
  if (count < 1e9) return `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB`;
  return `${(count / 1e9).toFixed(1)} GB`;
}

/** 1024 × 576 */
export function size(width, height) {
  return `${width} × ${height}`;
}

const PHASES = { load: "Loading the model", encode: "Reading the prompt", decode: "Developing", save: "Saving" };

/** What a running job is doing, in one line. */
export function activity(job) {
  if (job.phase === "paint") {
    const step = job.steps ? `, step ${Math.min(job.step + 1, job.steps)} of ${job.steps}` : "";
    return `Painting ${size(job.width, job.height)}${step}`;
  }
  if (job.phase === "enlarge") return `Enlarging to ${size(job.width, job.height)}, tile ${job.step} of ${job.steps}`;
  if (job.phase === "verify") return `Looking for one that shows the prompt, try ${job.step} of ${job.steps}`;
  if (job.phase === "decode" && job.steps > 1) {
    return `${PHASES.decode} ${size(job.request.width, job.request.height)}, tile ${job.step} of ${job.steps}`;
  }
  return PHASES[job.phase] || "Working";
}
