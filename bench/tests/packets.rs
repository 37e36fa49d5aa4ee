//! The quick forms of `packet` and `live`: every engine forwards what it is timed with, and the report says so.

use serde_json::Value;
use std::process::{Command, Stdio};

/// Runs a measurement: what it prints as JSON, and the report that it writes. It leaves no namespace behind.
fn measured(arguments: &[&str]) -> (Value, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench"));
    bench.args(arguments).args(["-o", "json", "--report"]).arg(folder.path());
    let bench = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let made = format!("sg-bench-{}.", bench.id());
    let ended = bench.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {told}");
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left = namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&made)).count();
    assert_eq!(left, 0, "{arguments:?} leaves namespaces");
    let page = std::fs::read_to_string(folder.path().join("index.html")).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg"), "{arguments:?}");
    let report = std::fs::read_to_string(folder.path().join("report.json")).expect("a report");
    let parsed = |text: &[u8]| serde_json::from_slice(text).expect("JSON");
    (parsed(&ended.stdout), parsed(report.as_bytes()))
}

fn rows<'a>(figures: &'a Value, of: &str) -> &'a [Value] {
    figures[of].as_array().map(Vec::as_slice).expect("rows")
}

#[test]
#[ignore = "needs root: eBPF"]
fn packets_are_timed_and_a_flood_loses_no_flow() {
    let scenarios = ["tcp4_hit", "udp4_hit", "gue4", "nonvip", "flood4_1k"];
    let mut arguments = vec!["packet"];
    arguments.extend(scenarios);
    arguments.extend(["--method", "tunnel", "--rounds", "3", "--packets", "50000"]);
    let (figures, report) = measured(&arguments);
    let mut seen: Vec<&str> = rows(&figures, "scenarios").iter().filter_map(|row| row["name"].as_str()).collect();
    seen.sort_unstable();
    let mut expected = scenarios;
    expected.sort_unstable();
    assert_eq!(seen, expected);
    for row in rows(&figures, "scenarios") {
        assert!(row["ns"]["total"].as_f64() > row["ns"]["floor"].as_f64(), "the program costs something: {row:#}");
    }
    let flood = rows(&figures, "scenarios").iter().find(|row| row["name"] == "flood4_1k").expect("the flood");
    assert!(flood["kept"].as_f64() >= Some(0.999), "{flood:#}");
    let strangers = flood["reasons"].to_string();
    assert!(strangers.contains("flow_new"), "the flood comes from strangers: {strangers}");
    assert_eq!(report["name"], "packet");
    assert_eq!(report["sections"].as_array().map(Vec::len), Some(2), "figures, and the flood");
}

#[test]
#[ignore = "needs root: network namespaces, eBPF and packet sockets"]
fn every_engine_sends_all_packets_back() {
    let (figures, report) = measured(&["live", "--rounds", "1", "--packets", "10000", "--flows", "1024"]);
    for engine in [
        "bare XDP_TX",
        "Sluicegate, L2",
        "Sluicegate, TUNNEL",
        "Sluicegate, L2, generic XDP",
        "Sluicegate, TUNNEL, generic XDP",
        "Sluicegate, TUNNEL, AF_PACKET",
        "kernel routing",
    ] {
        let turns: Vec<&Value> = rows(&figures, "rows").iter().filter(|row| row["name"] == engine).collect();
        assert_eq!(turns.len(), 2, "{engine}: flows, and a flood among them");
        for turn in turns {
            assert!(turn["came_back"].as_f64() >= Some(0.95), "{engine}: {turn:#}");
            assert!(turn["rate"]["median"].as_f64() > Some(1_000.0), "{engine}: {turn:#}");
        }
    }
    let absent = rows(&figures, "absent").iter().filter_map(Value::as_str).collect::<Vec<_>>();
    assert!(absent.iter().any(|told| told.contains("--katran")), "who is missing is named: {absent:?}");
    assert_eq!(report["name"], "live");
}
