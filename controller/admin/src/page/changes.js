// The last changes: what the source told, what moved, how long it took.

import { element, mark } from "./dom.js";
import { clock, count, millis, plural, words } from "./format.js";
import { Table } from "./table.js";

// Names that are written of each part.
const MOST = 6;

export class Changes {
  constructor(section) {
    this.needs = "changes";
    this.table = new Table({
      caption: "The last 200 changes, the newest first", key: ({ number }) => number,
      empty: "Nothing has changed yet. Apply or edit an object: what comes of it is here a moment later.",
      columns: [
        { title: "When", head: true, cell: ({ at_ms: at, generation }) => [element("time", { datetime: new Date(at).toISOString() }, clock(at)), element("span", { class: "sub dim" }, `generation ${count(generation)}`)] },
        { title: "The source told", wide: true, cell: told },
        { title: "What moved", wide: true, cell: ({ moved }) => (moved.length ? moved.map(({ kind, ...names }) => element("div", {}, element("b", {}, `${count(names.count)} ${label(kind, names.count)}`), ": ", list(names))) : element("span", { class: "dim" }, "nothing that is served")) },
        { title: "Rejections", cell: ({ new_rejections: more, gone_rejections: less }) => [more ? mark("warn", `${count(more)} new`) : null, more && less ? " " : null, less ? mark("good", `${count(less)} gone`) : null] },
        { title: "Took", numeric: true, cell: ({ took_ms: took, failures }) => [millis(took), failures.map((failure) => element("span", { class: "sub bad" }, failure))] },
      ],
    });
    section.append(element("p", { class: "dim" }, "From what the source noticed to the swap of the tables, which no request waits for."), this.table.node);
  }

  show() {}

  update({ changes }) {
    this.table.update(changes);
  }
}

function told({ cause, objects }) {
  if (cause === "time") return "nothing: time passed";
  if (cause === "pools") return "nothing: addresses were given";
  return [list(objects)];
}

function list({ count: all, first }) {
  const names = first.slice(0, MOST).flatMap(({ name, gone }, index) => [index ? ", " : "", gone ? element("s", {}, name) : name, gone ? " (gone)" : ""]);
  const left = all - Math.min(first.length, MOST);
  return left > 0 ? [...names, ` and ${count(left)} more`] : names;
}

function label(kind, number) {
  const name = words(kind).replace("vips", "virtual IPs");
  return number === 1 ? name.replace(/s$/, "") : name;
}
