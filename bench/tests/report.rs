//! Reports through the command that shows them: a made-up one as Markdown and as a page. With `UPDATE_GOLDEN=1` the
//! expected texts are written anew.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn made_up() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/made-up")
}

fn report(arguments: &[&Path]) -> Output {
    let bench = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench")).arg("report").args(arguments).output();
    bench.expect("it runs")
}

/// The page of the made-up reports.
fn page() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = report(&[&made_up(), Path::new("--report"), folder.path()]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    std::fs::read_to_string(folder.path().join("index.html")).expect("a page")
}

fn compare(name: &str, is: &str) {
    let expected = made_up().join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, is).expect("written");
    }
    let should = std::fs::read_to_string(&expected).unwrap_or_default();
    let differs = is.lines().zip(should.lines()).find(|(is, should)| is != should);
    assert!(is == should, "{name} is not as expected; first difference: {differs:?}");
}

#[test]
fn markdown_is_as_expected() {
    let shown = report(&[&made_up()]);
    compare("expected.md", &String::from_utf8(shown.stdout).expect("UTF-8"));
}

#[test]
fn the_page_is_as_expected() {
    compare("expected.html", &page());
}

#[test]
fn the_page_is_well_formed() {
    let page = page();
    let elements = elements(&page);
    assert!(elements > 300, "{elements} elements");
    let mut ids: Vec<&str> = attributes(&page, "id").collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "each id is there once");
    for labels in attributes(&page, "aria-labelledby") {
        assert!(labels.split(' ').all(|label| ids.contains(&label)), "{labels}");
    }
    for link in attributes(&page, "href") {
        assert!(link.strip_prefix('#').is_some_and(|anchor| ids.contains(&anchor)), "{link}");
    }
}

#[test]
fn the_page_asks_nothing_of_any_network() {
    let page = page();
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link", "<script", "<iframe", "<img"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn every_value_is_on_the_page() {
    let page = page();
    let text = std::fs::read_to_string(made_up().join("report.json")).expect("the made-up reports");
    let reports: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let mut seen = 0;
    for report in &reports {
        for key in ["title", "at", "command", "machine", "versions", "notes", "sections"] {
            values(&report[key], &mut |value| {
                let on_page = match value {
                    Value::Number(number) if key == "sections" => format!("<data value=\"{number}\">"),
                    Value::String(text) if !WORDS.contains(&text.as_str()) => escaped(text),
                    _ => return,
                };
                seen += 1;
                assert!(page.contains(&on_page), "{key}: {on_page} is not on the page");
            });
        }
    }
    assert!(seen > 100, "{seen} values");
}

#[test]
fn several_runs_are_merged_and_read_again() {
    let (once, twice) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let merged = report(&[&made_up(), &made_up(), Path::new("--report"), once.path()]);
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let again = report(&[once.path(), Path::new("--report"), twice.path()]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    for file in ["report.json", "index.html"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(file)).expect("it is there");
        assert_eq!(read(once.path()), read(twice.path()), "{file}");
    }
    let all: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(twice.path().join("report.json")).expect("it is there"))
            .expect("JSON");
    assert_eq!(all.len(), 4);
}

#[test]
fn what_is_no_report_is_refused_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole: Value =
        serde_json::from_str(&std::fs::read_to_string(made_up().join("report.json")).expect("it is there"))
            .expect("JSON");
    let (mut other, mut short) = (whole.clone(), whole);
    other[0]["form"] = 2.into();
    short[0]["sections"][0]["tables"][0]["rows"][0].as_array_mut().expect("a row").pop();
    for (text, reason) in [
        ("{}".to_owned(), "not a report of this bench"),
        (other.to_string(), "measure again"),
        (short.to_string(), "rows of other lengths"),
    ] {
        std::fs::write(folder.path().join("report.json"), text).expect("written");
        let refused = report(&[folder.path()]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{told}");
        assert!(told.contains("report.json") && told.contains(reason), "{told}");
    }
    let missing = report(&[Path::new("nowhere")]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere"), "it says what it looked for");
}

/// Words of the form, which the page says in its own way.
const WORDS: &[&str] = &[
    "at_least",
    "at_most",
    "count",
    "microseconds",
    "milliseconds",
    "mpps",
    "nanoseconds",
    "per_second",
    "ratio",
    "share",
];

fn values(value: &Value, each: &mut impl FnMut(&Value)) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| values_of(value, each)),
        Value::Object(fields) => fields.values().for_each(|value| values_of(value, each)),
        leaf => each(leaf),
    }
}

fn values_of(value: &Value, each: &mut impl FnMut(&Value)) {
    values(value, each);
}

/// Text as it stands on a page; words between backticks are code there.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = text.replace('"', "&quot;").replace('\'', "&#39;");
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return text.clone();
    }
    let coded = parts.iter().enumerate();
    coded.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { (*part).to_owned() }).collect()
}

/// Counts elements; each is closed, in order, and text has no sign that would open one.
fn elements(page: &str) -> usize {
    let rest = page.strip_prefix("<!DOCTYPE html>").expect("it is HTML");
    let (mut open, mut count) = (Vec::new(), 0);
    for (at, part) in rest.split('<').enumerate().skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("{at}: {part:?} has no end"));
        assert!(!text.contains('>') || open.last() == Some(&"style"), "{text:?}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{at}");
            continue;
        }
        count += 1;
        if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap_or_default());
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    count
}

fn attributes<'a>(page: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!(" {name}=\"");
    let places: Vec<usize> = page.match_indices(&begin).map(|(at, _)| at + begin.len()).collect();
    places.into_iter().map(|at| page[at..].split('"').next().unwrap_or_default())
}
