// Tables that are lists of cards where there is little room: roles are said, since CSS takes them.

import { find, keyed, make, setAttribute } from "./dom.js";

/** A table of `columns` `{id, label, isNumber, fill(cell, item), create(cell, item)}`; the first one
 * names the row. `sort` of a column: what it sorts by, its header is a button then. */
export class Table {
  #columns;
  #body;
  #headers = new Map();

  constructor(id, columns, onSort) {
    const table = find(id);
    this.#columns = columns;
    this.#body = table.tBodies[0];
    const row = make("tr", { role: "row" });
    for (const { label, isNumber, sort } of columns) {
      const cell = make("th", {
        scope: "col",
        role: "columnheader",
        className: isNumber ? "number" : "",
      });
      if (sort) {
        const button = make("button", { type: "button" }, label);
        button.addEventListener("click", () => onSort(sort));
        cell.append(button);
        this.#headers.set(sort, cell);
      } else {
        cell.append(label);
      }
      row.append(cell);
    }
    table.tHead.append(row);
  }

  get body() {
    return this.#body;
  }

  /** Say by what the rows are sorted; `order`: "asc" or "desc". */
  sorted(by, order) {
    for (const [sort, cell] of this.#headers) {
      if (sort === by)
        setAttribute(cell, "aria-sort", order === "asc" ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
  }

  /** Show items, a row for each key. */
  show(items, key) {
    keyed(
      this.#body,
      items,
      key,
      (item) => this.#create(item),
      (row, item) => this.update(row, item),
    );
  }

  /** Show an item in a row. */
  update(row, item) {
    this.#columns.forEach(({ fill }, i) => fill(row.cells[i], item));
  }

  /** The row of a key, if it is shown. */
  row(key) {
    return Array.from(this.#body.rows).find((row) => row.dataset.key === String(key));
  }

  #create(item) {
    const row = make("tr", { role: "row" });
    this.#columns.forEach(({ id, label, isNumber, create }, i) => {
      const cell = i
        ? make("td", { role: "cell", dataset: { label } })
        : make("th", { scope: "row", role: "rowheader" });
      cell.classList.add(id);
      if (isNumber) cell.classList.add("number");
      create?.(cell, item);
      row.append(cell);
    });
    return row;
  }
}
