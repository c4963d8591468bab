// The connections: a page of them, filtered and sorted by the proxy, each with its switch.

import { Refusal } from "./api.js";
import { connectionColumns } from "./connection-columns.js";
import { find, make, setText } from "./dom.js";
import { explain } from "./flags.js";
import { count } from "./format.js";
import { Poller } from "./poller.js";
import { Table } from "./table.js";

const INTERVAL = 2000;
const LIMIT = 50;
/** Milliseconds after the last touch in which rows keep their places: nobody's switch may slip away
 * from under a finger. */
const HOLD = 4000;

const form = find("filter");

/** The section. It asks only while it is open, and `allowed`. */
export class Connections {
  #api;
  #details = find("connections");
  #message = find("connections-message");
  #poller = new Poller(INTERVAL, (signal) => this.#load(signal));
  #table;
  #offset = 0;
  #total = 0;
  #heldUntil = 0;
  #isAllowed = false;
  #isLacking = false;
  #busy = new Set();

  constructor(api) {
    this.#api = api;
    const columns = connectionColumns((item, isOn) => this.#change(item, isOn));
    this.#table = new Table("connection-table", columns, (sort) => this.#sortBy(sort));
    form.elements.sort.append(
      ...columns
        .filter((each) => each.sort)
        .map(({ sort, label }) => make("option", { value: sort }, label)),
    );
    form.elements.sort.value = "since";
    this.#details.addEventListener("toggle", () => this.#follow());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.#turnTo(0));
    form.elements.path.addEventListener("input", () => this.#turnTo(0));
    find("previous").addEventListener("click", () => this.#turnTo(this.#offset - LIMIT));
    find("next").addEventListener("click", () => this.#turnTo(this.#offset + LIMIT));
    for (const event of ["pointermove", "pointerdown", "keydown", "focusin"]) {
      this.#table.body.addEventListener(event, () => (this.#heldUntil = performance.now() + HOLD));
    }
  }

  /** Whether requests may be made at all: not while the token is asked for. */
  set allowed(isAllowed) {
    this.#isAllowed = isAllowed;
    this.#follow();
  }

  /** Offer the formats that have been seen. */
  offer(formats) {
    const select = find("formats");
    const known = Array.from(select.options, (option) => option.value);
    select.append(
      ...formats.filter((name) => !known.includes(name)).map((name) => make("option", {}, name)),
    );
  }

  #follow() {
    if (this.#details.open && this.#isAllowed) this.#poller.start();
    else this.#poller.stop();
  }

  #sortBy(sort) {
    const { sort: by, order } = form.elements;
    order.value = by.value === sort && order.value === "desc" ? "asc" : "desc";
    by.value = sort;
    this.#turnTo(0);
  }

  #turnTo(offset) {
    if (offset < 0 || (offset && offset >= this.#total)) return;
    this.#offset = offset;
    this.#heldUntil = 0;
    this.#poller.again();
  }

  async #load(signal) {
    const query = new URLSearchParams({ offset: this.#offset, limit: LIMIT });
    for (const [name, value] of new FormData(form)) if (value.trim()) query.set(name, value.trim());
    const path = query.get("path");
    if (path && !path.includes("*")) query.set("path", `${path}*`); // as far as it is typed
    try {
      this.#show(await this.#api.get(`connections?${query}`, signal));
    } catch (error) {
      if (signal.aborted) return;
      this.#lack(error instanceof Refusal ? error.message : "The proxy does not answer.");
    }
  }

  /** Say why what is shown is not all, or no more; "" where it is. Other messages stay. */
  #lack(text) {
    if (text || this.#isLacking) this.#say(text, true);
    this.#isLacking = text !== "";
  }

  #show({ total, offset, unreachable, connections }) {
    this.#total = total;
    if (!connections.length && offset) this.#turnTo(lastPage(total));
    const now = Date.now() + this.#api.clockOffset;
    const rows = connections.map((each) => ({ ...each, now, isBusy: this.#busy.has(each.id) }));
    this.#table.sorted(form.elements.sort.value, form.elements.order.value);
    if (performance.now() < this.#heldUntil) {
      for (const item of rows) {
        const row = this.#table.row(item.id);
        if (row) this.#table.update(row, item);
      }
    } else {
      this.#table.show(rows, ({ id }) => id);
    }
    const silent = unreachable.join(", ");
    this.#lack(silent && `Not shown are the connections of ${silent}: no answer from there.`);
    this.#tellPage(offset, connections.length);
  }

  #tellPage(offset, shown) {
    setText(
      find("page"),
      shown ? `${count(offset + 1)}–${count(offset + shown)} of ${count(this.#total)}` : "none",
    );
    find("previous").ariaDisabled = String(offset === 0);
    find("next").ariaDisabled = String(offset + shown >= this.#total);
    const isNarrow = ["enabled", "algorithm", "format", "path"].some((name) =>
      form.elements[name].value.trim(),
    );
    find("no-connections").hidden = shown > 0;
    const { opted_in: optedIn } = form.elements;
    let text = "No WebSocket is open at the moment.";
    if (isNarrow) text = "No open connection fits this filter: widen it above.";
    else if (optedIn.value === "true") {
      text =
        "No client that opted in is connected. A client opts in with " +
        "?audio_compression=flac,gzip in its WebSocket's URL; “all” above shows the others.";
    }
    setText(find("no-connections"), text);
  }

  async #change(item, isOn) {
    if (this.#busy.has(item.id)) return;
    this.#busy.add(item.id);
    const what = `${item.path} (${item.id})`;
    try {
      const row = await this.#api.patch(`connections/${encodeURIComponent(item.id)}`, {
        enabled: isOn,
      });
      this.#say(`Compression is ${row.enabled ? "on" : "off"} for ${what}.`);
    } catch (error) {
      this.#say(`Not switched ${isOn ? "on" : "off"}: ${what}. ${explain(error)}`, true);
    } finally {
      this.#busy.delete(item.id);
      if (this.#details.open && this.#isAllowed) this.#poller.again();
    }
  }

  #say(text, isWrong = false) {
    this.#isLacking = false;
    setText(this.#message, text);
    this.#message.classList.toggle("wrong", isWrong);
  }
}

function lastPage(total) {
  return Math.max(0, Math.floor((total - 1) / LIMIT)) * LIMIT;
}
