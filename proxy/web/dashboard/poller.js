// Work that is done again and again while somebody looks.

const REST = 250; // least milliseconds between two turns, also where the work takes long

/** Calls `work(signal)` every `interval` milliseconds, never twice at once, and not while the page is
 * hidden. `signal` is aborted where a newer turn has been asked for. */
export class Poller {
  #work;
  #interval;
  #isOn = false;
  #turn = null; // AbortController of the turn that runs
  #timer = 0;

  constructor(interval, work) {
    this.#interval = interval;
    this.#work = work;
    document.addEventListener("visibilitychange", () => {
      if (!this.#turn) this.#next(0);
    });
  }

  start() {
    this.#isOn = true;
    this.again();
  }

  stop() {
    this.#isOn = false;
    this.#turn?.abort();
    this.#turn = null;
    clearTimeout(this.#timer);
  }

  /** A turn at once: what is asked for has changed. */
  again() {
    this.#turn?.abort();
    this.#turn = null;
    this.#next(0);
  }

  #next(wait) {
    clearTimeout(this.#timer);
    if (this.#isOn && !document.hidden) this.#timer = setTimeout(() => this.#run(), wait);
  }

  async #run() {
    const turn = (this.#turn = new AbortController());
    const begun = performance.now();
    try {
      await this.#work(turn.signal);
    } finally {
      if (this.#turn === turn) {
        this.#turn = null;
        this.#next(Math.max(REST, this.#interval - (performance.now() - begun)));
      }
    }
  }
}
