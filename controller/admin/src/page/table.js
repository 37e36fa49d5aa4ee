// Tables that are written as far as somebody looks: of 20,000 rows the first hundred, and more as they are scrolled to.

import { element, reconcile, say } from "./dom.js";
import { count, plural } from "./format.js";

const STEP = 100;

// A table in a box that scrolls by itself. `columns` are `{ title, cell(row), numeric, head, wide }`; `key(row)` names a row.
// Rows whose JSON is the same stay as they are.
export class Table {
  constructor({ caption, columns, key, empty, most = Infinity }) {
    Object.assign(this, { columns, key, most, rows: [], shown: STEP, drawn: new Map() });
    this.body = element("tbody");
    this.caption = element("caption", {}, caption);
    this.table = element(
      "table",
      {},
      this.caption,
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          columns.map(({ title, numeric }) => element("th", { scope: "col", class: numeric ? "number" : null }, title)),
        ),
      ),
      this.body,
    );
    this.more = element("button", { type: "button", class: "more", hidden: true, click: () => this.show(STEP * 5) });
    this.scroll = element("div", { class: "scroll", hidden: true, tabindex: "0", role: "region", "aria-label": caption }, this.table);
    this.empty = element("p", { class: "empty", hidden: true }, empty);
    this.node = element("div", { class: "table" }, this.scroll, this.more, this.empty);
    new IntersectionObserver((seen) => {
      if (seen.some((entry) => entry.isIntersecting)) this.show(STEP);
    }, { rootMargin: "400px" }).observe(this.more);
  }

  // The rows; from the top again where another question was asked.
  update(rows, { anew = false, empty = null } = {}) {
    this.rows = rows;
    if (anew) this.shown = STEP;
    if (empty !== null) this.empty.replaceChildren(...[empty].flat());
    this.draw();
  }

  show(more) {
    if (this.shown >= this.rows.length) return;
    this.shown += more;
    this.draw();
  }

  draw() {
    const shown = this.rows.slice(0, Math.min(this.shown, this.most));
    const drawn = new Map();
    reconcile(
      this.body,
      shown.map((row) => {
        const [key, text] = [this.key(row), JSON.stringify(row)];
        const before = this.drawn.get(key);
        const made = before?.text === text ? before : { text, node: this.row(row) };
        drawn.set(key, made);
        return made.node;
      }),
    );
    this.drawn = drawn;
    const left = Math.min(this.rows.length, this.most) - shown.length;
    this.more.hidden = left <= 0;
    if (left > 0) say(this.more, `Show more (${count(shown.length)} of ${count(this.rows.length)} shown)`);
    this.scroll.hidden = this.rows.length === 0;
    this.empty.hidden = this.rows.length > 0;
  }

  row(row) {
    const cells = this.columns.map(({ cell, numeric, head, wide }) =>
      head
        ? element("th", { scope: "row" }, cell(row))
        : element("td", { class: numeric ? "number" : wide ? "wide" : null }, cell(row)),
    );
    return element("tr", { class: this.rowClass?.(row) ?? null }, cells);
  }
}

// A search field over rows that were written in lower case once.
export class Search {
  constructor({ label, hint, unit, found }) {
    this.indexed = [];
    Object.assign(this, { found, unit });
    this.input = element("input", {
      type: "search", placeholder: hint, autocomplete: "off", spellcheck: "false", input: () => this.run(true),
    });
    this.result = element("span", { class: "dim", role: "status" });
    this.node = element("div", { class: "search" }, element("label", {}, label, " ", this.input), this.result);
  }

  // What is searched: rows, and the text of each.
  index(rows, text) {
    this.indexed = rows.map((row) => [row, text(row).toLowerCase()]);
    this.run(false);
  }

  ask(text) {
    if (this.input.value === text) return;
    this.input.value = text;
    this.run(true);
  }

  run(anew) {
    const parts = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.indexed.filter(([, text]) => parts.every((part) => text.includes(part))).map(([row]) => row);
    const all = this.indexed.length;
    say(this.result, `${parts.length ? `${count(rows.length)} of ` : ""}${plural(all, this.unit)}`);
    this.found(rows, { anew, searching: parts.length > 0 });
  }
}
