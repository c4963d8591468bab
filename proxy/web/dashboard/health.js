// What is wrong, from /stats. No document, no clock.

import { duration, plural } from "./format.js";

/** Seconds without a word from a machine, after which it is worth a look. */
const SILENT = 5;

/** How a machine is: `{level: "good" | "note" | "bad", text}`. `revision`: of the flags, the newest. */
export function machineHealth(machine, revision) {
  if (machine.age_seconds > SILENT) {
    return { level: "bad", text: `not heard of for ${duration(machine.age_seconds)}` };
  }
  if (machine.store !== "connected") return { level: "bad", text: `store ${machine.store}` };
  if (machine.draining) return { level: "note", text: "draining" };
  if (machine.flags_revision < revision) {
    return { level: "note", text: `flags still at revision ${machine.flags_revision}` };
  }
  return { level: "good", text: "well" };
}

/** The newest revision of the flags that any machine has. */
export function newestRevision(stats) {
  return Math.max(stats.flags_revision, ...stats.machines.map((each) => each.flags_revision));
}

/** What is wrong now, as `[{id, title, text}]`, the worst first. */
export function problems(stats) {
  const found = [];
  if (stats.store.state !== "connected") {
    const figures = stats.store.kind === "redis" ? " Figures are of this machine only." : "";
    const kept = "The last good flags stay in force, and cannot be changed until it is back.";
    found.push({
      id: "store",
      title: `The flag store is away: ${stats.store.kind}, ${stats.store.state}`,
      text: `${kept}${figures} ${stats.store.error ?? ""}`,
    });
  } else if (stats.flags_error) {
    found.push({
      id: "flags",
      title: "What is stored as flags is not in force",
      text: `${stats.flags_error}. The last good flags stay in force.`,
    });
  }
  for (const machine of stats.machines) {
    const { level, text } = machineHealth(machine, newestRevision(stats));
    if (level === "bad" && !(machine.is_self && stats.store.state !== "connected")) {
      found.push({ id: machine.run, title: `${machine.machine}: ${text}`, text: "" });
    }
  }
  return found;
}

/** Notices when a counter of any machine rises. Machines are looked at one by one, because a sum
 * falls when one of them leaves; a new one counts from what it comes with. */
export class Rises {
  #key;
  #seen = new Map();
  /** By how much it has risen since the first look, or since `forget`. */
  risen = 0;

  /** `key`: of the counter in `machines` of /stats. */
  constructor(key) {
    this.#key = key;
  }

  /** Look at an answer; whether it has risen since the last. */
  look(machines) {
    const before = this.risen;
    for (const machine of machines) {
      const value = machine[this.#key];
      const seen = this.#seen.get(machine.run) ?? value;
      this.risen += Math.max(0, value - seen);
      this.#seen.set(machine.run, Math.max(value, seen)); // workers answer in turns, some a moment behind
    }
    return this.risen > before;
  }

  /** What has risen until now is known. */
  forget() {
    this.risen = 0;
  }
}

/** What is said of counters that have risen; `last`: when they last did, as text. */
export function riseProblems({ restarts, errors }, stats) {
  const found = [];
  if (restarts.risen) {
    const were = restarts.risen === 1 ? "was" : "were";
    const why = "The WebSockets of a worker that dies are cut; the log says why it did.";
    found.push({
      id: "restarts",
      title: `${plural(restarts.risen, "worker")} died and ${were} replaced, last at ${restarts.last}`,
      text: `${plural(stats.worker_restarts, "restart")} since the start. ${why}`,
      isDismissible: true,
    });
  }
  if (errors.risen) {
    const effect = "These chunks were sent as they came, or by another algorithm";
    found.push({
      id: "errors",
      title: `Encoding failed ${plural(errors.risen, "time")}, last at ${errors.last}`,
      text: `${plural(stats.errors, "failure")} since the start. ${effect}; the log says why.`,
      isDismissible: true,
    });
  }
  return found;
}

/** One line for when nothing is wrong. */
export function allWell(stats) {
  const machines = plural(stats.machines.length, "machine");
  const workers = plural(stats.workers.length, "worker");
  const flags = `flags from ${stats.store.kind}, revision ${stats.flags_revision}`;
  return `All is well: ${machines}, ${workers}, ${flags}.`;
}
