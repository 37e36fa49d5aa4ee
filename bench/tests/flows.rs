//! `flows` with a tenth of the flows, through both engines: no flow moves, no connection breaks.

use std::process::Command;

fn nothing_moves(engine: &str, events: usize) {
    let flows = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench"))
        .args(["flows", "--engine", engine, "--flows", "10000", "--connections", "50", "-o", "json"])
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&flows.stderr);
    assert!(flows.status.success(), "{engine}: {told}");
    let report: serde_json::Value = serde_json::from_slice(&flows.stdout).expect("JSON");
    let rows = report["events"].as_array().expect("events");
    assert_eq!(rows.len(), events, "{engine}: {report:#}");
    for row in rows {
        assert_eq!((&row["moved"], &row["broken"]), (&0.into(), &0.into()), "{engine}: {row:#}");
        assert!(row["flows"].as_u64() > Some(6_000), "{engine}: {row:#}");
    }
    let held_back = rows.iter().filter(|row| row["by_ring_alone"].as_u64() > Some(1_000)).count();
    assert!(held_back >= 3, "{engine}: the ring alone would have moved flows: {report:#}");
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn no_flow_moves_in_the_kernel() {
    nothing_moves("xdp", 10);
}

#[test]
#[ignore = "needs root: network namespaces and packet sockets"]
fn no_flow_moves_in_user_space() {
    nothing_moves("packet", 4);
}
