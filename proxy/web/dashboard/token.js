// Asks for the token where the proxy wants one.

import { find, setText } from "./dom.js";

/** `api` tries the token; `onGiven` is called when one was taken. */
export class TokenDialog {
  #dialog = find("token-dialog");
  #input = find("token");
  #error = find("token-error");
  #isWanted = false;

  constructor(api, onGiven) {
    // Browsers let nobody keep a dialog open against the Escape key; without a token it is back.
    this.#dialog.addEventListener("close", () => {
      if (this.#isWanted) this.#dialog.showModal();
    });
    find("token-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      setText(this.#error, "");
      try {
        if (!(await api.tryToken(this.#input.value.trim()))) {
          this.#complain("This token is wrong. Try again.");
          return;
        }
      } catch {
        this.#complain("The proxy does not answer. Try again.");
        return;
      }
      this.#input.value = "";
      this.#isWanted = false;
      this.#dialog.close();
      onGiven();
    });
  }

  /** Ask, unless it is being asked for already. */
  ask() {
    this.#isWanted = true;
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  #complain(text) {
    setText(this.#error, text);
    this.#input.select();
    this.#input.focus();
  }
}
