// Traffic now and over the last minutes, and how the gateway stands.

import { element, facts, jump, say } from "./dom.js";
import { ago, bits, clock, count, durationParts, millis, plural, rate, scaled, span } from "./format.js";
import { Plot, sparkline } from "./plot.js";
import { Table } from "./table.js";

const FINE = 300;
const COARSE = 360;
// Points of a sparkline: five minutes.
const SPARK = 60;

class Tile {
  constructor(title) {
    this.value = element("b", {}, "–");
    this.unit = element("span", { class: "unit" });
    this.note = element("span", { class: "note dim" });
    this.node = element("div", { class: "tile" }, element("dt", {}, title),
      element("dd", {}, this.value, " ", this.unit, this.note));
  }

  set([value, unit], note = "", kind = "") {
    say(this.value, value);
    say(this.unit, unit);
    say(this.note, note);
    this.node.dataset.kind = kind;
  }
}

export class Overview {
  constructor(section) {
    this.fine = [];
    this.coarse = [];
    this.status = null;
    this.tiles = {
      requests: new Tile("Requests"),
      errors: new Tile("Server errors"),
      median: new Tile("Latency p50"),
      slow: new Tile("Latency p99"),
      connections: new Tile("Connections"),
      packets: new Tile("Packets to VIPs"),
      bits: new Tile("Bits to VIPs"),
    };
    this.plots = plots();
    this.ranges = element("fieldset", { class: "ranges" }, element("legend", { class: "hidden" }, "Time span of the plots"),
      ...[["5", "5 minutes"], ["60", "1 hour"]].map(([value, text]) => element("label", {},
        element("input", { type: "radio", name: "range", value, checked: value === "5", change: () => this.draw() }), text)));
    this.tables = tables();
    this.facts = element("div");
    const blocks = Object.values(this.tables).map(({ title, note, table, node }) =>
      node.append(element("h3", {}, title), " ", element("span", { class: "dim" }, note), table.node) ?? node);
    section.append(
      element("dl", { class: "tiles" }, Object.values(this.tiles).map(({ node }) => node)),
      element("div", { class: "row" }, element("h3", {}, "The last minutes"), this.ranges),
      element("div", { class: "plots" }, Object.values(this.plots).map(({ node }) => node)),
      element("div", { class: "halves" }, blocks),
      element("h3", {}, "This gateway"),
      this.facts,
    );
    this.section = section;
  }

  event(name, data) {
    if (name === "history") {
      const point = (list) => Object.fromEntries(data.columns.map((column, index) => [column, list[index]]));
      this.columns = data.columns;
      [this.fine, this.coarse] = [data.fine.map(point), data.coarse.map(point)];
      this.steps = [data.fine_step_ms, data.coarse_step_ms];
    } else if (name === "sample" && this.columns) {
      const point = (list) => Object.fromEntries(this.columns.map((column, index) => [column, list[index]]));
      this.fine = [...this.fine, point(data.fine)].slice(-FINE);
      if (data.coarse) this.coarse = [...this.coarse, point(data.coarse)].slice(-COARSE);
    } else if (name === "names") {
      this.names = data;
    } else if (name === "status") {
      this.status = data;
    }
    if (!this.section.hidden && name !== "history") this.draw();
  }

  show() {
    this.draw();
  }

  draw() {
    this.drawTiles();
    const hour = this.ranges.querySelector("input:checked").value === "60";
    const points = hour ? this.coarse : this.fine;
    const now = points.at(-1)?.at_ms ?? Date.now();
    const hasPackets = this.hasPackets();
    for (const [name, plot] of Object.entries(this.plots)) {
      plot.node.hidden = !hasPackets && ["packets", "bits"].includes(name);
      if (!plot.node.hidden) plot.update(points, hour ? 3_600_000 : 300_000, this.steps?.[hour ? 1 : 0] ?? 1_000, now);
    }
    if (this.names) {
      for (const [kind, { table, node }] of Object.entries(this.tables)) {
        // A director alone has no hosts and no backends.
        node.hidden = this.names[kind].length === 0 && !this.status?.objects[kind];
        table.update(this.names[kind]);
      }
    }
    if (this.status) this.drawFacts();
  }

  hasPackets() {
    return this.status?.director != null && this.status.objects.vips > 0;
  }

