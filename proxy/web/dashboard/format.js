// Figures as people read them. No document, no clock: what is shown depends on what is given only.

const SPACE = "\u00a0"; // keeps a figure and its unit on one line
const MINUS = "\u2212";
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** What stands where there is no figure yet. */
export const NOTHING = "–";

/** A whole number: 12,345. */
export function count(value) {
  return value.toLocaleString("en").replace("-", MINUS);
}

/** A whole number in little room: 12,345, then 123 k, 1.23 M. */
export function shortCount(value) {
  if (value < 100_000) return count(value);
  const [unit, size] = value < 1e6 ? ["k", 1e3] : value < 1e9 ? ["M", 1e6] : ["G", 1e9];
  return `${threeDigits(value / size)}${SPACE}${unit}`;
}

/** Bytes in decimal units, three digits of them: 1.23 MB. */
export function bytes(value) {
  let size = Math.abs(Math.round(value));
  let unit = 0;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  const figure = unit ? threeDigits(size) : String(size);
  return `${value < 0 && size ? MINUS : ""}${figure}${SPACE}${UNITS[unit]}`;
}

/** Bytes per second. */
export function rate(value) {
  return `${bytes(value)}/s`;
}

/** A share of one as 18.2 %. */
export function percent(share) {
  const figure = Math.abs(100 * share).toFixed(1);
  return `${share < 0 && Number(figure) ? MINUS : ""}${figure}${SPACE}%`;
}

/** An amount of money, to the cent. */
export function money(amount, currency) {
  if (amount && Math.abs(amount) < 0.01) return `under 0.01${SPACE}${currency}`;
  const options = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return `${amount.toLocaleString("en", options).replace("-", MINUS)}${SPACE}${currency}`;
}

/** How long something takes that takes moments: 120 µs, 3.40 ms, 1.20 s. */
export function moment(seconds) {
  if (seconds < 0.000_999_5) return `${Math.round(seconds * 1e6)}${SPACE}µs`;
  if (seconds < 0.999_5) return `${threeDigits(seconds * 1e3)}${SPACE}ms`;
  return `${threeDigits(seconds)}${SPACE}s`;
}

/** How long something has lasted: 12 s, 4 min, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}${SPACE}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}${SPACE}min`;
  if (whole < 86_400) return pair(whole, 3600, "h", 60, "min");
  return pair(whole, 86_400, "d", 3600, "h");
}

/** The time of day of a Date, 14:03:09; of another day than `now`, with the date. */
export function clock(date, now) {
  const time = date.toLocaleTimeString("en-GB");
  if (date.toDateString() === now.toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

/** "1 worker", "2 workers". */
export function plural(number, word) {
  return `${count(number)}${SPACE}${word}${number === 1 ? "" : "s"}`;
}

function threeDigits(value) {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

function pair(seconds, size, unit, smaller, smallerUnit) {
  const rest = Math.floor((seconds % size) / smaller);
  const first = `${Math.floor(seconds / size)}${SPACE}${unit}`;
  return rest ? `${first} ${rest}${SPACE}${smallerUnit}` : first;
}
