// The flags in force, as this page has seen them, and changes to them.

import { Refusal } from "./api.js";
import { tellChanges } from "./draft.js";

const SETTLING = 2000; // milliseconds in which another worker may still tell of an older revision
const PAUSE = 200;

/** Somebody else was faster; the message says who, and what is different now. */
export class Conflict extends Error {}

/** Loads and changes the flags; `listen` to hear of others. */
export class Flags {
  /** As the proxy gave them last; null before. */
  seen = null;
  #api;
  #listeners = [];
  #changedAt = -Infinity;

  constructor(api) {
    this.#api = api;
  }

  /** Have `listener(flags, before, isOwn)` called when they have changed; `before` is null the first
   * time, `isOwn`: this page has changed them. */
  listen(listener) {
    this.#listeners.push(listener);
  }

  /** Look what is in force. */
  async load(signal) {
    const asked = performance.now();
    const flags = await this.#api.get("flags", signal);
    const isSettling = asked - this.#changedAt < SETTLING;
    if (!(isSettling && flags.revision < this.seen.revision)) this.#take(flags);
  }

  /** Change some, unless somebody else has changed any since they were seen. Raises Conflict (they
   * are loaded anew then), Refusal, or what `fetch` does. */
  async change(changes) {
    const before = this.seen;
    try {
      const flags = await this.#api.patch("flags", { ...changes, revision: before.revision });
      this.#changedAt = performance.now();
      this.#take(flags, true);
    } catch (error) {
      if (!(error instanceof Refusal && error.status === 409)) throw error;
      await this.#loadNewer(before.revision);
      throw new Conflict(tellChanges(before, this.seen));
    }
  }

  /** The worker that is asked next may hear of a change a moment later. */
  async #loadNewer(revision) {
    for (let pauses = SETTLING / PAUSE; pauses; pauses -= 1) {
      await this.load();
      if (this.seen.revision !== revision) return;
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  #take(flags, isOwn = false) {
    const before = this.seen;
    this.seen = flags;
    if (JSON.stringify(before) === JSON.stringify(flags)) return;
    for (const listener of this.#listeners) listener(flags, before, isOwn);
  }
}

/** Why a change was not made, for whoever wanted it. */
export function explain(error) {
  if (error instanceof Conflict || error instanceof Refusal) return error.message;
  return "The proxy does not answer: whether it has changed is not known.";
}
