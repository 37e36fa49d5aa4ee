// Numbers, times and names for people, in English, with units.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export const UNKNOWN = "–";

export function count(value) {
  return value === null || value === undefined ? UNKNOWN : whole.format(value);
}

// Three digits that matter.
function short(value) {
  if (value >= 100 || value === 0) return whole.format(value);
  return value >= 10 ? one.format(value) : two.format(value);
}

// A number and its unit, with a prefix where it is large.
export function scaled(value, unit) {
  if (value === null || value === undefined) return [UNKNOWN, unit];
  const prefixes = ["", "k", "M", "G", "T"];
  let scale = 0;
  while (value >= 9_999.5 && scale < prefixes.length - 1) {
    value /= 1_000;
    scale += 1;
  }
  return [short(value), prefixes[scale] + unit];
}

export function rate(value) {
  return scaled(value, "/s").join(" ");
}

export function bits(value) {
  return scaled(value, "bit/s").join(" ");
}

export function bytes(value) {
  return value === null || value === undefined ? UNKNOWN : scaled(value, "B").join(" ");
}

export function millis(value) {
  return durationParts(value).join(" ");
}

export function durationParts(value) {
  if (value === null || value === undefined) return [UNKNOWN, "ms"];
  return value >= 1_000 ? [short(value / 1_000), "s"] : [short(value), "ms"];
}

// A span of seconds in the largest unit that says enough.
export function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
  return `${whole.format(Math.floor(seconds / 86_400))} days`;
}

export function ago(seconds) {
  return seconds < 2 ? "just now" : `${span(seconds)} ago`;
}

// `2026-01-31 13:05:09`, in the time zone of who reads.
export function clock(ms) {
  const time = new Date(ms);
  const pad = (number) => String(number).padStart(2, "0");
  const date = `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())}`;
  return `${date} ${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}`;
}

export function plural(number, singular, many = `${singular}s`) {
  return `${count(number)} ${number === 1 ? singular : many}`;
}

// `redirect_append_slash` as people write it.
export function words(name) {
  return name.replaceAll("_", " ");
}
