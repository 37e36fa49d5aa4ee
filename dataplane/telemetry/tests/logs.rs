//! Log lines as they are written.

use sluicegate_telemetry::logging::subscriber;
use sluicegate_telemetry::{LogError, LogFormat};
use std::io::Write;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, filter: &str, colour: bool) -> String {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = subscriber(format, filter, colour, move || writer.clone()).expect("valid filter");
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(host = "web.example", attempts = 2, "a line\nwith \u{1b}[31m colour");
        tracing::debug!("not at info");
        tracing::info!(target: "noisy", "from elsewhere");
    });
    let bytes = sink.0.lock().expect("no panic").clone();
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn json_is_one_object_a_line_with_its_fields_beside_the_message() {
    let text = logged(LogFormat::Json, "info", false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for part in
        ["\"level\":\"INFO\"", "\"host\":\"web.example\"", "\"attempts\":2", "\"timestamp\":\"", "a line\\nwith"]
    {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
    assert!(lines.iter().all(|line| line.starts_with('{') && line.ends_with('}')));
}

#[test]
fn text_has_colour_only_where_it_is_asked_for() {
    let plain = logged(LogFormat::Text, "info", false);
    assert!(plain.contains(" INFO ") && plain.contains("attempts=2"), "{plain}");
    assert!(!plain.contains("\u{1b}["), "an escape sequence in an event reaches the terminal: {plain:?}");
    assert!(logged(LogFormat::Text, "info", true).contains("\u{1b}["));
}

#[test]
fn the_filter_selects_levels_and_targets() {
    assert_eq!(logged(LogFormat::Text, "warn", false), "");
    assert_eq!(logged(LogFormat::Text, "off", false), "");
    assert!(logged(LogFormat::Text, "debug", false).contains("not at info"));
    assert!(!logged(LogFormat::Text, "info,noisy=off", false).contains("from elsewhere"));
}

#[test]
fn what_is_no_filter_or_format_is_refused_with_a_remedy() {
    for filter in ["verbose", "", "info,loud", "sluicegate=shout", "a=b=c"] {
        let error =
            subscriber(LogFormat::Text, filter, false, std::io::sink).err().unwrap_or_else(|| panic!("{filter}"));
        assert!(error.to_string().contains("--log-level") && error.to_string().contains("write `info`"), "{error}");
    }
    assert!(matches!("xml".parse::<LogFormat>(), Err(LogError::Format(text)) if text == "xml"));
    for format in [LogFormat::Text, LogFormat::Json] {
        assert_eq!(format.to_string().parse::<LogFormat>().expect("its own name"), format);
    }
}

#[test]
fn each_try_of_the_client_is_told_where_it_is_asked_for() {
    let told = |filter: &str| {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(LogFormat::Text, filter, false, move || writer.clone()).expect("valid filter");
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_runtime::watcher", "refused again");
            tracing::error!(target: "kube_client::client::builder", "refused again");
            tracing::warn!(target: "kube_runtime", "another matter");
        });
        let bytes = sink.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("UTF-8").lines().count()
    };
    assert_eq!(told("info"), 1);
    assert_eq!(told("trace"), 1);
    assert_eq!(told("info,kube_runtime::watcher=warn"), 2);
    assert_eq!(told("info,kube_client=error"), 2);
    assert_eq!(told("kube_runtime=warn,info"), 1);
}
