// The switch that turns compression off and on everywhere, at once.

import { find, setText } from "./dom.js";
import { Conflict, explain } from "./flags.js";

/** What the flags mean for clients, where it is not that all that asked are served. */
function mode({ enabled, shadow, rollout_percent: share }) {
  if (!enabled) return "Compression is off: every client gets what the backend sends.";
  if (shadow) return "Shadow mode is on: chunks are compressed and counted, but sent as they came.";
  return share < 100 ? `${share} % of the clients that asked are in the roll-out.` : "";
}

/** The flag `enabled`. */
export class MainSwitch {
  #input = find("enabled");
  #flags;
  #isBusy = false;

  constructor(flags) {
    this.#flags = flags;
    flags.listen(() => this.#show());
    this.#input.addEventListener("change", () => this.#change());
  }

  async #change() {
    if (this.#isBusy) {
      this.#show();
      return;
    }
    this.#isBusy = true;
    setText(find("switch-message"), "");
    const enabled = this.#input.checked;
    try {
      await this.#flags.change({ enabled });
    } catch (error) {
      const again = error instanceof Conflict ? " Use the switch again if you still want to." : "";
      const what = `Compression was not switched ${enabled ? "on" : "off"}.`;
      setText(find("switch-message"), `${what} ${explain(error)}${again}`);
    } finally {
      this.#isBusy = false;
      this.#show();
    }
  }

  #show() {
    if (this.#isBusy) return;
    const { enabled } = this.#flags.seen;
    setText(find("mode"), mode(this.#flags.seen));
    this.#input.disabled = false;
    this.#input.checked = enabled;
    setText(find("enabled-text"), enabled ? "on" : "off");
  }
}
