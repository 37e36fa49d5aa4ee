// Certificates with the days that they have left, and which server name gets which.

import { element, few, mark } from "./dom.js";
import { clock, count, words } from "./format.js";
import { Table } from "./table.js";

const DAY = 86_400;
const SOON = 30;
const VERY_SOON = 7;

export class Certificates {
  constructor(section) {
    this.needs = "certificates";
    this.table = new Table({
      caption: "Certificates, the first to expire first", key: ({ id }) => id,
      empty: "No certificate is in use. Name a Secret of type kubernetes.io/tls under spec.tls of an Ingress; until then TLS is answered with the default certificate.",
      columns: [
        { title: "Secret", head: true, cell: ({ id }) => id },
        { title: "Days left", numeric: true, cell: left },
        { title: "Valid until", cell: ({ not_after: end }) => element("time", { datetime: new Date(end * 1_000).toISOString() }, clock(end * 1_000)) },
        { title: "For names", cell: ({ names }) => few(names, 5) },
        { title: "Answers for", cell: ({ used_by: names }) => (names.length ? few(names, 5) : element("span", { class: "dim" }, "no server name")) },
        { title: "SHA-256", cell: ({ fingerprint }) => element("code", { class: "print" }, fingerprint) },
      ],
    });
    this.names = new Table({
      caption: "Server names, exact before wildcard", key: ({ name }) => name,
      empty: "No Ingress lists a host under spec.tls: every name is answered with the default certificate.",
      columns: [
        { title: "Server name", head: true, cell: ({ name }) => name },
        { title: "Treatment", cell: ({ treatment }) => (treatment === "default_certificate" ? mark("warn", words(treatment)) : words(treatment)) },
        { title: "With", cell: ({ certificate, backend }) => certificate ?? backend ?? "" },
        { title: "Decided by", cell: ({ origin }) => origin },
      ],
    });
    this.also = "server_names";
    section.append(this.table.node, element("h3", {}, "Server names"), this.names.node);
  }

  show() {}

  update({ certificates, server_names: names }) {
    const now = Date.now() / 1_000;
    const rows = certificates.map((one) => ({ ...one, days: Math.floor((one.not_after - now) / DAY) }));
    this.table.update(rows.sort((a, b) => a.not_after - b.not_after));
    this.names.update(names);
  }
}

function left({ days }) {
  if (days < 0) return mark("bad", `expired ${count(-days)} days ago`);
  return days < SOON ? mark(days < VERY_SOON ? "bad" : "warn", count(days)) : count(days);
}
