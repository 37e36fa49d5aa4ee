// Who takes a URL or a packet, and why each other lost.

import { Refused, explain } from "./api.js";
import { element, facts, mark } from "./dom.js";
import { count, plural, span, words } from "./format.js";
import { Table } from "./table.js";

const EXAMPLES = ["https://shop.example/cart", "tcp,198.51.100.7:40000,192.0.2.10:80"];

export class Explain {
  constructor(section, failed) {
    this.failed = failed;
    this.input = element("input", {
      id: "target", type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
      placeholder: EXAMPLES[0], "aria-describedby": "target-hint",
    });
    this.answer = element("div", { id: "answer", "aria-live": "polite" });
    const form = element("form", { class: "ask", submit: (event) => {
      event.preventDefault();
      this.ask(this.input.value.trim());
    } },
    element("label", { for: "target" }, "URL or packet"),
    element("div", { class: "line" }, this.input, element("button", { type: "submit" }, "Explain")),
    element("p", { class: "dim", id: "target-hint" }, "A URL, or a packet as protocol,source,destination. For example ",
      EXAMPLES.flatMap((example, index) => [index ? " or " : "",
        element("a", { href: `#explain?${new URLSearchParams({ q: example })}` }, element("code", {}, example))]), "."));
    section.append(form, this.answer);
  }

  show({ q }) {
    if (!q) return;
    this.input.value = q;
    this.ask(q);
  }

  async ask(target) {
    if (!target) return this.input.focus();
    this.asked = target;
    try {
      const { kind, told } = await explain(target);
      // Whoever asks fast sees the answer to the last question.
      if (this.asked === target) this.answer.replaceChildren(...(kind === "packet" ? packet(told) : request(told)));
    } catch (error) {
      if (this.asked !== target) return;
      if (error instanceof Refused) {
        this.answer.replaceChildren(element("p", { class: "notice bad" }, error.message, ". ", element("span", {}, `${capital(error.remedy)}.`)));
      } else this.failed(error);
    }
  }
}

function request(told) {
  const won = told.candidates.find(({ reason }) => reason.code === "won");
  const candidates = new Table({
    caption: "Candidates: the one that won, and why each other lost",
    key: ({ host, path, origin }) => `${host} ${path} ${origin.field} ${origin.ingress.name}`, empty: "",
    columns: [
      { title: "Outcome", cell: ({ reason }) => (reason.code === "won" ? mark("good", "won") : mark("", "lost")) },
      { title: "Because", wide: true, cell: ({ because }) => because },
      { title: "Host", cell: ({ host }) => host },
      { title: "Path", cell: ({ path }) => (path ? element("code", {}, path) : "any other") },
      { title: "Target", cell: ({ target }) => target },
      { title: "Ingress", cell: ({ origin }) => [`${origin.ingress.namespace}/${origin.ingress.name}`, element("span", { class: "sub dim" }, origin.field)] },
    ],
  });
  candidates.update([...(won ? [won] : []), ...told.candidates.filter((candidate) => candidate !== won)]);
  const { tls } = told;
  return [
    element("p", { class: `notice ${won ? "good" : "bad"}`, id: "result" }, told.result),
    facts([
      ["Host", told.host],
      ["Claimed by", told.claimed_by && `${told.claimed_by} (${told.dialect} dialect)`],
      ["Path", told.path && element("code", {}, told.path)],
      ["Compared as", told.compared && told.compared !== told.path && element("code", {}, told.compared)],
      ["TLS", tls && [words(tls.treatment), tls.certificate, tls.backend, tls.because, tls.origin && `(${tls.origin})`].filter(Boolean).join(" ")],
    ]),
    ...(told.candidates.length ? [element("h3", {}, "Candidates"), candidates.node] : []),
    ...(told.omitted ? [element("p", { class: "dim" }, `${plural(told.omitted, "more route")} of the host whose path does not match.`)] : []),
  ];
}

function packet(told) {
  const candidates = new Table({
    caption: "Virtual services: the one that won, and why each other lost", key: ({ address, service }) => `${address} ${service}`, empty: "",
    columns: [
      { title: "Outcome", cell: ({ code }) => (code === "won" ? mark("good", "won") : mark("", "lost")) },
      { title: "Bound to", cell: ({ address }) => address },
      { title: "Service", cell: ({ service }) => service },
      { title: "Because", wide: true, cell: ({ because }) => because },
    ],
  });
  candidates.update(told.candidates);
  const reals = new Table({
    caption: "Real servers of the service", key: ({ address }) => address, empty: "",
    columns: [
      { title: "Outcome", cell: ({ address }) => (address === told.real_server ? mark("good", "gets it") : "") },
      { title: "Real server", cell: ({ address }) => address },
      { title: "Weight", numeric: true, cell: ({ weight }) => count(weight) },
      { title: "Slots", numeric: true, cell: ({ slots }) => count(slots) },
      { title: "Gets", cell: ({ gets }) => gets },
      { title: "Node", cell: ({ node }) => node ?? "" },
      { title: "Because", wide: true, cell: ({ because }) => because ?? "" },
    ],
  });
  reals.update(told.real_servers);
  const { vip, service, flow, ring, leaves } = told;
  return [
    element("p", { class: `notice ${told.verdict === "forwarded" ? "good" : "bad"}`, id: "result" }, told.result),
    facts([
      ["Packet", element("code", {}, told.packet)],
      ["Verdict", `${told.verdict}: ${words(told.reason)}`],
      ["Virtual IP", vip && `${vip.address}${vip.owner ? `, owner ${vip.owner}` : ""}${vip.in_tables ? "" : ", not in the tables"}`],
      ["Service", service && `${service.service} at ${service.address}, scheduler ${service.scheduler}, method ${service.method} (${service.method_because})`],
      ["Flow", flow && (flow.in_table ? `in the flow table, to ${flow.real_server ?? "a real server that is gone"}${flow.idle_seconds ? `, idle for ${span(flow.idle_seconds)}` : ""}` : "not in the flow table")],
      ["Ring", ring && `${count(ring.slots)} slots, by ${ring.by}${ring.slot === null ? "" : `; slot ${count(ring.slot)} is ${ring.real_server ?? "nobody"}'s`}`],
      ["Leaves by", leaves && `${leaves.interface} to ${leaves.destination_mac}${leaves.outer ? `, ${leaves.outer.kind} to ${leaves.outer.destination}` : ""}`],
      ["Not served", told.not_served.join("; ")],
      ["Assumed", told.assumptions.join("; ")],
    ]),
    ...(told.candidates.length ? [element("h3", {}, "Virtual services"), candidates.node] : []),
    ...(told.omitted ? [element("p", { class: "dim" }, `And ${count(told.omitted)} more.`)] : []),
    ...(told.real_servers.length ? [element("h3", {}, "Real servers"), reals.node] : []),
  ];
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
