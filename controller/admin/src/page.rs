//! `/`: what the gateway has, on one page without scripts and without anything fetched from elsewhere.

use crate::source::SourceState;
use crate::state::{BackendState, RejectionState, RouteState, State};
use sluicegate_telemetry::{FaultReason, ListenerKind, Metrics};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Rows of a table; the API has the rest.
const MOST_ROWS: usize = 500;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --dim: #777; --good: #18794e; --bad: #c62a2f; }
@media (prefers-color-scheme: dark) { :root { --dim: #999; --good: #4cc38a; --bad: #ff8589; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; } dt { color: var(--dim); font-size: .85rem; }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: var(--dim); }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); } code { overflow-wrap: anywhere; }
";

/// The page of a state.
pub(crate) fn render(state: &State, metrics: &Metrics) -> String {
    let mut page = String::with_capacity(32 * 1024);
    // Writing into a String cannot fail.
    let _written = write_page(&mut page, state, metrics);
    page
}

fn write_page(page: &mut String, state: &State, metrics: &Metrics) -> fmt::Result {
    let routes = state.routes.as_deref().unwrap_or_default();
    let backends = state.backends.as_deref().unwrap_or_default();
    let rejections = state.rejections.as_deref().unwrap_or_default();
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluicegate</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head><body>\n\
         <h1>Sluicegate {}</h1>\n",
        Text(&state.version)
    )?;
    if state.ready {
        page.push_str("<p class=\"good\">Ready</p>\n");
    } else {
        writeln!(page, "<p class=\"bad\">Not ready: {}</p>", Text(&state.not_ready_reasons.join("; ")))?;
    }
    if let Some(source) = &state.source {
        write_source(page, source)?;
    }
    let hosts = hosts(routes);
    let endpoints: usize = backends.iter().map(|backend| backend.endpoints.len()).sum();
    let connections: u64 = ListenerKind::ALL.iter().map(|kind| metrics.connections(*kind)).sum();
    page.push_str("<dl>");
    for (name, count) in [
        ("Generation", state.generation),
        ("Hosts", hosts.len() as u64),
        ("Routes", routes.len() as u64),
        ("Backends", backends.len() as u64),
        ("Endpoints", endpoints as u64),
        ("Certificates", state.certificates.as_ref().map_or(0, Vec::len) as u64),
        ("Virtual IPs", state.vips.as_ref().map_or(0, Vec::len) as u64),
        ("Rejections", rejections.len() as u64),
        ("Connections", connections),
        ("Requests", metrics.requests()),
    ] {
        write!(page, "<div><dt>{name}</dt><dd>{count}</dd></div>")?;
    }
    page.push_str("</dl>\n");
    write_hosts(page, &hosts)?;
    write_unavailable(page, backends)?;
    write_faults(page, metrics)?;
    let failing = state.source.as_ref().map(|source| source.failing.as_slice()).unwrap_or_default();
    if !failing.is_empty() {
        table(page, "Watches of the API server that fail", &["Watch", "Why"], failing, |watch| {
            vec![watch.watch.clone(), watch.error.clone()]
        })?;
    }
    write_rejections(page, rejections)?;
    page.push_str(
        "<p>More: <a href=\"/api/v1/state\"><code>/api/v1/state</code></a>, <code>/api/v1/explain?url=…</code></p>\n\
         </body></html>\n",
    );
    Ok(())
}

fn write_source(page: &mut String, source: &SourceState) -> fmt::Result {
    if let Some(remark) = source.remark() {
        return writeln!(page, "<p class=\"bad\">{}</p>", Text(&capitalized(&remark)));
    }
    let heard =
        source.heard_seconds_ago.map_or("not heard of yet".to_owned(), |seconds| format!("heard of {seconds} s ago"));
    writeln!(page, "<p>API server {}: {heard}</p>", Text(&source.api_server))
}

fn capitalized(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[derive(Default)]
struct Host<'a> {
    dialect: &'a str,
    routes: usize,
    ingresses: Vec<&'a str>,
}

/// Hosts in the order of the state, which is that of precedence.
fn hosts(routes: &[RouteState]) -> Vec<(&str, Host<'_>)> {
    let mut hosts: Vec<(&str, Host<'_>)> = Vec::new();
    for route in routes {
        if hosts.last().is_none_or(|(host, _)| *host != route.host) {
            hosts.push((&route.host, Host { dialect: &route.dialect, ..Host::default() }));
        }
        if let Some((_, host)) = hosts.last_mut() {
            host.routes += 1;
            if host.ingresses.last() != Some(&route.ingress.as_str()) {
                host.ingresses.push(&route.ingress);
            }
        }
    }
    for (_, host) in &mut hosts {
        host.ingresses.sort_unstable();
        host.ingresses.dedup();
    }
    hosts
}

fn write_hosts(page: &mut String, hosts: &[(&str, Host<'_>)]) -> fmt::Result {
    table(page, "Hosts", &["Host", "Dialect", "Routes", "Ingresses"], hosts, |(name, host)| {
        let more = host.ingresses.len().saturating_sub(3);
        let mut ingresses = host.ingresses.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        if more > 0 {
            ingresses = format!("{ingresses} and {more} more");
        }
        vec![(*name).to_owned(), host.dialect.to_owned(), host.routes.to_string(), ingresses]
    })
}

fn write_unavailable(page: &mut String, backends: &[BackendState]) -> fmt::Result {
    let empty: Vec<&BackendState> =
        backends.iter().filter(|backend| backend.endpoints.is_empty() && backend.external.is_none()).collect();
    if empty.is_empty() {
        return Ok(());
    }
    table(page, "Backends without endpoints", &["Backend", "Why"], &empty, |backend| {
        vec![backend.id.clone(), backend.unavailable.clone().unwrap_or_else(|| "nothing is ready".to_owned())]
    })
}

fn write_faults(page: &mut String, metrics: &Metrics) -> fmt::Result {
    let faults: BTreeMap<&str, u64> = FaultReason::ALL
        .iter()
        .map(|reason| (reason.as_str(), metrics.faults(*reason)))
        .filter(|(_, count)| *count > 0)
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    let rows: Vec<(&str, u64)> = faults.into_iter().collect();
    table(page, "Answered or closed by the gateway itself", &["Reason", "Count"], &rows, |(reason, count)| {
        vec![(*reason).to_owned(), count.to_string()]
    })
}

fn write_rejections(page: &mut String, rejections: &[RejectionState]) -> fmt::Result {
    if rejections.is_empty() {
        return write!(
            page,
            "<h2>Rejections</h2>\n<p class=\"good\">None: everything is served as it is written.</p>\n"
        );
    }
    table(page, "Rejections", &["Verdict", "Object", "Field", "Why", "What to do"], rejections, |rejection| {
        let object = &rejection.object;
        let slash = if object.namespace.is_empty() { "" } else { "/" };
        vec![
            rejection.verdict.clone(),
            format!("{} {}{slash}{}", object.kind, object.namespace, object.name),
            rejection.field.clone(),
            rejection.reason.clone(),
            rejection.remedy.clone(),
        ]
    })
}

fn table<T>(
    page: &mut String,
    title: &str,
    columns: &[&str],
    rows: &[T],
    cells: impl Fn(&T) -> Vec<String>,
) -> fmt::Result {
    write!(page, "<h2>{title}</h2>\n<div class=\"scroll\"><table>")?;
    if rows.len() > MOST_ROWS {
        write!(page, "<caption>The first {MOST_ROWS} of {}</caption>", rows.len())?;
    }
    page.push_str("<thead><tr>");
    for column in columns {
        write!(page, "<th scope=\"col\">{column}</th>")?;
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in rows.iter().take(MOST_ROWS) {
        page.push_str("<tr>");
        for cell in cells(row) {
            write!(page, "<td>{}</td>", Text(&cell))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
    Ok(())
}

/// Text inside an element: what objects say must not become markup.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
