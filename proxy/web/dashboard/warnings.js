// What is wrong, at the top of the page and in its bar.

import { find, keyed, make, setText } from "./dom.js";

/** Shows problems `{id, title, text, isDismissible}`. New ones are read aloud once, by their title:
 * figures in them may change every second. */
export class Warnings {
  #state = find("state");
  #shown = new Set();
  #onDismiss;

  constructor(onDismiss) {
    this.#onDismiss = onDismiss;
  }

  /** `well`: what to say where there is no problem. */
  show(problems, well) {
    const title = problems.length === 1 ? "1 warning" : `${problems.length} warnings`;
    this.#state.dataset.level = problems.length ? "bad" : "good";
    setText(find("state-text"), problems.length ? title : "All well");
    setText(find("all-well"), problems.length ? "" : well);
    keyed(
      find("problems"),
      problems,
      ({ id }) => id,
      (problem) => this.#create(problem),
      (item, problem) => {
        setText(item.querySelector("b"), problem.title);
        setText(item.querySelector("p"), problem.text);
      },
    );
    const fresh = problems.filter(({ id }) => !this.#shown.has(id));
    if (fresh.length) setText(find("announcement"), fresh.map((each) => each.title).join(". "));
    this.#shown = new Set(problems.map(({ id }) => id));
  }

  #create({ id, isDismissible }) {
    const item = make(
      "li",
      {},
      make("span", { className: "sign", ariaHidden: "true" }),
      make("div", {}, make("b"), make("p")),
    );
    if (isDismissible) {
      const button = make("button", { type: "button" }, "Dismiss");
      button.addEventListener("click", () => {
        find("warnings").focus({ preventScroll: true }); // the button goes
        this.#onDismiss(id);
      });
      item.append(button);
    }
    return item;
  }
}
