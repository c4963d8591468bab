// The other flags: typed first, then saved together.

import { Refusal } from "./api.js";
import { find, setAttribute, setText } from "./dom.js";
import {
  differences,
  NAMES,
  parseNames,
  parseNumber,
  parseRules,
  refusals,
  same,
  tellChanges,
  whom,
  written,
} from "./draft.js";
import { Conflict, explain } from "./flags.js";
import { plural } from "./format.js";

const form = find("flags");

/** A text field with a number. */
function number(id) {
  const input = find(id);
  return {
    read: () => parseNumber(input.value),
    write: (value) => (input.value = value),
  };
}

function enable(isOn) {
  for (const control of form.elements) control.disabled = !isOn;
}

function boxes(name) {
  return Array.from(form.querySelectorAll(`input[name=${name}]`));
}

/** How each flag is read from its controls, and written to them. `inForce`: the flag's value. */
const CONTROLS = {
  rollout_percent: number("rollout_percent"),
  min_size: number("min_size"),
  min_gain: number("min_gain"),
  shadow: {
    read: () => find("shadow-flag").checked,
    write: (value) => (find("shadow-flag").checked = value),
  },
  algorithms: {
    read: (inForce) =>
      parseNames(
        boxes("algorithms")
          .filter((box) => box.checked)
          .map((box) => box.value),
        inForce,
      ),
    write: (value) =>
      boxes("algorithms").forEach((box) => (box.checked = value.includes(box.value))),
  },
  level: {
    read: () => Number(boxes("level").find((box) => box.checked)?.value),
    write: (value) => boxes("level").forEach((box) => (box.checked = Number(box.value) === value)),
  },
  paths: {
    read: () => parseRules(find("paths").value),
    write: (value) =>
      (find("paths").value = Object.keys(value).length ? JSON.stringify(value, null, 2) : ""),
  },
};

/** The form. What is typed stays whatever others do, until it is saved or discarded. */
export class FlagsForm {
  #flags;
  #message = find("flags-message");
  #isSaving = false;

  constructor(flags) {
    this.#flags = flags;
    enable(false); // what is typed before they come would be lost
    flags.listen((now, before, isOwn) => this.#follow(now, before, isOwn));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    form.addEventListener("input", (event) => this.#onInput(event.target));
    find("discard").addEventListener("click", () => this.#discard());
  }

  /** What is typed and not in force, by name. */
  get #typed() {
    return differences(this.#read(this.#flags.seen), this.#flags.seen, NAMES);
  }

  #read(inForce) {
    return Object.fromEntries(NAMES.map((name) => [name, CONTROLS[name].read(inForce[name])]));
  }

  #write(names) {
    for (const name of names) CONTROLS[name].write(this.#flags.seen[name]);
    this.#slide();
  }

  #discard() {
    this.#write(NAMES);
    this.#refuse({});
    this.#say("What was typed is discarded.");
    this.#mark();
  }

  #follow(now, before, isOwn) {
    const touched = before
      ? NAMES.filter((name) => !same(CONTROLS[name].read(before[name]), before[name]))
      : [];
    if (!before) enable(true);
    this.#write(NAMES.filter((name) => !touched.includes(name)));
    const by = now.changed_by ? `, changed by ${whom(now.changed_by)}` : "";
    setText(find("flags-revision"), `Revision ${now.revision}${by}.`);
    if (touched.length && !isOwn && !this.#isSaving) {
      this.#say(`${tellChanges(before, now)} What you typed is kept.`, true);
    }
    this.#mark();
  }

  async #save() {
    if (this.#isSaving) return;
    const changes = this.#typed;
    if (!Object.keys(changes).length) {
      this.#say("Nothing is different from what is in force.");
      return;
    }
    this.#isSaving = true;
    this.#say("Saving…");
    this.#refuse({});
    try {
      await this.#flags.change(changes);
      this.#write(Object.keys(changes)); // as the proxy writes them
      this.#say(`Saved, revision ${this.#flags.seen.revision}.`);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#isSaving = false;
      this.#mark();
    }
  }

  #fail(error) {
    if (error instanceof Refusal && error.status === 400) {
      const { "": rest, ...byFlag } = refusals(error.message);
      this.#refuse(byFlag);
      this.#say(`Not saved. ${rest ?? "See beside the flags."}`, true);
      form.querySelector("[aria-invalid=true]")?.focus();
    } else {
      const again =
        error instanceof Conflict ? " What you typed is kept: look at it, and save again." : "";
      this.#say(`Not saved. ${explain(error)}${again}`, true);
    }
  }

  /** Show messages beside the flags that they are about. */
  #refuse(messages) {
    for (const name of NAMES) {
      const flag = form.querySelector(`[data-flag=${name}]`);
      setText(flag.querySelector(".error"), messages[name] ?? "");
      for (const input of flag.querySelectorAll("input, textarea")) {
        if (messages[name]) setAttribute(input, "aria-invalid", true);
        else input.removeAttribute("aria-invalid");
      }
    }
  }

  #onInput(target) {
    if (target.id === "rollout-slider") find("rollout_percent").value = target.value;
    else this.#slide();
    const flag = target.closest("[data-flag]");
    setText(flag.querySelector(".error"), "");
    flag
      .querySelectorAll("[aria-invalid]")
      .forEach((input) => input.removeAttribute("aria-invalid"));
    this.#say("");
    this.#mark();
  }

  #slide() {
    const value = CONTROLS.rollout_percent.read();
    if (typeof value === "number") find("rollout-slider").value = value;
  }

  /** Show which flags are typed and not saved, with what is in force. */
  #mark() {
    const typed = this.#typed;
    for (const name of NAMES) {
      const now = form.querySelector(`[data-flag=${name}] .now`);
      setText(now, name in typed ? `not saved; in force: ${written(this.#flags.seen[name])}` : "");
    }
    const changes = Object.keys(typed).length;
    find("save").classList.toggle("primary", changes > 0);
    setText(find("save"), changes ? `Save ${plural(changes, "change")}` : "Save");
  }

  #say(text, isWrong = false) {
    setText(this.#message, text);
    this.#message.classList.toggle("wrong", isWrong);
  }
}
