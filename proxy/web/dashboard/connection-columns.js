// What is shown of a connection.

import { make, setAttribute, setFigure, setText } from "./dom.js";
import { bytes, clock, count, duration, NOTHING, percent } from "./format.js";
import { savings } from "./measure.js";

function text(id, label, read) {
  return { id, label, sort: id, fill: (cell, item) => setText(cell, read(item) ?? NOTHING) };
}

function figure(id, label, read, write) {
  return {
    id,
    label,
    sort: id,
    isNumber: true,
    create: (cell) => cell.append(make("data")),
    fill: (cell, item) => {
      const value = read(item);
      if (value === null) setFigure(cell.firstChild, NOTHING);
      else setFigure(cell.firstChild, write(value, item), value);
    },
  };
}

/** The columns; `onSwitch(item, isOn)` is called when somebody uses a connection's switch. */
export function connectionColumns(onSwitch) {
  return [
    {
      id: "path",
      label: "Path",
      sort: "path",
      create: (cell) => cell.append(make("span"), make("small")),
      fill: (cell, { path, machine, worker, id }) => {
        setText(cell.firstChild, path);
        setText(cell.lastChild, `${machine}, process ${worker}`);
        setAttribute(cell, "title", id);
      },
    },
    switchColumn(onSwitch),
    {
      id: "algorithm",
      label: "Algorithm",
      sort: "algorithm",
      create: (cell, { algorithms }) => {
        cell.append(
          make("span"),
          make("small", {}, algorithms.length ? `of ${algorithms.join(", ")}` : ""),
        );
      },
      fill: (cell, { algorithm }) => setText(cell.firstChild, algorithm ?? NOTHING),
    },
    text("format", "Format", ({ format }) => format),
    text("address", "Address", ({ address }) => address),
    figure(
      "since",
      "Since",
      ({ since }) => since,
      (at, { now }) => clock(new Date(at * 1000), new Date(now)),
    ),
    figure(
      "last_chunk",
      "Last chunk",
      ({ last_chunk: at }) => at,
      (at, { now }) => `${duration(now / 1000 - at)} ago`,
    ),
    figure("chunks", "Chunks", ({ chunks }) => chunks, count),
    figure("original_bytes", "Before", ({ original_bytes: size }) => size, bytes),
    figure("wire_bytes", "After", ({ wire_bytes: size }) => size, bytes),
    figure(
      "saved_bytes",
      "Saved",
      ({ saved_bytes: size }) => size,
      (size, item) => {
        const { share } = savings(item.original_bytes, item.wire_bytes);
        return share === null ? bytes(size) : `${bytes(size)}, ${percent(share)}`;
      },
    ),
    figure("backlog_bytes", "Waiting", ({ backlog_bytes: size }) => size, bytes),
    figure(
      "rtt_ms",
      "Round trip",
      ({ rtt_ms: time }) => time,
      (time) => `${time.toFixed(1)}\u00a0ms`,
    ),
  ];
}

function switchColumn(onSwitch) {
  return {
    id: "enabled",
    label: "Compression",
    create: (cell, item) => {
      if (!item.opted_in) {
        cell.append(make("span", { className: "quiet" }, "not asked for"));
        return;
      }
      const input = make("input", {
        type: "checkbox",
        ariaLabel: `Compression of ${item.path}, ${item.id}`,
      });
      input.setAttribute("role", "switch");
      input.addEventListener("change", () => onSwitch(item, input.checked));
      cell.append(
        make("label", { className: "switch" }, input, make("span", { ariaHidden: "true" })),
        make("small"),
      );
    },
    fill: (cell, { opted_in: isIn, enabled, in_rollout: isInRollout, isBusy }) => {
      if (!isIn || isBusy) return;
      const [input, state] = cell.firstChild.children;
      input.checked = enabled;
      setText(state, enabled ? "on" : "off");
      setText(cell.lastChild, isInRollout ? "" : "not in roll-out");
    },
  };
}
