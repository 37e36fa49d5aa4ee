//! What the documents list is what the code has: annotations, metrics, reasons, limits and their defaults.
//!
//! It tests no behaviour of the gateway, and reads no prose: only tables and lists that a change of the code would
//! make wrong without anybody noticing.

use sluicegate_admin::packets::{PacketsState, PortState, PortTraffic, ReasonCount};
use sluicegate_admin::source::{FailingWatch, SourceState};
use sluicegate_proxy::{Limits, Timeouts};
use sluicegate_source::rights::RIGHTS;
use sluicegate_telemetry::access_log::VARIABLES;
use sluicegate_telemetry::metrics::TABLE;
use sluicegate_telemetry::redact::SECRET;
use sluicegate_telemetry::request_json::{REQUEST_FIELDS, TRY_FIELDS};
use sluicegate_telemetry::{FaultReason, LimitName, NGINX_TABLE, UpstreamError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn every_metric_is_listed_as_it_is() {
    let listed = rows_below(&read("docs/operating.md"), "## Metrics");
    let listed: BTreeMap<String, Vec<String>> = listed.into_iter().map(|mut row| (row.remove(0), row)).collect();
    for metric in TABLE {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        let row = vec![metric.kind.as_str().to_owned(), labels, metric.help.trim_end_matches('.').to_owned()];
        assert_eq!(listed.get(&format!("`{}`", metric.name)), Some(&row), "{}", metric.name);
    }
    assert_eq!(listed.len(), TABLE.len(), "a metric is listed that does not exist");
}

#[test]
fn every_name_of_ingress_nginx_is_listed_as_it_is() {
    let listed = rows_below(&read("docs/operating.md"), "### The names of ingress-nginx");
    let expected: Vec<Vec<String>> = NGINX_TABLE
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
            let help = metric.help.trim_end_matches('.').to_owned();
            vec![format!("`{}`", metric.name), metric.kind.as_str().to_owned(), labels, help]
        })
        .collect();
    assert_eq!(listed, expected);
}

#[test]
fn every_reason_and_limit_is_explained() {
    let text = read("docs/operating.md");
    let listed: BTreeSet<String> =
        rows_below(&text, "## Troubleshooting by reason").into_iter().map(|mut row| row.remove(0)).collect();
    let reasons: BTreeSet<String> = FaultReason::ALL.iter().map(|reason| format!("`{reason}`")).collect();
    assert_eq!(listed, reasons);
    let limits = section(&text, "## Limits and defaults");
    for limit in LimitName::ALL {
        assert!(limits.contains(&format!("`{limit}`")), "limit {limit}");
    }
    let attempts = section(&text, "## Troubleshooting by reason");
    for error in UpstreamError::ALL {
        assert!(attempts.contains(&format!("`{error}`")), "upstream error {error}");
    }
}

#[test]
fn defaults_are_those_of_the_code() {
    let expected = defaults();
    for (document, heading) in
        [("docs/operating.md", "## Limits and defaults"), ("README.md", "## Limits and defaults")]
    {
        let rows = rows_below(&read(document), heading);
        assert!(rows.len() >= 8, "{document}: {} rows", rows.len());
        for row in &rows {
            let Some(value) = expected.get(row[0].as_str()) else { continue };
            assert_eq!(&row[1], value, "{document}: {}", row[0]);
        }
        let known = rows.iter().filter(|row| expected.contains_key(row[0].as_str())).count();
        let wanted = if document == "README.md" { 8 } else { expected.len() };
        assert!(known >= wanted, "{document} says {known} of the defaults that are known here");
    }
}

#[test]
fn every_annotation_is_listed_under_what_it_does() {
    let table = read("controller/translate/src/annotations/table.rs");
    let text = read("docs/manifests.md");
    let mut rows = 0;
    for effect in ["Closes", "Snippet", "Ignored", "Nonexistent"] {
        let in_code = annotations_of(&table, effect);
        let marker = format!("<!-- annotations: {effect} -->");
        let list = text.split(&marker).nth(1).unwrap_or_else(|| panic!("{marker} is missing"));
        let list = list.trim_start().split("\n\n").next().unwrap_or_default();
        assert_eq!(quoted(list), in_code, "{effect}");
        rows += in_code.len();
    }
    let implemented = annotations_of(&table, "Implemented");
    let listed: BTreeSet<String> =
        rows_below(&text, "### Implemented").iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(listed, implemented);
    assert!(rows + implemented.len() > 100, "the table of annotations was read");
}

#[test]
fn every_flag_is_listed() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(["run", "--help"]).output().expect("the binary runs");
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout);
    let offered: BTreeSet<String> = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .map(|word| word.split(['[', '=']).next().unwrap_or_default().to_owned())
        .filter(|flag| flag != "--help")
        .collect();
    assert!(offered.contains("--manifests") && offered.len() > 20, "{offered:?}");
    let text = read("docs/operating.md");
    let rows = rows_below(&text, "### Flags of `run`");
    let listed: BTreeSet<String> = rows
        .iter()
        .filter_map(|row| row[0].trim_start_matches('`').split([' ', '`']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, offered);
}

