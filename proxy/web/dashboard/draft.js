// The flags as somebody has typed them, beside those in force. No document.

/** The flags of the form; `enabled` has a switch of its own. */
export const NAMES = [
  "rollout_percent",
  "shadow",
  "algorithms",
  "level",
  "min_size",
  "min_gain",
  "paths",
];

/** A number where it is one; else the text, about which the proxy has something to say. */
export function parseNumber(text) {
  const trimmed = text.trim();
  return trimmed && Number.isFinite(Number(trimmed)) ? Number(trimmed) : trimmed;
}

/** A record where it is JSON; else the text. Nothing means no rules. */
export function parseRules(text) {
  try {
    return JSON.parse(text.trim() || "{}");
  } catch {
    return text;
  }
}

/** Names that are ticked, in the order that they have in force, new ones behind. */
export function parseNames(ticked, inForce) {
  return [
    ...inForce.filter((name) => ticked.includes(name)),
    ...ticked.filter((name) => !inForce.includes(name)),
  ];
}

/** A flag's value as text. */
export function written(value) {
  if (Array.isArray(value)) return value.join(", ") || "none";
  if (typeof value === "boolean") return value ? "on" : "off";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Whether two values are the same; the order of rules and names counts. */
export function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** What differs of `flags` from `others`: the values of `flags`, by name. */
export function differences(flags, others, names = ["enabled", ...NAMES]) {
  return Object.fromEntries(
    names.filter((name) => !same(flags[name], others[name])).map((name) => [name, flags[name]]),
  );
}

/** By whom a revision was made, in words. */
export function whom(by) {
  if (!by) return "somebody";
  return by === "dashboard" ? "a dashboard" : `the ${by}`;
}

/** What somebody else has done between two revisions. */
export function tellChanges(before, after) {
  const changes = Object.entries(differences(after, before)).map(
    ([name, value]) => `${name} is ${written(value)} now, it was ${written(before[name])}`,
  );
  const by = whom(after.changed_by);
  const who = by[0].toUpperCase() + by.slice(1);
  const what = changes.join("; ") || "nothing is different now";
  return `${who} was faster, revision ${after.revision}: ${what}.`;
}

/** The parts of a message that names flags, `{flag: message}`; what names none is under "". */
export function refusals(message) {
  const known = `(?:${["enabled", ...NAMES].join("|")})[.:]`;
  const found = {};
  for (const part of message.split(new RegExp(`; (?=${known})`))) {
    const name = new RegExp(`^${known}`).test(part) ? part.match(/^\w+/)[0] : "";
    found[name] = found[name] ? `${found[name]}; ${part}` : part;
  }
  return found;
}
