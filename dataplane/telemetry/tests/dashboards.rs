//! The dashboards and alerts that are given away: every series and label that they name exists, and Grafana and
//! Prometheus can read them.

use serde_json::Value;
use sluicegate_telemetry::metrics::{MetricInfo, MetricKind, TABLE};
use sluicegate_telemetry::{FaultReason, LimitName};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Labels that Prometheus itself puts on what it scrapes.
const OF_SCRAPE: [&str; 2] = ["instance", "job"];

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboards() -> Vec<(String, Value)> {
    let folder = std::fs::read_dir(deploy("dashboards")).expect("deploy/dashboards");
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let parsed = paths.into_iter().map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let value =
            serde_json::from_str(&read(&format!("dashboards/{name}"))).unwrap_or_else(|why| panic!("{name}: {why}"));
        (name, value)
    });
    parsed.collect()
}

fn alerts() -> Vec<Value> {
    let rules: Value = yaml_serde::from_str(&read("alerts/sluicegate.yaml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {value}"))
}

/// A metric by the name of one of its series.
fn metric(series: &str) -> Option<&'static MetricInfo> {
    let ends: &[&str] = &["", "_bucket", "_sum", "_count"];
    TABLE.iter().find(|info| {
        ends.iter().any(|end| {
            let has_it = match info.kind {
                MetricKind::Counter | MetricKind::Gauge => end.is_empty(),
                MetricKind::Histogram => !end.is_empty(),
                MetricKind::Summary => matches!(*end, "_sum" | "_count"),
            };
            has_it && series.strip_suffix(end) == Some(info.name)
        })
    })
}

/// What stands in an expression, as far as names go.
#[derive(Debug, Default)]
struct Scan {
    /// Series with the labels that they are chosen by and the values wanted.
    series: Vec<(String, Vec<(String, String)>)>,
    /// Labels behind `by`, and the series of the group that follows.
    grouped: Vec<(String, Vec<String>)>,
    complaints: Vec<String>,
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':' | '$')
}

/// Reads a PromQL expression: names, what is between braces, what is behind `by`.
fn scan(expression: &str) -> Scan {
    const FUNCTIONS: [&str; 15] = [
        "sum",
        "max",
        "min",
        "count",
        "avg",
        "rate",
        "increase",
        "changes",
        "topk",
        "sort",
        "time",
        "histogram_quantile",
        "and",
        "or",
        "unless",
    ];
    let mut found = Scan::default();
    let mut rest = expression;
    while let Some(at) = rest.find(|character: char| character.is_ascii_alphabetic() || character == '_') {
        // A duration such as 5m is no name.
        if rest[..at].ends_with(|character: char| character.is_ascii_digit() || character == '$') {
            rest = rest[at..].trim_start_matches(is_word);
            continue;
        }
        let name: String = rest[at..].chars().take_while(|character| is_word(*character)).collect();
        rest = &rest[at + name.len()..];
        if name == "by" {
            let (labels, after) =
                rest.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')')).expect("labels");
            let inside = scan(balanced(after.trim_start()));
            let series: Vec<String> = inside.series.into_iter().map(|(name, _)| name).collect();
            found.grouped.extend(labels.split(',').map(|label| (label.trim().to_owned(), series.clone())));
            rest = after;
        } else if metric(&name).is_some() {
            let mut matchers = Vec::new();
            if let Some((inside, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                for matcher in inside.split("\",").filter(|matcher| !matcher.is_empty()) {
                    let (label, value) = matcher.split_once('"').unwrap_or((matcher, ""));
                    let label = label.trim_end_matches(['=', '~', '!']).to_owned();
                    matchers.push((label, value.trim_end_matches('"').to_owned()));
                }
                rest = after;
            }
            found.series.push((name, matchers));
        } else if !FUNCTIONS.contains(&name.as_str()) {
            found.complaints.push(format!("{name} is neither a series nor a function"));
        }
    }
    found
}

/// The text up to the parenthesis that closes the first one.
fn balanced(text: &str) -> &str {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        depth += i32::from(character == '(') - i32::from(character == ')');
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

fn has_label(series: &str, label: &str) -> bool {
    let is_le = label == "le" && series.ends_with("_bucket");
    is_le || OF_SCRAPE.contains(&label) || metric(series).is_some_and(|info| info.labels.contains(&label))
}

/// What is wrong with an expression.
fn complaints(expression: &str) -> Vec<String> {
    let scan = scan(expression);
    let mut complaints = scan.complaints;
    if scan.series.is_empty() {
        complaints.push("it names no series".to_owned());
    }
    for (series, matchers) in &scan.series {
        for (label, value) in matchers {
            if !has_label(series, label) {
                complaints.push(format!("{series} has no label {label}"));
            }
            let members: Vec<&str> = match (series.as_str(), label.as_str()) {
                ("sluicegate_faults_total", "reason") => FaultReason::ALL.iter().map(|one| one.as_str()).collect(),
                ("sluicegate_limit_exceeded_total", "limit") => LimitName::ALL.iter().map(|one| one.as_str()).collect(),
                _ => continue,
            };
            for wanted in value.split('|') {
                let exists = match wanted.strip_suffix(".*") {
                    Some(beginning) => members.iter().any(|member| member.starts_with(beginning)),
                    None => members.contains(&wanted),
                };
                if !exists {
                    complaints.push(format!("{series} has no {label} {wanted}"));
                }
            }
        }
    }
    for (label, series) in &scan.grouped {
        let lacking = series.iter().filter(|series| !has_label(series, label));
        complaints.extend(lacking.map(|series| format!("{series} has no label {label} to group by")));
    }
    complaints
}

/// Labels that an expression's result can have.
fn labels_of(expression: &str) -> BTreeSet<String> {
    let scan = scan(expression);
    let all = scan.series.iter().filter_map(|(series, _)| metric(series)).flat_map(|info| info.labels);
    let all: BTreeSet<String> = all.map(|label| (*label).to_owned()).chain(OF_SCRAPE.map(str::to_owned)).collect();
    let grouped: BTreeSet<String> = scan.grouped.into_iter().map(|(label, _)| label).collect();
    if grouped.is_empty() { all } else { grouped }
}

/// `$labels.name` and `{{name}}` in words around an expression.
fn labels_in_words(words: &str) -> Vec<String> {
    let inside = words.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(inside, _)| inside.trim());
    let named = inside.filter(|inside| !inside.starts_with("$value"));
    named.map(|inside| inside.trim_start_matches("$labels.").to_owned()).collect()
}

