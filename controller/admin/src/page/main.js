// The page: which section is seen, when it is asked for again, and what stands above all of them.

import { Refused, TokenWanted, follow, section, token } from "./api.js";
import { Backends } from "./backends.js";
import { Certificates } from "./certificates.js";
import { Changes } from "./changes.js";
import { element, reconcile, say } from "./dom.js";
import { Explain } from "./explain.js";
import { count, plural, span } from "./format.js";
import { Overview } from "./overview.js";
import { Rejections } from "./rejections.js";
import { Routes } from "./routes.js";
import { Vips } from "./vips.js";

// A section of 20,000 routes is asked for at most so often: ten times as long as the last answer took.
const REST = 10;
const LEAST_REST_MS = 1_000;

const byId = (id) => document.getElementById(id);

const views = {
  overview: new Overview(byId("overview")),
  vips: new Vips(byId("vips")),
  routes: new Routes(byId("routes")),
  explain: new Explain(byId("explain"), failed),
  backends: new Backends(byId("backends")),
  certificates: new Certificates(byId("certificates")),
  rejections: new Rejections(byId("rejections")),
  changes: new Changes(byId("changes")),
};

let current = null;
let status = null;
let link = "connecting";
let heard = null;
let problem = null;
let loading = false;
// For each section: of which state it is, when it was asked for, and when it may be again.
const fetched = {};

function open(byHand) {
  const [name, query] = location.hash.slice(1).split("?");
  const next = views[name] ? name : "overview";
  const changed = next !== current;
  current = next;
  for (const id of Object.keys(views)) byId(id).hidden = id !== next;
  for (const anchor of byId("nav").querySelectorAll("a")) {
    if (anchor.hash === `#${next}`) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  const heading = byId(`${next}-title`);
  document.title = `${heading.textContent} · Sluicegate`;
  views[next].show(Object.fromEntries(new URLSearchParams(query)));
  // Whoever follows a link reads on at its target.
  if (byHand && (changed || !query)) heading.focus({ preventScroll: true });
  if (changed) window.scrollTo(0, 0);
  problem = null;
  refresh();
}

// What makes a section differ from what it was.
function version() {
  return status && `${status.generation} ${status.last_change} ${status.rejected} ${status.ignored} ${status.warnings}`;
}

// Asks for the section that is seen, where it may have changed.
async function refresh() {
  const view = views[current];
  const { needs, also, every } = view;
  if (!needs || loading || (token.read() === null && byId("login").open)) return;
  const known = (fetched[needs] ??= { version: null, after: 0 });
  const now = Date.now();
  const due = known.version === null || known.version !== version() || (every && now - known.at >= every);
  if (!due || now < known.after) return;
  loading = true;
  const asked = version();
  try {
    const begun = performance.now();
    const state = await section(needs);
    if (also) Object.assign(state, await section(also));
    view.update(state);
    const took = performance.now() - begun;
    Object.assign(known, { version: asked ?? "", at: now, after: Date.now() + Math.max(LEAST_REST_MS, took * REST) });
    problem = null;
  } catch (error) {
    known.after = now + LEAST_REST_MS;
    failed(error);
  } finally {
    loading = false;
  }
  notices();
  if (views[current] !== view) refresh();
}

function failed(error) {
  if (error instanceof TokenWanted) return wantToken();
  problem = error instanceof Refused ? `${error.message}; ${error.remedy}` : "The gateway does not answer; what is here is what it said last.";
  notices();
}

// What the page's head says: ready or not, live or not, and how much there is of what.
function head() {
  const standing = byId("standing");
  const [text, kind] = status === null ? ["Connecting", ""] : status.ready ? ["Ready", "good"] : ["Not ready", "bad"];
  say(standing, text);
  standing.className = `pill ${link === "stale" ? "" : kind}`;
  const age = heard === null ? "" : ` for ${span((Date.now() - heard) / 1_000)}`;
  say(byId("link"), { live: "Live", connecting: "Connecting", stale: `Stale${age}` }[link]);
  byId("link").className = `pill ${link === "stale" ? "warn" : "quiet"} ${link}`;
  document.body.dataset.link = link;
  if (status === null) return;
  say(byId("version"), status.version);
  const objects = status.objects ?? {};
  const counts = { ...objects, rejections: status.rejected + status.ignored + status.warnings };
  for (const badge of document.querySelectorAll("[data-count]")) {
    const number = counts[badge.dataset.count] ?? 0;
    say(badge, number > 0 ? count(number) : "");
    badge.classList.toggle("warn", badge.dataset.count === "rejections" && status.rejected > 0);
  }
}

// What an operator must see, whichever section is open.
function notices() {
  const lines = [];
  if (link === "stale") lines.push(["warn", `Stale: ${heard === null ? "the gateway has not been heard of yet" : `last heard of ${span((Date.now() - heard) / 1_000)} ago`}. Trying again by itself.`]);
  if (problem) lines.push(["bad", problem]);
  if (status) {
    if (!status.ready) lines.push(["bad", `Not ready: ${status.reasons.join("; ")}.`]);
    for (const remark of status.remarks) lines.push(["warn", `${remark.charAt(0).toUpperCase()}${remark.slice(1)}.`]);
    const failing = status.source?.failing ?? [];
    if (failing.length) lines.push(["warn", `${plural(failing.length, "watch", "watches")} of the API server failing: ${failing.slice(0, 3).map(({ watch, error }) => `${watch} (${error})`).join("; ")}.`]);
    const { director } = status;
    if (director?.reason && !director.fit && !director.cordoned) lines.push(["warn", `The director may hold no virtual IPs: ${director.reason}.`]);
    if (director?.cordoned) lines.push(["warn", "The director is cordoned: it forwards and votes, and holds no virtual IPs. sluicegate uncordon lets it back in."]);
  }
  const old = new Map([...byId("notices").children].map((node) => [node.textContent, node]));
  reconcile(byId("notices"), lines.map(([kind, text]) => old.get(text) ?? element("p", { class: `notice ${kind}` }, text)));
}

// Screen readers hear of what turned, not of every second.
let announced = "";
function announce() {
  const text = [{ live: "", connecting: "", stale: "The page is stale" }[link], status && (status.ready ? "The gateway is ready" : `The gateway is not ready: ${status.reasons.join("; ")}`)].filter(Boolean).join(". ");
  if (text !== announced) {
    announced = text;
    say(byId("announce"), text);
  }
}

function wantToken() {
  const wrong = token.read() !== null;
  token.forget();
  say(byId("login-error"), wrong ? "The gateway does not take this token." : "");
  if (!byId("login").open) byId("login").showModal();
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.keep(byId("token").value.trim());
  byId("token").value = "";
  byId("login").close();
  connection.begin();
  refresh();
});
// Without the token there is nothing to see behind it.
byId("login").addEventListener("cancel", (event) => event.preventDefault());

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});

const connection = follow({
  event(name, data) {
    heard = Date.now();
    // Another version has another page.
    if (name === "status" && status && status.version !== data.version) location.reload();
    if (name === "status") status = data;
    views.overview.event(name, data);
    if (name === "status") {
      head();
      notices();
      announce();
      refresh();
    }
  },
  link(state) {
    const turned = state !== link;
    link = state;
    head();
    if (turned || state === "stale") notices();
    if (turned) announce();
  },
  token: wantToken,
  refused: failed,
});

window.addEventListener("hashchange", () => open(true));
open(false);
