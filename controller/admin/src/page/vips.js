// Virtual IPs with their real servers, flows and packets, who owns them, and the director.

import { element, facts, mark, reconcile } from "./dom.js";
import { ago, bits, bytes, count, plural, rate, words } from "./format.js";
import { Search, Table } from "./table.js";

// Virtual IPs that are written out at once; the rest opens when it is asked for.
const MOST_OPEN = 12;
const STEP = 50;

export class Vips {
  constructor(section) {
    Object.assign(this, { needs: "vips", every: 2_000, cards: new Map(), shown: STEP, before: null, rates: new Map() });
    this.director = element("div");
    this.list = element("div");
    this.more = element("button", { type: "button", class: "more", hidden: true, click: () => {
      this.shown += STEP;
      this.draw();
    } });
    this.empty = element("p", { class: "empty", hidden: true });
    this.search = new Search({
      label: "Search", hint: "address, Service, node or owner", unit: "virtual IP",
      found: (rows, { searching }) => {
        [this.rows, this.searching] = [rows, searching];
        this.draw();
      },
    });
    this.reasons = new Table({
      caption: "Packets by what became of them", key: ({ verdict, reason }) => `${verdict} ${reason}`,
      empty: "No packet was seen yet.",
      columns: [
        { title: "Verdict", cell: ({ verdict }) => mark({ forwarded: "good", dropped: "bad" }[verdict] ?? "", verdict) },
        { title: "Reason", head: true, cell: ({ reason }) => words(reason) },
        { title: "Packets", numeric: true, cell: ({ packets }) => count(packets) },
      ],
    });
    this.counters = element("div", {}, element("h3", {}, "Packets by reason"), this.reasons.node);
    section.append(this.director, this.search.node, this.list, this.more, this.empty, this.counters);
  }

  show({ q }) {
    if (q) this.search.ask(q);
  }

  update({ vips, director, packets }) {
    this.measure(vips, packets);
    const next = this.standing(director, vips.length > 0 ? packets : null);
    if (next.textContent !== this.director.textContent) this.director.replaceChildren(...next.childNodes);
    this.counters.hidden = !packets || vips.length === 0;
    this.reasons.update(packets?.reasons ?? []);
    this.noDirector = !director;
    this.search.index(vips, ({ address, owner, origin, pool, services }) => [address, owner, origin, pool,
      ...services.flatMap(({ service, real_servers: reals }) => [service, ...reals.flatMap((real) => [real.address, real.node])])].join(" "));
  }

  // Rates of ports and real servers out of two looks, by the director's own clock.
  measure(vips, packets) {
    const counted = new Map();
    for (const { address, services } of vips) {
      for (const { service, traffic, real_servers: reals } of services) {
        for (const port of traffic) counted.set(`${address} ${port.port}`, port);
        for (const real of reals) if (real.live) counted.set(`${address} ${service} ${real.port} ${real.address}`, real.live);
      }
    }
    const at = packets?.counted_ms ?? null;
    if (this.before && at !== null && at > this.before.at) {
      const seconds = (at - this.before.at) / 1_000;
      this.rates = new Map([...counted].map(([key, now]) => {
        const then = this.before.counted.get(key) ?? now;
        return [key, { packets: Math.max(0, now.packets - then.packets) / seconds, bits: (Math.max(0, now.bytes - then.bytes) * 8) / seconds }];
      }));
    }
    if (at !== null && at !== this.before?.at) this.before = { at, counted };
  }

  standing(director, packets) {
    if (!director && !packets) return element("div");
    const ports = packets?.ports.map(({ name, mode, carrier }) => `${name} (${mode ?? "not attached"}${carrier ? "" : ", no carrier"})`).join(", ");
    const flows = packets?.flows;
    const complaints = [packets?.off && `No packets are forwarded: ${packets.off}`, ...(packets?.failures ?? []), ...(packets?.problems ?? []),
      director?.membership?.trouble].filter(Boolean);
    return element("div", {},
      complaints.map((text) => element("p", { class: "notice bad" }, text)),
      facts([
        ["Director", director && [director.name, " ", director.cordoned ? mark("warn", "cordoned") : director.fit ? mark("good", "fit") : mark(director.reason ? "bad" : "", "holds none")]],
        ["Why", director?.reason],
        ["Others", director && (director.peers.length ? director.peers.map(({ name, present, holds }) => `${name} (${present ? `holds ${count(holds)}` : "not heard"})`).join(", ") : "none")],
        ["Take-overs", director && `${count(director.take_overs)}, losses ${count(director.losses)}, conflicts ${count(director.conflicts)}`],
        ["Lease", director?.membership?.renewed_seconds_ago != null && `renewed ${ago(director.membership.renewed_seconds_ago)}`],
        ["Interfaces", ports],
        ["Flows", flows && flows.capacity > 0 && `${count(flows.established)} established, ${count(flows.tentative)} tentative, of ${count(flows.capacity)}`],
      ]));
  }

