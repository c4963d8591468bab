// What follows from /stats: savings, rates between two answers, quantiles. No document, no clock.

/** Seconds over which "now" is an average: speech comes in bursts, and workers report in turns. */
export const WINDOW = 5;
/** Seconds that the chart shows. */
export const SPAN = 300;
/** Seconds over which encoding is looked at. */
export const ENCODE_SPAN = 60;
const LATE = 0.5;

/** What was saved of `original` bytes where `wire` were sent; less than nothing is said too. */
export function savings(original, wire) {
  return { bytes: original - wire, share: original ? (original - wire) / original : null };
}

/** Bytes per second between two samples `{at, machines}`; `machines`: of each run, by its name, what
 * `/stats` says of it. Those in both count: totals leap when a machine comes or goes. */
export function rates(before, after) {
  const seconds = after.at - before.at;
  const sums = { original: 0, wire: 0 };
  for (const [run, now] of after.machines) {
    const then = before.machines.get(run);
    // Workers answer in turns, and know of one another as of a moment ago.
    if (!then || now.wire_original_bytes < then.wire_original_bytes) continue;
    sums.original += (now.wire_original_bytes - then.wire_original_bytes) / seconds;
    sums.wire += (now.wire_bytes - then.wire_bytes) / seconds;
  }
  return sums;
}

/** A histogram `{le, counts}` of what came between two others; all of `after` if it began anew. */
export function between(before, after) {
  const counts = after.counts.map((each, i) => each - before.counts[i]);
  return counts.some((each) => each < 0) ? after : { le: after.le, counts };
}

/** How many a histogram has counted. */
export function counted({ counts }) {
  return counts.reduce((sum, each) => sum + each, 0);
}

/** Seconds that a share `q` of what was counted stayed below, as if evenly spread between two
 * bounds; `isBeyond`: it is more than the last bound, which is given. Null if nothing was counted. */
export function quantile(q, { le, counts }) {
  const rank = q * counted({ counts });
  let below = 0;
  for (const [i, each] of counts.entries()) {
    if (each && below + each >= rank) {
      if (i === le.length) return { seconds: le[i - 1], isBeyond: true };
      const from = i ? le[i - 1] : 0;
      return { seconds: from + ((le[i] - from) * (rank - below)) / each, isBeyond: false };
    }
    below += each;
  }
  return null;
}

/** The answers of the last minutes. */
export class History {
  #samples = [];
  #points = [];

  /** Remember an answer of /stats; `at`: seconds of a clock that never goes back. */
  add(at, stats) {
    const machines = new Map(stats.machines.map((machine) => [machine.run, machine]));
    const sample = { at, machines, encode: stats.encode_seconds };
    const base = this.#samples.find(since(at - WINDOW));
    this.#samples.push(sample);
    this.#points.push({ at, rates: base ? rates(base, sample) : null });
    this.#samples = this.#samples.filter(since(at - ENCODE_SPAN));
    this.#points = this.#points.filter(since(at - SPAN));
  }

  /** Bytes per second now, `{original, wire}`, or null. */
  get now() {
    return this.#points.at(-1)?.rates ?? null;
  }

  /** Columns for the chart: seconds before the last answer, bytes per second before and after. */
  get columns() {
    const last = this.#points.at(-1)?.at ?? 0;
    return [
      this.#points.map(({ at }) => at - last),
      this.#points.map((point) => point.rates?.original ?? null),
      this.#points.map((point) => point.rates?.wire ?? null),
    ];
  }

  /** The histogram of encoding in the last minute, or since the page opened, or since machines came
   * or went, if that is less. */
  get encode() {
    const last = this.#samples.at(-1);
    const runs = String([...last.machines.keys()].sort());
    const base = this.#samples.find(({ machines }) => String([...machines.keys()].sort()) === runs);
    return between(base.encode, last.encode);
  }
}

/** Whether a sample is no older than `at`, give or take how late an answer may come. After a rest
 * (the page was hidden) there is none: an average over the rest would pass for "now". */
function since(at) {
  return (sample) => sample.at >= at - LATE;
}

/** What became of chunks, in the order in which it is shown. */
export const OUTCOMES = [
  "compressed",
  "shadow",
  "no_gain",
  "too_small",
  "resting",
  "disabled",
  "other",
  "error",
];

/** Chunks by outcome, all algorithms together, from `chunks` of /stats: `[{outcome, count, share}]`. */
export function outcomes(chunks) {
  const sums = new Map(OUTCOMES.map((outcome) => [outcome, 0]));
  for (const counts of Object.values(chunks)) {
    for (const [outcome, each] of Object.entries(counts)) {
      sums.set(outcome, (sums.get(outcome) ?? 0) + each);
    }
  }
  const all = [...sums.values()].reduce((sum, each) => sum + each, 0);
  return [...sums].map(([outcome, each]) => ({
    outcome,
    count: each,
    share: all ? each / all : 0,
  }));
}
