// Machines and their workers, with their health.

import { make, setAttribute, setFigure, setText } from "./dom.js";
import { bytes, count, duration, NOTHING, percent } from "./format.js";
import { machineHealth, newestRevision } from "./health.js";
import { savings } from "./measure.js";
import { Table } from "./table.js";

function figure(id, label, read, write = count) {
  return {
    id,
    label,
    isNumber: true,
    create: (cell) => cell.append(make("data")),
    fill: (cell, item) => {
      const value = read(item);
      if (value === null) setFigure(cell.firstChild, NOTHING);
      else setFigure(cell.firstChild, write(value, item), value);
    },
  };
}

const COLUMNS = [
  {
    id: "name",
    label: "Machine, worker",
    create: (cell) => cell.append(make("span"), make("small")),
    fill: (cell, { isMachine, name, about }) => {
      setAttribute(cell.parentNode, "class", isMachine ? "machine" : "worker");
      setText(cell.firstChild, name);
      setText(cell.lastChild, about);
    },
  },
  {
    id: "health",
    label: "Health",
    create: (cell) =>
      cell.append(make("span", { className: "sign", ariaHidden: "true" }), make("span")),
    fill: (cell, { health }) => {
      setAttribute(cell, "data-level", health.level);
      setText(cell.lastChild, health.text);
    },
  },
  figure("tunnels", "Open", ({ tunnels }) => tunnels),
  figure(
    "saved",
    "Saved",
    ({ saved }) => saved.bytes,
    (size, { saved }) =>
      saved.share === null ? bytes(size) : `${bytes(size)}, ${percent(saved.share)}`,
  ),
  figure("backlog", "Waiting", ({ backlog_bytes: size }) => size, bytes),
  figure("errors", "Errors", ({ errors }) => errors),
  figure("restarts", "Restarts", ({ worker_restarts: restarts }) => restarts ?? null),
  figure("uptime", "Up for", ({ uptime_seconds: seconds }) => seconds, duration),
];

const LEVELS = ["bad", "note", "good"];

/** The table. */
export class Machines {
  #table = new Table("machines", COLUMNS);

  /** Show `machines` and `workers` of /stats, each machine's workers below it; those that are not
   * well come first. */
  show(stats) {
    const rows = [];
    const revision = newestRevision(stats);
    const rank = (machine) => LEVELS.indexOf(machineHealth(machine, revision).level);
    for (const [machine, workers] of grouped(stats).sort(
      ([one], [other]) => rank(one) - rank(other),
    )) {
      rows.push(
        machineRow(machine, revision),
        ...workers.map((worker) => workerRow(worker, machine)),
      );
    }
    this.#table.show(rows, ({ key }) => key);
  }
}

/** Each machine with its workers. They come in the same order; names of machines may be alike, where
 * one was restarted or has several proxies. */
function grouped({ machines, workers }) {
  let first = 0;
  return machines.map((machine) => [machine, workers.slice(first, (first += machine.workers))]);
}

function machineRow(machine, revision) {
  const self = machine.is_self ? "this one, " : "";
  return {
    ...machine,
    key: machine.run,
    isMachine: true,
    name: machine.machine,
    about: `${self}${machine.version}`,
    health: machineHealth(machine, revision),
    saved: savings(machine.wire_original_bytes, machine.wire_bytes),
  };
}

function workerRow(worker, { run }) {
  return {
    ...worker,
    key: `${run} ${worker.pid}`,
    isMachine: false,
    name: `worker ${worker.number}`,
    about: `process ${worker.pid}`,
    saved: savings(worker.wire_original_bytes, worker.wire_bytes),
    health: worker.draining ? { level: "note", text: "draining" } : { level: "good", text: "well" },
  };
}