#[test]
fn every_field_and_variable_of_the_access_log_is_listed() {
    let text = read("docs/operating.md");
    let fields = |fields: &[(&str, &str)]| {
        fields.iter().map(|(name, says)| vec![format!("`{name}`"), (*says).to_owned()]).collect::<Vec<_>>()
    };
    let json = section(&text, "### Lines of JSON");
    let (of_request, of_try) = json.split_once("Each of `tries`").expect("two tables");
    let rows = |part: &str| rows_below(&format!("\n### Fields\n{part}"), "### Fields");
    assert_eq!(rows(of_request), fields(REQUEST_FIELDS));
    assert_eq!(rows(of_try), fields(TRY_FIELDS));
    let variables: Vec<Vec<String>> = VARIABLES
        .iter()
        .map(|(names, says)| {
            let names: Vec<String> = names.iter().map(|name| format!("`${name}`")).collect();
            vec![names.join(", "), (*says).to_owned()]
        })
        .collect();
    assert_eq!(rows_below(&text, "### Lines by a template"), variables);
    let secrets = section(&text, "## The access log");
    for name in SECRET {
        let name = format!("`{}`", String::from_utf8_lossy(name));
        assert!(secrets.contains(&name), "{name} is not listed as redacted");
    }
}

#[test]
fn every_right_is_listed_with_its_reason() {
    let code = |text: &str| if text.is_empty() { "core".to_owned() } else { format!("`{text}`") };
    let list = |texts: &[&str]| texts.iter().map(|text| code(text)).collect::<Vec<_>>().join(", ");
    let expected: Vec<Vec<String>> = RIGHTS
        .iter()
        .map(|right| {
            let accounts: Vec<String> = right.accounts.iter().map(ToString::to_string).collect();
            vec![
                code(right.group),
                code(right.resource),
                list(right.verbs),
                right.reach.to_string(),
                accounts.join(", "),
                right.flag.map_or("-".to_owned(), code),
                right.why.to_owned(),
            ]
        })
        .collect();
    assert_eq!(rows_below(&read("docs/kubernetes.md"), "## Rights"), expected);
}

#[test]
fn every_field_about_packets_is_described() {
    let state = PacketsState {
        ports: vec![PortState { name: String::new(), mode: None, carrier: true }],
        reasons: vec![ReasonCount { verdict: String::new(), reason: String::new(), packets: 0 }],
        ..PacketsState::default()
    };
    let text = read("docs/admin-api.md");
    let vips = section(&text, "### `vips`, by address");
    let described = quoted(vips);
    let source = SourceState {
        failing: vec![FailingWatch { watch: String::new(), error: String::new() }],
        ..SourceState::default()
    };
    let described_everywhere = quoted(&text);
    for name in names(&serde_json::to_value(source).expect("JSON")) {
        assert!(described_everywhere.contains(&name), "docs/admin-api.md does not describe `{name}`");
    }
    for document in [serde_json::to_value(state), serde_json::to_value(PortTraffic::default())] {
        for name in names(&document.expect("JSON")) {
            assert!(described.contains(&name), "docs/admin-api.md does not describe `{name}`");
        }
    }
}

/// Names of all fields of a document, at every depth.
fn names(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [vec![name.clone()], names(value)].concat()).collect()
        }
        serde_json::Value::Array(items) => items.iter().flat_map(names).collect(),
        _ => Vec::new(),
    }
}

/// The first column of the tables of defaults, and what stands beside it.
fn defaults() -> BTreeMap<&'static str, String> {
    let limits = Limits::default();
    let timeouts = Timeouts::default();
    let unlimited = |bytes: u64| if bytes == 0 { "no limit".to_owned() } else { size(bytes as usize) };
    BTreeMap::from([
        ("Bytes of a request head", size(limits.max_head_bytes)),
        ("Fields of a request head", number(limits.max_fields)),
        ("Bytes of the request target", size(limits.max_target_bytes)),
        ("Bytes of a request body (`proxy-body-size` where set)", unlimited(limits.max_body_bytes)),
        ("Bytes of a backend's response head", size(limits.max_response_head_bytes)),
        ("Client connections, all workers together", number(limits.max_connections)),
        ("Concurrent streams of an HTTP/2 connection", number(limits.max_streams as usize)),
        (
            "Stream resets of an HTTP/2 connection, above one for each stream that was let finish",
            number(limits.max_resets as usize),
        ),
        ("Tries of one request", number(limits.max_tries as usize)),
        ("From accept to the end of the TLS handshake, PROXY header included", time(timeouts.handshake)),
        ("From the first byte of a head to its last", time(timeouts.request_head)),
        ("Between two reads of a request body", time(timeouts.request_body)),
        ("A kept connection without a request", time(timeouts.idle)),
        ("A client that takes nothing of its response", time(timeouts.client_write)),
        ("To connect to an endpoint (`proxy-connect-timeout` where set)", time(timeouts.connect)),
        ("Between two reads from an endpoint (`proxy-read-timeout`)", time(timeouts.upstream_read)),
        ("Between two writes to an endpoint (`proxy-send-timeout`)", time(timeouts.upstream_send)),
        (
            "A WebSocket or other upgrade on which nothing moves (`proxy-read-timeout` where set)",
            time(timeouts.upgraded_idle),
        ),
        ("A relayed TCP stream on which nothing moves", time(timeouts.stream_idle)),
    ])
}

fn size(bytes: usize) -> String {
    assert_eq!(bytes % 1024, 0, "defaults are written in KiB");
    format!("{} KiB", bytes / 1024)
}

fn number(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(",")
}

fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 && seconds > 120 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// The keys of the rows `row("key", Effect, …)` with this effect.
fn annotations_of(table: &str, effect: &str) -> BTreeSet<String> {
    let rows = table.split("row(\"").skip(1).filter_map(|row| row.split_once("\", "));
    rows.filter(|(_, rest)| rest.starts_with(&format!("{effect},"))).map(|(key, _)| key.to_owned()).collect()
}

/// What stands in back quotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A section with its subsections.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let level = heading.split(' ').next().unwrap_or_default();
    let below = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading} is missing")).1;
    below.split_once(&format!("\n{level} ")).map_or(below, |(section, _)| section)
}

/// The cells of the first table of a section, without its head.
fn rows_below(text: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = section(text, heading).lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}
