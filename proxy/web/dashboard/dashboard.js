// The operator's page: what the proxy saves, what is wrong, and the switches.

import { Api, Refusal } from "./api.js";
import { TrafficChart } from "./chart.js";
import { Connections } from "./connections.js";
import { Flags } from "./flags.js";
import { FlagsForm } from "./flags-form.js";
import { clock } from "./format.js";
import { allWell, problems, riseProblems, Rises } from "./health.js";
import { Machines } from "./machines.js";
import { MainSwitch } from "./main-switch.js";
import { History } from "./measure.js";
import { showEmpty, showOverview, showSilence } from "./overview.js";
import { Poller } from "./poller.js";
import { TokenDialog } from "./token.js";
import { Warnings } from "./warnings.js";

const INTERVAL = 1000;
const LOOK_AT_FLAGS = 5000; // milliseconds; a file changed by hand has no new revision
const PATIENCE = 2; // unanswered requests in a row before it is said: a worker may be restarting

const api = new Api(() => {
  pause();
  dialog.ask();
});
const dialog = new TokenDialog(api, resume);
const flags = new Flags(api);
const history = new History();
const chart = new TrafficChart();
const machines = new Machines();
const connections = new Connections(api);
const rises = { restarts: new Rises("worker_restarts"), errors: new Rises("errors") };
const warnings = new Warnings((id) => {
  rises[id].forget();
  warn();
});
const poller = new Poller(INTERVAL, look);
let stats = null;
let answeredAt = new Date();
let flagsAt = -Infinity;
let failures = 0;
let silence = null; // what to say about a proxy that does not answer

showEmpty();
new MainSwitch(flags);
new FlagsForm(flags);
resume();

function resume() {
  poller.start();
  connections.allowed = true;
}

function pause() {
  poller.stop();
  connections.allowed = false;
}

async function look(signal) {
  try {
    stats = await api.get("stats", signal);
    answer();
    const isDue = performance.now() - flagsAt > LOOK_AT_FLAGS;
    if (isDue || stats.flags_revision !== flags.seen?.revision) {
      await flags.load(signal);
      flagsAt = performance.now();
    }
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

function answer() {
  const now = new Date();
  answeredAt = now;
  failures = 0;
  silence = null;
  for (const rise of Object.values(rises))
    if (rise.look(stats.machines)) rise.last = clock(now, now);
  history.add(performance.now() / 1000, stats);
  showOverview(stats, history);
  chart.show(history.columns);
  machines.show(stats);
  connections.offer(Object.keys(stats.by_format));
  warn();
}

function fail(error) {
  failures += 1;
  if (failures < PATIENCE && error.name !== "TimeoutError") return;
  silence ??= { id: "silence", ...tellSilence(error, clock(answeredAt, new Date())) };
  showSilence();
  warn();
}

function tellSilence(error, since) {
  if (error instanceof Refusal) {
    return {
      title: `The proxy refuses to answer: ${error.message}`,
      text: `What is shown is of ${since}.`,
    };
  }
  return {
    title: `The proxy has not answered since ${since}`,
    text:
      "What is shown is from then. It is asked again every second. " +
      "Is it running, and can this browser reach it?",
  };
}

function warn() {
  const known = stats ? [...problems(stats), ...riseProblems(rises, stats)] : [];
  warnings.show(silence ? [silence, ...known] : known, stats ? allWell(stats) : "");
}
