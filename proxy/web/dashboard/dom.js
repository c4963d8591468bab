// Small verbs on the document.

export const find = (id) => document.getElementById(id);

/** Text, written only where it is another: what is selected or read aloud stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A figure: what people read, and the exact value in `value`; hovering shows it, if it is whole. */
export function setFigure(element, text, value = "") {
  setText(element, text);
  setAttribute(element, "value", value);
  setAttribute(element, "title", Number.isInteger(value) ? value.toLocaleString("en") : "");
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** An element with properties and children: `make("td", {className: "n"}, "text", other)`. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { dataset = {}, role, ...rest } = properties;
  Object.assign(element, rest);
  Object.assign(element.dataset, dataset);
  if (role) element.setAttribute("role", role);
  element.append(...children);
  return element;
}

/** Children of `parent` for `items`, one for each key, kept from one time to the next.
 *
 * `create(item)` makes an element, `update(element, item)` shows the item in it. Elements move only
 * where they must, and the focus comes back to one that had it. */
export function keyed(parent, items, key, create, update) {
  const old = new Map(Array.from(parent.children, (child) => [child.dataset.key, child]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const ids = items.map((item) => String(key(item)));
  const kept = new Set(ids);
  for (const [id, element] of old) if (!kept.has(id)) element.remove();
  items.forEach((item, i) => {
    let element = old.get(ids[i]);
    if (!element) {
      element = create(item);
      element.dataset.key = ids[i];
    }
    if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null);
    update(element, item);
  });
  if (focused?.isConnected && document.activeElement !== focused) {
    focused.focus({ preventScroll: true });
  }
}
