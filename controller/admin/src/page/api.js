// What is asked of the gateway: documents, and events as they happen. Nothing is changed.

const KEY = "sluicegate-token";
// Without an event for so long the page is stale, and after the second the connection is made anew.
const STALE_MS = 4_000;
const DEAD_MS = 12_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8_000;

let memory = null;

// The token, kept for this tab alone.
export const token = {
  read() {
    try {
      return sessionStorage.getItem(KEY) ?? memory;
    } catch {
      return memory;
    }
  },
  keep(text) {
    memory = text;
    try {
      sessionStorage.setItem(KEY, text);
    } catch {
      // It is kept in this page's memory then.
    }
  },
  forget() {
    memory = null;
    try {
      sessionStorage.removeItem(KEY);
    } catch {
      // It was never there.
    }
  },
};

// The gateway wants a token, or another one.
export class TokenWanted extends Error {}

// An answer that is an error, with what to do.
export class Refused extends Error {
  constructor(status, { error, remedy }) {
    super(error);
    this.status = status;
    this.remedy = remedy;
  }
}

async function ask(path, signal) {
  const known = token.read();
  const headers = known ? { Authorization: `Bearer ${known}` } : {};
  const answer = await fetch(path, { headers, signal, cache: "no-store", credentials: "omit" });
  if (answer.status === 401) throw new TokenWanted();
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ error: `HTTP ${answer.status}`, remedy: "see the log" }));
    throw new Refused(answer.status, problem);
  }
  return answer;
}

// One section of the state.
export async function section(name) {
  return (await ask(`/api/v1/state?${new URLSearchParams({ section: name })}`)).json();
}

// Who takes a URL, or a packet.
export async function explain(target) {
  const kind = /^(tcp|udp|sctp|icmp)[a-z0-9]*,/i.test(target) ? "packet" : "url";
  return { kind, told: await (await ask(`/api/v1/explain?${new URLSearchParams({ [kind]: target })}`)).json() };
}

// Follows events for as long as the page is seen, and comes back by itself. `on.event(name, data)` is told each,
// `on.link(state)` how the connection does (`connecting`, `live`, `stale`), `on.token()` that a token is wanted,
// `on.refused(error)` why there are no events.
export function follow(on) {
  let heard = 0;
  let attempt = null;
  let pause = FIRST_PAUSE_MS;
  let waiting = null;

  async function read() {
    waiting = null;
    attempt = new AbortController();
    const own = attempt;
    heard = Date.now();
    try {
      const answer = await ask("/api/v1/events", own.signal);
      for await (const [name, data] of events(answer.body)) {
        heard = Date.now();
        pause = FIRST_PAUSE_MS;
        on.link("live");
        on.event(name, data);
      }
    } catch (error) {
      if (error instanceof TokenWanted) {
        attempt = null;
        on.token();
        return;
      }
      if (error instanceof Refused) on.refused(error);
    }
    if (attempt === own) again();
  }

  function again() {
    attempt = null;
    on.link("stale");
    waiting = setTimeout(read, pause);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }

  function begin() {
    clearTimeout(waiting);
    pause = FIRST_PAUSE_MS;
    if (attempt === null) read();
  }

  setInterval(() => {
    if (attempt === null) return;
    const silence = Date.now() - heard;
    if (silence > STALE_MS) on.link("stale");
    if (silence > DEAD_MS) {
      const old = attempt;
      again();
      old.abort();
    }
  }, 1_000);
  // Nobody looks: nobody is sampled for. The history fills the gap when somebody does again.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) begin();
    else if (attempt !== null) {
      const old = attempt;
      attempt = null;
      old.abort();
    }
  });
  on.link("connecting");
  begin();
  return { begin };
}

// Takes server-sent events apart: `event:` and `data:` lines, an empty line after each.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const [name, data] = [field("event"), field("data")];
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}