  drawTiles() {
    const now = this.fine.at(-1);
    const { requests, errors, median, slow, connections, packets, bits: volume } = this.tiles;
    requests.set(scaled(now?.requests, "/s"), now ? `${rate(now.client_errors)} answered 4xx` : "");
    const share = now && now.requests > 0 ? (now.server_errors / now.requests) * 100 : 0;
    const failing = now && now.server_errors > 0;
    errors.set(scaled(now?.server_errors, "/s"), failing ? `${share.toFixed(1)} % of requests` : "5xx", failing ? "bad" : "");
    median.set(durationParts(now?.p50_ms), "half are faster");
    slow.set(durationParts(now?.p99_ms), "99 of 100 are faster");
    connections.set([count(now?.connections), "open"], "of clients");
    packets.node.hidden = volume.node.hidden = !this.hasPackets();
    packets.set(scaled(now?.packets, "/s"), now?.dropped ? `${rate(now.dropped)} dropped` : "none dropped");
    volume.set(scaled(now?.bits, "bit/s"), "towards real servers");
  }

  drawFacts() {
    const { version, generation, applied_ms: applied, now_ms: now, objects, source, director } = this.status;
    const since = applied ? `${count(generation)}, applied ${ago((now - applied) / 1_000)} (${clock(applied)})` : "none yet";
    const held = Object.entries(objects ?? {}).filter(([, number]) => number > 0);
    const next = facts([
      ["Version", version],
      ["Generation", since],
      ["Objects come from", source ? `the API server ${source.api_server}` : "a folder of manifests"],
      ["API server", source && contact(source)],
      ["Serves", held.map(([kind, number]) => `${count(number)} ${kind.replace("_", " ").replace("vips", "virtual IPs")}`).join(", ")],
      ["Director", director && standing(director)],
    ]);
    if (next.textContent !== this.facts.textContent) this.facts.replaceChildren(next);
  }
}

function contact({ outage_seconds: outage, why, heard_seconds_ago: heard, watches }) {
  if (outage !== null) return `no answer for ${span(outage)} (${why ?? "unknown why"}); what was read is served`;
  const last = heard === null ? "not heard of yet" : `heard of ${ago(heard)}`;
  return `${last}; ${plural(watches.well, "watch", "watches")} well${watches.failing ? `, ${watches.failing} failing` : ""}`;
}

function standing({ name, fit, cordoned, reason, peers }) {
  const state = cordoned ? "cordoned" : fit ? "may hold virtual IPs" : `holds none${reason ? `: ${reason}` : ""}`;
  return `${name}, ${state}; ${plural(peers.filter((peer) => peer.present).length, "other director")} heard`;
}

function plots() {
  const packets = [{ name: "forwarded", kind: "main", value: (point) => point.packets },
    { name: "dropped", kind: "bad", value: (point) => point.dropped }];
  return {
    requests: new Plot({ title: "Requests", format: rate, series: [
      { name: "all", kind: "main", value: (point) => point.requests },
      { name: "4xx", kind: "warn", value: (point) => point.client_errors },
      { name: "5xx", kind: "bad", value: (point) => point.server_errors }] }),
    latency: new Plot({ title: "Latency", format: millis, series: [
      { name: "p50", kind: "main", value: (point) => point.p50_ms },
      { name: "p99", kind: "warn", value: (point) => point.p99_ms }] }),
    connections: new Plot({ title: "Connections", format: count, least: 2, series: [
      { name: "open", kind: "main", value: (point) => point.connections }] }),
    packets: new Plot({ title: "Packets to virtual IPs", format: rate, series: packets }),
    bits: new Plot({ title: "Bits to virtual IPs", format: bits, least: 1_000, series: [
      { name: "forwarded", kind: "main", value: (point) => point.bits }] }),
  };
}

function tables() {
  const history = { title: "5 minutes", cell: ({ series }) => sparkline(series, SPARK) };
  const table = (caption, first, second, section, empty) => new Table({
    caption, key: ({ name }) => name, empty, most: 10,
    columns: [
      { title: "Name", head: true, cell: ({ name }) => (name.startsWith("(") ? name : jump(section, name)) },
      { title: first.title, numeric: true, cell: (row) => first.cell(row.first) },
      { title: second.title, numeric: true, cell: (row) => second.cell(row.second) },
      history,
    ],
  });
  const failed = { title: "Errors", cell: (value) => (value > 0 ? element("span", { class: "bad" }, rate(value)) : rate(0)) };
  const requests = { title: "Requests", cell: rate };
  const block = (title, note, made) => ({ title, note, table: made, node: element("div") });
  return {
    hosts: block("Hosts", "the busiest of the last 5 minutes", table("Busiest hosts", requests, failed, "routes",
      "No host has had a request in the last 5 minutes.")),
    backends: block("Backends", "the busiest of the last 5 minutes", table("Busiest backends", requests, failed, "backends",
      "No backend has had a request in the last 5 minutes. Send one: curl with --resolve reaches a host without DNS.")),
    vips: block("Virtual IPs", "the busiest of the last 5 minutes", table("Busiest virtual IPs", { title: "Packets", cell: rate },
      { title: "Bits", cell: bits }, "vips", "No virtual IP has had a packet in the last 5 minutes.")),
  };
}