#[test]
fn dashboards_name_series_and_labels_that_exist() {
    let mut expressions = 0;
    for (name, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = text(target, "expr");
                assert_eq!(complaints(expression), Vec::<String>::new(), "{name}: {}: {expression}", panel["title"]);
                for label in labels_in_words(text(target, "legendFormat")) {
                    assert!(labels_of(expression).contains(&label), "{name}: {}: {label}", panel["title"]);
                }
                expressions += 1;
            }
        }
        for variable in dashboard["templating"]["list"].as_array().expect("variables") {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let asked = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) =
                asked.and_then(|asked| asked.rsplit_once(", ")).expect("label_values(series, label)");
            assert_eq!(complaints(selector), Vec::<String>::new(), "{name}: {query}");
            let series = &scan(selector).series[0].0;
            assert!(has_label(series, label), "{name}: {query}");
        }
    }
    assert!(expressions > 60, "{expressions}");
}

#[test]
fn dashboards_are_what_grafana_imports() {
    let mut uids = BTreeSet::new();
    let all = dashboards();
    assert_eq!(all.len(), 4);
    for (name, dashboard) in all {
        assert!(dashboard["schemaVersion"].as_u64() >= Some(36), "{name}");
        assert!(uids.insert(text(&dashboard, "uid").to_owned()), "{name}: its uid is another's");
        let variables = dashboard["templating"]["list"].as_array().expect("variables");
        let variables: BTreeSet<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
        assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource", "{name}");
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let title = text(panel, "title");
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{name}: {title}: the id is another's");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|part| panel["gridPos"][part].as_u64().expect("a place"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{name}: {title} lies on another panel");
            }
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}: {title}");
                for variable in text(target, "expr").split('$').skip(1) {
                    let variable: String =
                        variable.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect();
                    let is_known = variable == "__rate_interval" || variables.contains(variable.as_str());
                    assert!(is_known, "{name}: {title}: ${variable} is no variable");
                }
            }
        }
    }
}

#[test]
fn alerts_name_series_and_labels_that_exist_and_say_what_to_do() {
    let alerts = alerts();
    assert!(alerts.len() >= 15, "{}", alerts.len());
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = text(&alert, "alert").to_owned();
        let expression = text(&alert, "expr");
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert_eq!(complaints(expression), Vec::<String>::new(), "{name}: {expression}");
        assert!(["info", "warning", "critical"].contains(&text(&alert["labels"], "severity")), "{name}");
        let duration = text(&alert, "for");
        assert!(duration.len() >= 2 && duration.ends_with(['m', 'h']), "{name}: for {duration}");
        for field in ["summary", "description", "action"] {
            let words = text(&alert["annotations"], field);
            assert!(words.len() > 10, "{name}: {field}");
            for label in labels_in_words(words) {
                assert!(labels_of(expression).contains(&label), "{name}: {field}: {label}");
            }
        }
    }
}

#[test]
fn the_chart_brings_the_same_alerts_and_dashboards() {
    assert_eq!(read("alerts/sluicegate.yaml"), read("helm/sluicegate/files/alerts.yaml"));
    let names = |folder: &str| -> BTreeSet<_> {
        let files = std::fs::read_dir(deploy(folder)).expect("a folder");
        files.map(|file| file.expect("a file").file_name()).collect()
    };
    let dashboards = names("dashboards");
    assert_eq!(dashboards, names("helm/sluicegate/files/dashboards"));
    for name in dashboards.iter().filter_map(|name| name.to_str()) {
        assert!(
            read(&format!("dashboards/{name}")) == read(&format!("helm/sluicegate/files/dashboards/{name}")),
            "copy deploy/dashboards/{name} into the chart"
        );
    }
}

#[test]
fn what_does_not_exist_is_complained_about() {
    for (expression, complaint) in [
        ("sum(rate(sluicegate_request_total[5m]))", "sluicegate_request_total is neither a series nor a function"),
        (
            "sluicegate_request_duration_seconds",
            "sluicegate_request_duration_seconds is neither a series nor a function",
        ),
        ("sluicegate_generation{vip=\"a\"}", "sluicegate_generation has no label vip"),
        ("sum by (vip) (sluicegate_generation)", "sluicegate_generation has no label vip to group by"),
        (
            "rate(sluicegate_faults_total{reason=~\"nothing_.*\"}[5m]) > 0",
            "sluicegate_faults_total has no reason nothing_.*",
        ),
        ("1 > 0", "it names no series"),
    ] {
        assert!(
            complaints(expression).iter().any(|one| one == complaint),
            "{expression}: {:?}",
            complaints(expression)
        );
    }
}
