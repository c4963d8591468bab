// The figures at the top, chunks by outcome, connections by algorithm.

import { find, keyed, make, setAttribute, setFigure, setText } from "./dom.js";
import {
  bytes,
  count,
  duration,
  moment,
  money,
  NOTHING,
  percent,
  rate,
  shortCount,
} from "./format.js";
import { counted, outcomes, quantile, savings } from "./measure.js";

const GB = 1e9;
const HOUR = 3600;

const OUTCOMES = {
  compressed: "Sent compressed",
  shadow: "Shadow: sent as it came",
  no_gain: "No gain",
  too_small: "Too small",
  resting: "Not tried: no gain lately",
  disabled: "Switched off",
  other: "No algorithm for it",
  error: "Error",
};

/** Rows that will have figures: nothing moves when they come. */
export function showEmpty() {
  showOutcomes({});
  showOpen({});
}

/** Shows an answer of /stats and what the History knows of it. */
export function showOverview(stats, history) {
  showNow(stats, history.now);
  showTotal(stats);
  showShadow(stats);
  showClients(stats);
  showEncoding(stats, history.encode);
  showOutcomes(stats.chunks);
  showOpen(stats.open);
  showEncoded(stats.by_algorithm);
  find("no-traffic").hidden = stats.wire_original_bytes > 0 || optedIn(stats) > 0;
  const version = `audio-proxy ${stats.version}`;
  setText(find("about"), `${version}, up for ${duration(stats.uptime_seconds)}.`);
}

function optedIn({ open }) {
  return Object.entries(open).reduce((sum, [name, each]) => sum + (name === "none" ? 0 : each), 0);
}

function showSavings(name, original, wire, write) {
  const saved = savings(original, wire);
  setFigure(find(`${name}-saved`), write(saved.bytes), Math.round(saved.bytes));
  setFigure(
    find(`${name}-share`),
    saved.share === null ? NOTHING : percent(saved.share),
    saved.share ?? "",
  );
  setFigure(find(`${name}-original`), write(original), Math.round(original));
  return saved.bytes;
}

/** Nothing is known of now. */
export function showSilence() {
  for (const part of ["saved", "share", "original"]) setFigure(find(`now-${part}`), NOTHING);
  setText(find("now-money"), "\u00a0");
}

function showNow(stats, now) {
  if (!now) {
    showSilence();
    return;
  }
  const saved = showSavings("now", now.original, now.wire, rate);
  showMoney(find("now-money"), stats, saved * HOUR, " an hour");
}

function showTotal(stats) {
  const saved = showSavings("total", stats.wire_original_bytes, stats.wire_bytes, bytes);
  showMoney(find("total-money"), stats, saved, "");
}

function showMoney(element, { price_per_gb: price, currency }, size, per) {
  // What takes a line with a price takes one without: tiles stand side by side.
  setText(element, price === null ? "\u00a0" : `${money((size / GB) * price, currency)}${per}`);
}

function showShadow({ shadow_saved_bytes: size, wire_bytes: wire }) {
  find("shadow").hidden = !size;
  const share = wire ? ` (${percent(size / wire)})` : "";
  const text = `Shadow mode would have saved ${bytes(size)} more of the ${bytes(wire)} sent${share}.`;
  setText(find("shadow"), text);
}

function showClients(stats) {
  setFigure(find("opted-in"), count(optedIn(stats)), optedIn(stats));
  const open = optedIn(stats) + stats.open.none;
  for (const id of ["open", "connections-open"]) setFigure(find(id), count(open), open);
  setFigure(find("backlog"), bytes(stats.backlog_bytes), stats.backlog_bytes);
}

function showEncoding(stats, lately) {
  const isLate = counted(lately) > 0;
  const histogram = isLate ? lately : stats.encode_seconds;
  for (const [id, q] of [
    ["encode-median", 0.5],
    ["encode-p99", 0.99],
  ]) {
    const value = quantile(q, histogram);
    const sign = value?.isBeyond ? "over " : "";
    setFigure(find(id), value ? `${sign}${moment(value.seconds)}` : NOTHING, value?.seconds ?? "");
  }
  const span = isLate ? "in the last minute" : "since the start, none lately";
  setText(find("encode-span"), counted(histogram) ? span : "no chunk encoded yet");
}

function showOutcomes(chunks) {
  const rows = outcomes(chunks).map((each) => ({
    ...each,
    key: each.outcome,
    label: OUTCOMES[each.outcome] ?? each.outcome,
  }));
  showBars(find("outcomes"), rows);
}

function showOpen(open) {
  const all = Object.values(open).reduce((sum, each) => sum + each, 0);
  const counts = { gzip: 0, flac: 0, opus: 0, none: 0, ...open }; // named where one is open
  const rows = ["gzip", "flac", "opus", "none"].map((name) => ({
    key: name,
    label: name,
    count: counts[name],
  }));
  rows.at(-1).label = "not opted in";
  showBars(
    find("open-by-algorithm"),
    rows.map((row) => ({ ...row, share: all ? row.count / all : 0 })),
  );
}

/** Rows `{key, label, share, count}`: a share is a bar, and a number for those who see none. */
function showBars(body, rows) {
  keyed(
    body,
    rows,
    ({ key }) => key,
    ({ key, label }) =>
      make(
        "tr",
        { dataset: { row: key } },
        make("th", { scope: "row" }, label),
        make(
          "td",
          { className: "share" },
          make("div", { className: "bar", ariaHidden: "true" }, make("i")),
          make("span"),
        ),
        make("td", { className: "number" }, make("data")),
      ),
    (row, { share, count: value }) => {
      row.querySelector("i").style.width = `${100 * share}%`;
      setText(row.querySelector("span"), percent(share));
      setFigure(row.querySelector("data"), shortCount(value), value);
      setAttribute(row, "data-some", value > 0);
    },
  );
}

function showEncoded(byAlgorithm) {
  const rows = Object.entries(byAlgorithm);
  keyed(
    find("encoded-by-algorithm"),
    rows.length ? rows : [["none yet", null]],
    ([name]) => name,
    ([name]) =>
      make(
        "tr",
        { dataset: { row: name } },
        make("th", { scope: "row" }, name),
        make("td", { className: "number" }, make("data")),
        make("td", { className: "number" }, make("data")),
      ),
    (row, [, each]) => {
      const [chunks, gain] = row.querySelectorAll("data");
      if (!each?.total_compressed) {
        setFigure(chunks, each ? "0" : NOTHING);
        setFigure(gain, NOTHING);
        return;
      }
      setFigure(chunks, shortCount(each.total_compressed), each.total_compressed);
      setFigure(gain, percent(1 - each.average_ratio), 1 - each.average_ratio);
    },
  );
}
