// Backends with their endpoints, how they do, and why not.

import { element, jump, mark } from "./dom.js";
import { count, plural } from "./format.js";
import { Search, Table } from "./table.js";

// Endpoints of a backend that are written without being asked for.
const MOST_ENDPOINTS = 8;

const STATES = { up: "good", ejected: "bad", terminating: "warn", removed: "" };
const REASONS = {
  ejected: "out of rotation for its failures, for a while",
  terminating: "used only because nothing is ready",
  removed: "gone from the Service, finishes what it has",
};

export class Backends {
  constructor(section) {
    Object.assign(this, { needs: "backends", every: 2_000, open: new Set() });
    this.table = new Table({
      caption: "Backends, and below each its endpoints", empty: "",
      key: ({ backend, endpoint, left }) => `${backend.id} ${left ? "more" : (endpoint?.address ?? "")}`,
      columns: [
        { title: "Backend or endpoint", head: true, cell: (row) => this.name(row) },
        { title: "State", wide: true, cell: state },
        { title: "Active", numeric: true, cell: (row) => traffic(row, ({ active }) => count(active)) },
        { title: "Requests", numeric: true, cell: (row) => traffic(row, ({ requests }) => count(requests)) },
        { title: "Errors", numeric: true, cell: (row) => traffic(row, ({ errors }) => (errors ? element("span", { class: "bad" }, count(errors)) : 0)) },
      ],
    });
    this.table.rowClass = ({ endpoint, left }) => (endpoint || left ? "inner" : "outer");
    this.search = new Search({
      label: "Search", hint: "Service, pod, address or state", unit: "backend",
      found: (backends, { anew, searching }) => {
        this.found = backends;
        this.table.update(this.rows(), { anew, empty: searching
          ? "No backend has all of these words."
          : "No backend is known. Backends come with the Services that Ingresses name." });
      },
    });
    section.append(this.search.node, this.table.node);
  }

  show({ q }) {
    if (q) this.search.ask(q);
  }

  update({ backends }) {
    this.search.index(backends, ({ id, protocol, external, unavailable, endpoints }) =>
      [id, protocol, external, unavailable, ...endpoints.flatMap(({ address, pod, state }) => [address, pod, state])].join(" "));
  }

  // A row for each backend, and one for each endpoint below it.
  rows() {
    return this.found.flatMap((whole) => {
      const { endpoints, ...backend } = whole;
      const shown = this.open.has(backend.id) ? endpoints : endpoints.slice(0, MOST_ENDPOINTS);
      const up = endpoints.filter(({ state }) => state === "up").length;
      const left = endpoints.length - shown.length;
      return [
        { backend, up, all: endpoints.length },
        ...shown.map((endpoint) => ({ backend: { id: backend.id }, endpoint })),
        ...(left > 0 ? [{ backend: { id: backend.id }, left }] : []),
      ];
    });
  }

  name({ backend, endpoint, left }) {
    if (left) {
      return element("button", { type: "button", class: "inline", click: () => {
        this.open.add(backend.id);
        this.table.update(this.rows());
      } }, `Show ${plural(left, "more endpoint")}`);
    }
    if (endpoint) return [element("span", { class: "mono" }, endpoint.address), " ", element("span", { class: "dim" }, endpoint.pod ?? "")];
    return [jump("routes", backend.id), " ", element("span", { class: "dim" }, backend.protocol, backend.external ? `, ${backend.external}` : "")];
  }
}

function state({ backend, endpoint, left, up, all }) {
  if (left) return "";
  if (endpoint) return [mark(STATES[endpoint.state], endpoint.state), " ", element("span", { class: "dim" }, REASONS[endpoint.state] ?? "")];
  if (all === 0) return [mark("bad", "unavailable"), " ", element("span", { class: "dim" }, backend.unavailable ?? (backend.external ? "the name has no address" : "nothing is ready"))];
  return [mark(up === all ? "good" : up > 0 ? "warn" : "bad", `${count(up)} of ${count(all)} up`), " ", element("span", { class: "dim" }, backend.unavailable ?? "")];
}

function traffic({ backend, endpoint, left }, write) {
  if (left) return "";
  const counts = endpoint ? endpoint.traffic : backend.traffic;
  return counts ? write(counts) : count(null);
}
