//! What an operator asks of a director under traffic: where a packet goes (`explain`), how much there is (`vips --stats
//! --rate`, `/metrics`), what becomes of single packets (`tap`), and whether it is ready. The answers are compared with what
//! clients saw.

#[allow(dead_code, reason = "this file uses its own part")]
mod l4_flows_support;

use l4_flows_support::{Manifests, PATIENCE, Site, TCP_PORT, vips};
use sluicegate_netlab::Process;
use sluicegate_netlab::traffic::TcpClient;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Starts a command on the director's host; its standard output goes to a file.
fn begin(site: &Site, arguments: &[&str], output: &Path) -> Process {
    let mut command = command(arguments);
    command.stdout(File::create(output).expect("a file"));
    site.lab.directors[0].namespace.spawn_process(command).expect("a command")
}

/// New connections until the command has ended.
fn traffic_until_the_end(site: &Site, vip: IpAddr, process: &mut Process) {
    let begun = Instant::now();
    loop {
        let _answered = site.reached(vip, 4);
        if let Ok(status) = process.wait(Duration::from_millis(20)) {
            assert!(status.success(), "{status}");
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the command does not end");
    }
}

fn http(site: &Site, port: u16, path: &str) -> String {
    let asked = site.lab.directors[0].namespace.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    asked.expect("an answer")
}

fn explain(site: &Site, client: SocketAddr, vip: IpAddr) -> serde_json::Value {
    let packet = format!("tcp,{client},{}", SocketAddr::new(vip, TCP_PORT));
    serde_json::from_str(&site.ask(&["explain", &packet, "-o", "json"])).expect("JSON")
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn packets_are_explained_counted_and_shown() {
    questions_are_answered(&Site::new(&Manifests::with([0, 1])));
}

#[test]
#[ignore = "needs root: network namespaces and packet sockets"]
fn the_engine_in_user_space_answers_as_well() {
    let site = Site::with_flags(&Manifests::with([0, 1]), &["--forward", "packet"]);
    let state = http(&site, 10253, "/api/v1/state?section=vips");
    assert!(state.contains("\"mode\":\"packet\""), "{state}");
    questions_are_answered(&site);
}

fn questions_are_answered(site: &Site) {
    site.wait("the director is ready", || http(site, 10254, "/readyz").starts_with("HTTP/1.1 200"));
    for vip in vips() {
        where_packets_go_is_said_before_they_do(site, vip);
    }
    let [vip, _] = vips();
    rates_and_totals_are_those_of_the_traffic(site, vip);
    sampled_packets_are_shown_and_written(site, vip);
    readers_that_die_make_room(site, vip);
    who_stands_by_says_so(site, vip);
}

fn where_packets_go_is_said_before_they_do(site: &Site, vip: IpAddr) {
    let name_of = |told: &serde_json::Value| {
        let real = told["real_server"].as_str().unwrap_or_default().to_owned();
        let at = site.lab.backends.iter().position(|host| host.address_like(vip).to_string() == real);
        at.map(|number| format!("backend{number}"))
    };
    let own = site.lab.clients[0].address_like(vip);
    for port in 20_000..20_008 {
        let from = SocketAddr::new(own, port);
        let before = explain(site, from, vip);
        assert_eq!(before["reason"], "flow_new", "{before:#}");
        assert_eq!(before["vip"]["owner"], "director1", "{before:#}");
        let to = SocketAddr::new(vip, TCP_PORT);
        let mut client = TcpClient::connect_from(site.client(), from, to, PATIENCE).expect("connected");
        assert_eq!(name_of(&before).as_deref(), Some(client.server()), "{before:#}");
        client.echo(b"confirmed").expect("an echo");
        let after = explain(site, from, vip);
        assert_eq!((&after["reason"], &after["flow"]["confirmed"]), (&"flow_hit".into(), &true.into()), "{after:#}");
        assert_eq!(after["real_server"], before["real_server"]);
        let mac = site.lab.backends.iter().find(|host| host.address_like(vip).to_string() == after["real_server"]);
        let mac = mac.expect("a real server").namespace.mac("eth0").expect("its MAC address");
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(after["leaves"]["destination_mac"], mac.as_str(), "{after:#}");
    }
}

fn rates_and_totals_are_those_of_the_traffic(site: &Site, vip: IpAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("rates");
    let mut process = begin(site, &["vips", "--rate", "--interval", "1s", "--count", "2", "-o", "json"], &output);
    traffic_until_the_end(site, vip, &mut process);
    let text = std::fs::read_to_string(&output).expect("rates");
    let readings: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(readings.len(), 2, "{text}");
    let name = vip.to_string();
    let port = |reading: &serde_json::Value| {
        let ports = reading["ports"].as_array().expect("ports").clone();
        ports.into_iter().find(|port| port["vip"] == name.as_str() && port["port"] == "TCP/8080").expect("the port")
    };
    let port = port(&readings[1]);
    for key in ["connections_per_second", "packets_per_second", "bytes_per_second"] {
        assert!(port[key].as_f64().is_some_and(|rate| rate > 0.0), "{key}: {port:#}");
    }
    let table = site.ask(&["vips", "--stats"]);
    let first = table.lines().next().expect("headings");
    for heading in ["VIP", "CONNECTIONS", "PACKETS", "BYTES"] {
        assert!(first.contains(heading), "{table}");
    }
    // Nothing is bound there: the drop has a name.
    let nothing = SocketAddr::new(vip, 9);
    let refused = TcpClient::connect(site.client(), nothing, Duration::from_millis(300));
    assert!(refused.is_err(), "a port that is bound to nothing answers");
    site.wait("the drop is counted", || site.ask(&["vips", "--stats"]).contains("no_service"));
    let metrics = http(site, 10254, "/metrics");
    for part in [
        format!("sluicegate_vip_packets_total{{vip=\"{vip}\",port=\"TCP/8080\",service=\"shop/web\"}} "),
        format!("sluicegate_vip_owned{{vip=\"{vip}\"}} 1"),
        "sluicegate_packets_total{verdict=\"dropped\",reason=\"no_service\"} ".to_owned(),
        "sluicegate_real_server_flows_total{real_server=".to_owned(),
    ] {
        assert!(metrics.contains(&part), "{part} is not in\n{metrics}");
    }
    println!("{table}\n{}", site.ask(&["vips", "--stats", "--rate"]));
}

fn sampled_packets_are_shown_and_written(site: &Site, vip: IpAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let (capture, lines) = (folder.path().join("vip.pcapng"), folder.path().join("lines"));
    let name = vip.to_string();
    let path = capture.to_str().expect("a path");
    let arguments = ["tap", "--packet", "--vip", &name, "--count", "20", "--write", path];
    let mut process = begin(site, &arguments, &folder.path().join("nothing"));
    traffic_until_the_end(site, vip, &mut process);
    let packets = packets_of(&std::fs::read(&capture).expect("a capture file"));
    assert_eq!(packets.len(), 20);
    for (frame, comment) in &packets {
        assert!(comment.starts_with("forwarded: flow_") && comment.contains("shop/web, to "), "{comment}");
        // The destination of IPv4 behind 14 bytes of Ethernet.
        assert_eq!(
            frame.get(30..34),
            Some(
                match vip {
                    IpAddr::V4(vip) => vip.octets(),
                    IpAddr::V6(_) => [0; 4],
                }
                .as_slice()
            )
        );
        assert!(frame.len() <= 128, "{} bytes", frame.len());
    }
    let mut process = begin(site, &["tap", "--packet", "--vip", &name, "--count", "5"], &lines);
    traffic_until_the_end(site, vip, &mut process);
    let text = std::fs::read_to_string(&lines).expect("lines");
    assert_eq!(text.lines().count(), 5, "{text}");
    for line in text.lines() {
        assert!(line.contains(&format!("> {vip}:{TCP_PORT}")) && line.contains("forwarded: flow_"), "{line}");
    }
    println!("{text}");
}

/// Four readers at a time; one that is killed is forgotten.
fn readers_that_die_make_room(site: &Site, vip: IpAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut readers = Vec::new();
    for number in 0..4 {
        let output = folder.path().join(number.to_string());
        readers.push(begin(site, &["tap", "--packet"], &output));
        site.wait("the reader reads", || {
            let _answered = site.reached(vip, 1);
            std::fs::metadata(&output).is_ok_and(|file| file.len() > 0)
        });
    }
    let answer = http(site, 10253, "/api/v1/tap");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("4 readers"), "{answer}");
    for reader in &mut readers {
        reader.kill().expect("killed");
    }
    site.wait("there is room again", || {
        let mut process = begin(site, &["tap", "--packet", "--for", "100ms"], &folder.path().join("again"));
        process.wait(PATIENCE).is_ok_and(|status| status.success())
    });
}

/// A director that is cordoned holds no VIP, forwards what comes all the same, and is ready.
fn who_stands_by_says_so(site: &Site, vip: IpAddr) {
    site.ask(&["cordon", "--force"]);
    // No port that the client's kernel may have taken for a connection of its own.
    let from = SocketAddr::new(site.lab.clients[0].address_like(vip), 20_100);
    site.wait("nobody answers for the VIP", || explain(site, from, vip)["vip"]["answered_for_ms"] == 0);
    let told = explain(site, from, vip);
    assert!(told["vip"]["owner"].is_null() && told["reason"] == "flow_new", "{told:#}");
    let text = site.ask(&["explain", &format!("tcp,{from},{}", SocketAddr::new(vip, TCP_PORT))]);
    assert!(text.contains("not owned by this director: what comes all the same is forwarded"), "{text}");
    let ready = http(site, 10254, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    site.ask(&["uncordon"]);
    site.wait("the VIP is answered for again", || explain(site, from, vip)["vip"]["owner"] == "director1");
}

/// Frames with their comments, from a file of the pcapng draft: blocks of type, length, body, length.
fn packets_of(file: &[u8]) -> Vec<(Vec<u8>, String)> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!(word(0), 0x0a0d_0d0a, "a section header");
    assert_eq!(word(8), 0x1a2b_3c4d, "its byte order");
    let (mut at, mut packets) = (0, Vec::new());
    while at < file.len() {
        let (kind, length) = (word(at), word(at + 4));
        assert_eq!(word(at + length - 4), length, "both lengths of the block at {at}");
        if kind == 6 {
            let captured = word(at + 20);
            let options = at + 28 + captured.next_multiple_of(4);
            let comment = word(options) >> 16;
            assert_eq!(word(options) & 0xffff, 1, "a comment");
            let text = String::from_utf8_lossy(&file[options + 4..options + 4 + comment]).into_owned();
            packets.push((file[at + 28..at + 28 + captured].to_vec(), text));
        }
        at += length;
    }
    packets
}
