// Routes with search: host, path, Ingress, Service.

import { element, jump, mark } from "./dom.js";
import { words } from "./format.js";
import { Search, Table } from "./table.js";

export class Routes {
  constructor(section) {
    this.needs = "routes";
    this.table = new Table({
      caption: "Routes, by host and in order of precedence",
      key: (route) => `${route.host} ${route.match} ${route.path} ${route.ingress} ${route.field}`,
      columns: [
        { title: "Host", head: true, cell: ({ host, dialect }) => [host, dialect === "nginx" ? element("span", { class: "tag" }, "nginx") : null] },
        { title: "Path", cell: ({ path, match }) => [path ? element("code", {}, path) : "any other", element("span", { class: "sub dim" }, words(match))] },
        { title: "Goes to", cell: target },
        { title: "Ingress", cell: ({ ingress, field }) => [ingress, element("span", { class: "sub dim" }, field)] },
        { title: "Why", cell: (route) => element("a", { href: `#explain?${new URLSearchParams({ q: example(route) })}`, "aria-label": `Explain ${example(route)}` }, "explain") },
      ],
      empty: "",
    });
    this.search = new Search({
      label: "Search", hint: "host, path, Ingress or Service", unit: "route",
      found: (rows, { anew, searching }) => this.table.update(rows, { anew, empty: searching ? NOTHING_FOUND : NONE() }),
    });
    section.append(this.search.node, this.table.node);
  }

  show({ q }) {
    if (q) this.search.ask(q);
  }

  update({ routes }) {
    this.search.index(routes, ({ host, path, ingress, backend, action, match, reason }) =>
      [host, path, ingress, backend, words(action), words(match), reason].join(" "));
  }
}

const NOTHING_FOUND = "No route has all of these words. Fewer words find more; Explain says who takes a URL.";

function NONE() {
  return ["No route is served. Apply an Ingress of a class that is this gateway's; what is not taken is among the ",
    element("a", { href: "#rejections" }, "rejections"), "."];
}

function target({ action, backend, reason }) {
  if (action === "deny") return [mark("bad", "refused (503)"), element("span", { class: "sub dim" }, reason)];
  if (backend) return jump("backends", backend);
  return words(action);
}

// A URL that the route could be meant for.
function example({ host, path, match }) {
  const name = host === "*" ? "any.example" : host.replace(/^\*/, "any");
  return `http://${name}${match === "regex" || !path.startsWith("/") ? "/" : encodeURI(path)}`;
}
