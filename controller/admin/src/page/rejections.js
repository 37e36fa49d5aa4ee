// What was not taken as it is written: why, and what to do.

import { element, mark } from "./dom.js";
import { Search, Table } from "./table.js";

const KINDS = { rejected: "bad", ignored: "dim", warning: "warn" };

export class Rejections {
  constructor(section) {
    this.needs = "rejections";
    this.table = new Table({
      caption: "Parts of objects that are rejected, ignored or served with a warning", empty: "",
      key: ({ object, field, reason }) => `${object.kind} ${object.namespace}/${object.name} ${field} ${reason}`,
      columns: [
        { title: "Verdict", cell: ({ verdict }) => mark(KINDS[verdict] ?? "", verdict) },
        { title: "Object", head: true, cell: ({ object }) => [`${object.namespace ? `${object.namespace}/` : ""}${object.name}`, element("span", { class: "sub dim" }, object.kind)] },
        { title: "Field", wide: true, cell: ({ field }) => element("code", {}, field) },
        { title: "Why", wide: true, cell: ({ reason }) => reason },
        { title: "What to do", wide: true, cell: ({ remedy }) => remedy },
      ],
    });
    this.search = new Search({
      label: "Search", hint: "object, field, verdict or reason", unit: "rejection",
      found: (rows, { anew, searching }) => this.table.update(rows, { anew, empty: searching
        ? "No rejection has all of these words."
        : "None: everything is served as it is written." }),
    });
    section.append(this.search.node, this.table.node);
  }

  show({ q }) {
    if (q) this.search.ask(q);
  }

  update({ rejections }) {
    this.search.index(rejections, ({ object, field, verdict, reason, remedy }) =>
      [object.kind, `${object.namespace}/${object.name}`, field, verdict, reason, remedy].join(" "));
  }
}
