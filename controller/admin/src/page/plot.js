// Small plots of the last minutes: lines over time, with axes, units and a sentence for who cannot see them.

import { element, say, svg } from "./dom.js";
import { ago } from "./format.js";

const HEIGHT = 138;
const MARGIN = { left: 72, right: 12, top: 8, bottom: 24 };

// `series` are `{ name, value(point), kind }`, `format` writes a value with its unit.
export class Plot {
  constructor({ title, series, format, least = 1 }) {
    Object.assign(this, { title, series, format, least, points: [], span: 300_000, step: 1_000, now: 0, at: null });
    this.picture = svg("svg", { role: "img", height: HEIGHT, class: "plot" });
    this.values = series.map(() => element("b", {}, "–"));
    this.when = element("span", { class: "dim" });
    const legend = series.map(({ name, kind }, index) =>
      element("span", { class: `key ${kind}` }, svg("svg", { width: 16, height: 8, "aria-hidden": "true" },
        svg("path", { d: "M0 4H16", class: `line ${kind}` })), name, " ", this.values[index]));
    this.node = element("figure", {}, element("figcaption", {}, element("h3", {}, title), this.when, element("div", { class: "legend" }, legend)), this.picture);
    new ResizeObserver(() => this.draw()).observe(this.node);
    this.picture.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.picture.addEventListener("pointerleave", () => this.point(null));
  }

  update(points, span, step, now) {
    Object.assign(this, { points, span, step, now });
    this.draw();
  }

  point(x) {
    this.at = x;
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth - 2;
    if (width < 120) return;
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const x = (time) => right - ((this.now - time) / this.span) * (right - MARGIN.left);
    const seen = this.points.filter((point) => x(point.at_ms) >= MARGIN.left - 1);
    const top = ceiling(Math.max(this.least, ...seen.flatMap((point) => this.series.map(({ value }) => value(point) ?? 0))));
    const y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.picture.setAttribute("width", width);
    const chosen = this.at === null ? null : nearest(seen, (point) => Math.abs(x(point.at_ms) - this.at));
    this.picture.replaceChildren(
      ...[0, top / 2, top].map((value) => this.level(value, y(value), right)),
      ...this.times(x, bottom),
      ...this.series.toReversed().flatMap((one) => this.lines(one, seen, x, y, bottom)),
      ...(chosen ? [svg("path", { d: `M${x(chosen.at_ms)} ${MARGIN.top}V${bottom}`, class: "cursor" })] : []),
    );
    this.tell(seen, chosen);
  }

  level(value, y, right) {
    return svg("g", {}, svg("path", { d: `M${MARGIN.left} ${y}H${right}`, class: "grid" }),
      svg("text", { x: MARGIN.left - 6, y: y + 3.5, "text-anchor": "end" }, this.format(value)));
  }

  times(x, bottom) {
    const minutes = this.span / 60_000;
    const every = minutes > 10 ? 15 : 1;
    const marks = Array.from({ length: minutes / every + 1 }, (_, index) => index * every);
    return marks.map((minute) => {
      const at = x(this.now - minute * 60_000);
      const anchor = minute === 0 ? "end" : "middle";
      return svg("text", { x: at, y: bottom + 17, "text-anchor": anchor }, minute === 0 ? "now" : `−${minute} min`);
    });
  }

  // Lines break where nothing is known, or nothing was sampled.
  lines({ value, kind }, points, x, y, bottom) {
    const runs = [];
    let last = null;
    for (const point of points) {
      const height = value(point);
      if (height === null) {
        last = null;
        continue;
      }
      if (last === null || point.at_ms - last > this.step * 3) runs.push([]);
      runs.at(-1).push(`${x(point.at_ms).toFixed(1)} ${y(height).toFixed(1)}`);
      last = point.at_ms;
    }
    return runs.flatMap((run) => {
      const line = svg("path", { d: `M${run.join("L")}${run.length === 1 ? "h0.1" : ""}`, class: `line ${kind}` });
      if (kind !== "main") return [line];
      const edge = (place) => run.at(place).split(" ")[0];
      return [svg("path", { d: `M${edge(0)} ${bottom}L${run.join("L")}L${edge(-1)} ${bottom}Z`, class: "area" }), line];
    });
  }

  tell(seen, chosen) {
    const point = chosen ?? seen.at(-1);
    this.series.forEach(({ value }, index) => {
      say(this.values[index], this.format(point ? value(point) : null));
    });
    say(this.when, chosen ? ago((this.now - chosen.at_ms) / 1_000) : "");
    const sentences = this.series.map(({ name, value }) => {
      const known = seen.map(value).filter((number) => number !== null);
      if (known.length === 0) return `${name}: nothing yet`;
      const [least, most] = [Math.min(...known), Math.max(...known)];
      return `${name}: now ${this.format(known.at(-1))}, between ${this.format(least)} and ${this.format(most)}`;
    });
    const text = `${this.title} over the last ${this.span / 60_000} minutes. ${sentences.join(". ")}.`;
    this.picture.setAttribute("aria-label", text);
  }
}

// A line without axes, for a cell of a table.
export function sparkline(values, most) {
  const [width, height] = [120, 22];
  const top = Math.max(1e-9, ...values);
  const place = (value, index) =>
    `${(width - (values.length - 1 - index) * (width / (most - 1))).toFixed(1)} ${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`;
  const line = values.map(place).join("L");
  return svg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    values.length > 1 ? svg("path", { d: `M${line}`, class: "line main" }) : null);
}

// The next of 1, 2, 5, 10 … that is not below.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function nearest(list, distance) {
  return list.reduce((best, one) => (best === null || distance(one) < distance(best) ? one : best), null);
}
