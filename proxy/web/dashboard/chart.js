// Traffic before and after, the last minutes of it.

import uPlot from "./uplot/uPlot.esm.js";
import { find, setAttribute, setFigure, setText } from "./dom.js";
import { duration, NOTHING, rate } from "./format.js";
import { SPAN } from "./measure.js";

const LEAST = 1000; // bytes per second that the scale shows at least

/** The top of a scale: the next of 1, 2, 5, 10, 20 …, so that it seldom moves. */
export function top(highest) {
  const value = Math.max(highest, LEAST);
  const decade = 10 ** Math.floor(Math.log10(value));
  return decade * [1, 2, 5, 10].find((step) => step * decade >= value);
}

/** Seconds that the scale of time spans, when there are answers of so many: it grows by minutes. */
export function span(seconds) {
  return Math.min(SPAN, Math.max(60, 60 * Math.ceil(seconds / 60)));
}

/** Where the scale of time is marked: every minute, the first one every 15 s. */
export function ticks(seconds) {
  const step = seconds > 60 ? 60 : 15;
  return Array.from({ length: seconds / step + 1 }, (_, i) => i * step - seconds);
}

/** Draws `History.columns`. Under the pointer, the legend tells of that time. */
export class TrafficChart {
  #host = find("chart");
  #plot = null;
  #columns = [[], [], []];

  constructor() {
    new ResizeObserver(() => {
      if (this.#host.clientWidth) this.#plot?.setSize(this.#size());
    }).observe(this.#host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#build());
    this.#build();
  }

  show(columns) {
    this.#columns = columns;
    this.#plot.setData(columns);
    this.#legend();
    const [, before, after] = columns;
    const [was, is] = [before.at(-1), after.at(-1)].map((each) =>
      each === null ? NOTHING : rate(each),
    );
    setAttribute(
      this.#host,
      "aria-label",
      `Traffic to clients that opted in, the last ${SPAN / 60} minutes. Now ${was} before, ${is} after.`,
    );
  }

  #size() {
    return { width: this.#host.clientWidth, height: this.#host.clientHeight };
  }

  #build() {
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--quiet"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    this.#plot = new uPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false } },
        padding: [8, 14, 0, 0],
        scales: {
          x: { time: false, range: (plot, first) => [-span(-(first ?? 0)), 0] },
          y: { range: (plot, lowest, highest) => [0, top(highest ?? 0)] },
        },
        axes: [
          {
            ...axis,
            splits: (plot, axis, first) => ticks(-first),
            values: (plot, splits) => splits.map((at) => (at ? `\u2212${duration(-at)}` : "now")),
            size: 28,
          },
          { ...axis, values: (plot, splits) => splits.map(short), size: 74 },
        ],
        series: [
          {},
          { stroke: color("--before"), width: 2, dash: [7, 4], points: { show: false } },
          { stroke: color("--accent"), width: 2.5, fill: color("--fill"), points: { show: false } },
        ],
        hooks: { setCursor: [() => this.#legend()] },
      },
      this.#columns,
      this.#host,
    );
  }

  #legend() {
    const [ages, before, after] = this.#columns;
    const under = this.#plot?.cursor.idx ?? null;
    const at = under === null ? ages.length - 1 : under;
    for (const [name, values] of [
      ["before", before],
      ["after", after],
    ]) {
      const value = values[at] ?? null;
      if (value === null) setFigure(find(`chart-${name}`), NOTHING);
      else setFigure(find(`chart-${name}`), rate(value), Math.round(value));
    }
    setText(find("chart-when"), under === null ? "now" : `${duration(-ages[at])} ago`);
  }
}

/** A rate on the scale, without digits that say nothing: 500 kB/s. */
function short(value) {
  return rate(value)
    .replace(/\.0+(?=\D)/, "")
    .replace(/(\.\d)0(?=\D)/, "$1");
}