  draw() {
    const rows = this.rows ?? [];
    const shown = rows.slice(0, this.shown);
    reconcile(this.list, shown.map((vip, index) => this.card(vip, index)));
    this.more.hidden = rows.length <= shown.length;
    this.more.textContent = `Show more (${count(shown.length)} of ${count(rows.length)} shown)`;
    this.empty.hidden = rows.length > 0;
    if (this.searching) this.empty.textContent = "No virtual IP has all of these words.";
    else this.empty.textContent = this.noDirector
      ? "No virtual IP is bound here. Bind one to a Service in the ConfigMap of --vip-configmap, or with a Service of type LoadBalancer, and run a director (--role director or all)."
      : "No virtual IP is bound. Name one and its Service in the ConfigMap of --vip-configmap, or make a Service of type LoadBalancer.";
  }

  card(vip, index) {
    let card = this.cards.get(vip.address);
    if (!card) {
      card = { summary: element("summary"), body: element("div") };
      card.node = element("details", { class: "card", open: index < MOST_OPEN, toggle: () => this.fillIn(card) }, card.summary, card.body);
      this.cards.set(vip.address, card);
    }
    card.vip = vip;
    const head = element("div", {}, element("h3", {}, vip.address), " ",
      vip.served ? mark("good", "served here") : mark("", this.noDirector ? "not forwarded by this process" : "not served here"), " ",
      vip.conflict ? mark("bad", `claimed by ${vip.conflict.mac}`) : null,
      element("span", { class: "dim" }, [vip.owner && `owner ${vip.owner}`, vip.origin, vip.pool && `pool ${vip.pool}`].filter(Boolean).join(" · ")));
    if (head.textContent !== card.summary.textContent) card.summary.replaceChildren(...head.childNodes);
    this.fillIn(card);
    return card.node;
  }

  fillIn(card) {
    if (!card.node.open) return;
    const { vip } = card;
    card.services ??= new Map();
    if (vip.services.length === 0) return card.body.replaceChildren(element("p", { class: "dim" }, "Announced alone: no Service is bound to it."));
    reconcile(card.body, vip.services.flatMap((service) => {
      let made = card.services.get(service.service);
      if (!made) {
        made = { head: element("div"), table: realServers(service.service) };
        card.services.set(service.service, made);
      }
      const head = this.service(vip, service);
      if (head.textContent !== made.head.textContent) made.head.replaceChildren(...head.childNodes);
      made.table.update(service.real_servers.map((real) => ({ ...real, rate: this.rates.get(`${vip.address} ${service.service} ${real.port} ${real.address}`) ?? null })));
      return [made.head, made.table.node];
    }));
  }

  service(vip, { service, ports, scheduler, method, traffic, health_check: check, persistence, when_all_fail: allFail }) {
    const lines = traffic.map((port) => {
      const now = this.rates.get(`${vip.address} ${port.port}`);
      return element("li", {}, element("b", {}, port.port), ` ${port.method} (${port.method_because}): `,
        `${plural(port.connections, "flow")}, ${plural(port.packets, "packet")}, ${bytes(port.bytes)}`,
        now ? `; now ${rate(now.packets)}, ${bits(now.bits)}` : "");
    });
    return element("div", {},
      element("p", { class: "service" }, element("b", {}, service), " ", element("span", { class: "dim" },
        [ports.length ? ports.join(", ") : "the Service does not exist yet", `scheduler ${scheduler}`, method && `method ${method}`,
          check ? `checked by ${check.kind} each ${count(check.interval_ms)} ms` : "no health check",
          persistence && `clients stay for ${count(persistence.seconds)} s`, allFail && `when all fail: ${allFail}`].filter(Boolean).join(" · "))),
      lines.length ? element("ul", { class: "plain" }, lines) : null);
  }
}

function realServers(service) {
  return new Table({
    caption: `Real servers of ${service}`, key: ({ port, address }) => `${port} ${address}`,
    empty: "No real server: the Service has no ready endpoint that packets could go to.",
    columns: [
      { title: "Real server", head: true, cell: ({ address, node }) => [element("span", { class: "mono" }, address), node ? element("span", { class: "sub dim" }, node) : null] },
      { title: "Port", cell: ({ port }) => port },
      { title: "State", cell: condition },
      { title: "Weight", numeric: true, cell: ({ weight }) => count(weight) },
      { title: "Pods", numeric: true, cell: ({ pods }) => count(pods) },
      { title: "Established", numeric: true, cell: ({ live }) => count(live?.established) },
      { title: "Flows", numeric: true, cell: ({ live }) => count(live?.connections) },
      { title: "Packets", numeric: true, cell: ({ live }) => count(live?.packets) },
      { title: "Bytes", numeric: true, cell: ({ live }) => bytes(live?.bytes) },
      { title: "Packets now", numeric: true, cell: ({ rate: now }) => rate(now?.packets) },
    ],
  });
}

function condition({ readiness, live }) {
  const healthy = live?.healthy;
  const made = !live ? mark("", `${readiness}, not forwarded to`) : healthy === false ? mark("bad", "unhealthy")
    : readiness === "ready" ? mark("good", healthy ? "healthy" : "ready") : mark("warn", readiness);
  return [made, live?.reason ? element("span", { class: "sub dim" }, live.reason) : null];
}
