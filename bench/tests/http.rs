//! `http` against servers of the test: what it says is what they saw.

use rustix::net::sockopt;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Runs the generator.
fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluicegate-bench")).arg("http").args(arguments).output().expect("it runs")
}

/// Its outcome, without warm-up and ceiling; failures are expected to be looked at.
fn outcome(arguments: &[&str]) -> Value {
    let mut all = vec!["-o", "json", "--no-ceiling", "--max-errors", "1000000"];
    if !arguments.contains(&"--warm-up") {
        all.extend(["--warm-up", "0s"]);
    }
    all.extend(arguments);
    let output = bench(&all);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
}

/// Gives every connection to a thread.
fn serve(each: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let each = Arc::new(each);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            socket.set_nodelay(true).expect("a socket");
            let each = each.clone();
            thread::spawn(move || each(socket));
        }
    });
    address
}

/// The next head on a connection, if there is one.
fn head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

/// Answers every request alike, and remembers their request lines and hosts.
fn answering(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let address = serve(move |mut socket| {
        while let Some(head) = head(&mut socket) {
            let mut lines = head.lines();
            let line = lines.next().unwrap_or_default().to_owned();
            let host = lines.find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default().to_owned();
            log.lock().expect("a log").push(format!("{host} {line}"));
            if socket.write_all(answer).is_err() {
                break;
            }
        }
    });
    (address, seen)
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn counts_are_what_the_server_saw() {
    let (address, seen) = answering(HELLO);
    let url = format!("http://{address}/");
    let said = outcome(&[&url, "-n", "1001", "-c", "7", "-t", "2", "--expect-length", "5"]);
    assert_eq!(seen.lock().expect("a log").len(), 1001);
    for (field, wanted) in [
        ("begun", 1001),
        ("answered", 1001),
        ("failed", 0),
        ("body_bytes", 5005),
        ("bytes_received", 1001 * HELLO.len()),
    ] {
        assert_eq!(said[field], wanted, "{field}: {said:#}");
    }
    assert_eq!((&said["statuses"]["200"], &said["latency"]["count"]), (&1001.into(), &1001.into()), "{said:#}");
    assert_eq!(said["reopened"], 0, "connections were kept: {said:#}");
}

#[test]
fn the_warm_up_is_not_counted() {
    let (address, seen) = answering(HELLO);
    let said = outcome(&[&format!("http://{address}/"), "-n", "50", "-r", "200", "-c", "4", "--warm-up", "500ms"]);
    assert_eq!((&said["begun"], &said["answered"]), (&50.into(), &50.into()), "{said:#}");
    assert_eq!(seen.lock().expect("a log").len(), 150, "100 of them before it counted");
}

#[test]
fn targets_are_asked_in_turn() {
    let (address, seen) = answering(HELLO);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("targets");
    std::fs::write(&file, "a.test /1\nDELETE http://b.test/2\nhttp://c.test/3?x=y\n").expect("a file");
    let connect = address.to_string();
    let said = outcome(&["--targets", file.to_str().expect("a path"), "--connect", &connect, "-c", "1", "-n", "7"]);
    assert_eq!(said["answered"], 7, "{said:#}");
    let round = ["a.test GET /1 HTTP/1.1", "b.test DELETE /2 HTTP/1.1", "c.test GET /3?x=y HTTP/1.1"];
    let wanted: Vec<_> = round.iter().cycle().take(7).collect();
    assert_eq!(seen.lock().expect("a log").iter().collect::<Vec<_>>(), wanted);
}

#[test]
fn bodies_are_sent_whole() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let address = serve(move |mut socket| {
        while let Some(head) = head(&mut socket) {
            assert!(head.starts_with("POST /up HTTP/1.1\r\n") && head.contains("\r\nX-Asked: yes\r\n"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
            let mut body = vec![0; length.parse().expect("a number")];
            socket.read_exact(&mut body).expect("the body");
            count.fetch_add(body.len(), Ordering::Relaxed);
            socket.write_all(HELLO).expect("the answer is taken");
        }
    });
    let url = format!("http://{address}/up");
    let said = outcome(&[&url, "-X", "POST", "-H", "X-Asked: yes", "--body", "300001", "-n", "20", "-c", "3"]);
    assert_eq!((&said["answered"], received.load(Ordering::Relaxed)), (&20.into(), 20 * 300_001), "{said:#}");
}

/// A server that answers nobody from the second after its first request to the one after that.
fn stalling() -> SocketAddr {
    let first = Arc::new(Mutex::new(None));
    serve(move |mut socket| {
        while head(&mut socket).is_some() {
            let began = *first.lock().expect("a moment").get_or_insert_with(Instant::now);
            let (from, to) = (began + Duration::from_secs(1), began + Duration::from_secs(2));
            let now = Instant::now();
            if now >= from && now < to {
                thread::sleep(to - now);
            }
            if socket.write_all(HELLO).is_err() {
                break;
            }
        }
    })
}

#[test]
fn a_server_that_stalls_is_charged_for_all_that_had_to_wait() {
    let open = |extra: &[&str]| {
        let url = format!("http://{}/", stalling());
        outcome(&[&[url.as_str(), "-r", "200", "-c", "4", "-d", "3s"], extra].concat())
    };
    for extra in [&[][..], &["--poisson"]] {
        let said = open(extra);
        let begun = said["begun"].as_u64().expect("a count");
        assert!((480..=720).contains(&begun) && said["answered"] == begun, "{said:#}");
        // A third of the requests were due while nobody was answered; 1 in 15 in its first fifth.
        let p99 = said["latency"]["p99_us"].as_u64().expect("a latency");
        assert!(p99 > 800_000, "coordinated omission: {said:#}");
        let late = said["lateness"]["p99_us"].as_u64().expect("a latency");
        assert!(late > 700_000, "four connections were taken, the rest began late: {said:#}");
    }
    // The same in a closed loop: four requests saw it, and nobody else asked.
    let said = outcome(&[&format!("http://{}/", stalling()), "-c", "4", "-d", "3s"]);
    let (p99, max) = (said["latency"]["p99_us"].as_u64(), said["latency"]["max_us"].as_u64());
    assert!(said["answered"].as_u64() > Some(1000) && p99 < Some(500_000) && max > Some(900_000), "{said:#}");
}

#[test]
fn answers_that_are_none_are_counted_by_kind() {
    let address = serve(|mut socket| {
        while let Some(head) = head(&mut socket) {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer: &[u8] = match path {
                "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "/until-closed" => b"HTTP/1.0 200 OK\r\n\r\nhello",
                "/refused" => b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
                "/truncated" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
                "/garbage" => b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
                "/twice" => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n",
                "/late" => {
                    thread::sleep(Duration::from_secs(3));
                    HELLO
                }
                "/reset" => {
                    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("a socket");
                    return;
                }
                _ => b"",
            };
            if socket.write_all(answer).is_err() || !path.ends_with("ed") || path != "/chunked" && path != "/refused" {
                return;
            }
        }
    });
    let ask = |path: &str| {
        let url = format!("http://{address}{path}");
        outcome(&[
            &url,
            "-n",
            "3",
            "-c",
            "1",
            "--timeout",
            "500ms",
            "--expect-length",
            if path == "/refused" { "0" } else { "5" },
        ])
    };
    for path in ["/chunked", "/until-closed"] {
        let said = ask(path);
        assert_eq!(
            (&said["answered"], &said["failed"], &said["body_bytes"]),
            (&3.into(), &0.into(), &15.into()),
            "{path}: {said:#}"
        );
    }
    let said = ask("/refused");
    assert_eq!((&said["answered"], &said["statuses"]["503"]), (&3.into(), &3.into()), "{said:#}");
    for (path, kind) in [
        ("/closed", "closed before the answer"),
        ("/truncated", "closed inside the answer"),
        ("/garbage", "malformed answer: no HTTP/1.1 head"),
        ("/late", "no answer in time"),
        ("/reset", "connection reset"),
    ] {
        let said = ask(path);
        assert_eq!(
            (&said["begun"], &said["answered"], &said["failed"]),
            (&3.into(), &0.into(), &3.into()),
            "{path}: {said:#}"
        );
        assert_eq!(said["errors"], serde_json::json!({ kind: 3 }), "{path}");
    }
    let said = ask("/twice");
    assert!(said["errors"]["bytes after the answer"].as_u64() > Some(0), "{said:#}");
    assert!(said["errors"]["body of another length"].as_u64() > Some(0), "{said:#}");
}

/// A certificate for bench.test, which is also in a file of the folder. It is marked as an authority's, as those are that
/// `openssl req -x509` makes.
fn certified(folder: &Path, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut wanted = rcgen::CertificateParams::new(vec!["bench.test".to_owned()]).expect("a name");
    wanted.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pair = rcgen::KeyPair::generate().expect("a key");
    let made = wanted.self_signed(&pair).expect("a certificate");
    std::fs::write(folder.join("ca.pem"), made.pem()).expect("a file");
    let key = PrivateKeyDer::try_from(pair.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![made.der().clone()], key).expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

#[test]
fn handshakes_are_of_the_kind_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = certified(folder.path(), &[]);
    let seen = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = seen.clone();
    let address = serve(move |mut socket| {
        let mut tls = rustls::ServerConnection::new(config.clone()).expect("a connection");
        while tls.is_handshaking() {
            if tls.complete_io(&mut socket).is_err() {
                return;
            }
        }
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        counts[usize::from(resumed)].fetch_add(1, Ordering::SeqCst);
        // The tickets, and then whatever the generator still says.
        let _ = tls.complete_io(&mut socket);
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (connect, ca) = (address.to_string(), folder.path().join("ca.pem"));
    let common = ["https://bench.test/", "--connect", &connect, "--ca", ca.to_str().expect("a path"), "-c", "2"];
    let count = |at: usize| seen[at].load(Ordering::SeqCst);

    let said = outcome(&[&common[..], &["-p", "handshake", "-n", "10"]].concat());
    assert_eq!((&said["answered"], &said["failed"]), (&10.into(), &0.into()), "{said:#}");
    assert_eq!(said["handshakes"], serde_json::json!({ "full": 11, "resumed": 0 }), "one to see whether it works");
    let full = count(0);
    assert!((10..=11).contains(&full) && count(1) == 0, "{full} {}", count(1));

    let said = outcome(&[&common[..], &["-p", "resumed", "-n", "20"]].concat());
    assert_eq!((&said["answered"], &said["failed"]), (&20.into(), &0.into()), "{said:#}");
    assert_eq!(said["handshakes"], serde_json::json!({ "full": 2, "resumed": 20 }), "two for the first tickets");
    assert_eq!(count(1), 20, "the server says so, too");
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, _) = (certified(folder.path(), &[]), certified(folder.path(), &[]));
    let secure = serve(move |mut socket| {
        let mut tls = rustls::ServerConnection::new(config.clone()).expect("a connection");
        let _ = tls.complete_io(&mut socket);
    });
    let nobody =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
    let (secure, nobody, ca) = (secure.to_string(), nobody.to_string(), folder.path().join("ca.pem"));
    let cases = [
        (vec!["http://bench.test/", "--connect", &nobody], 1, "connection refused"),
        (vec!["bench.test/"], 1, "no scheme"),
        (vec!["http://nowhere.invalid/"], 1, "no address"),
        (
            vec!["https://bench.test/", "--connect", &secure, "--ca", ca.to_str().expect("a path")],
            1,
            "invalid peer certificate",
        ),
        (vec!["http://bench.test/", "--connect", &nobody, "-m", "2"], 1, "--streams"),
        (vec!["http://bench.test/", "-d", "ten"], 2, "write a number with ms, s or m"),
    ];
    for (arguments, code, why) in cases {
        let output = bench(&arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && told.contains(why), "{arguments:?}: {:?} {told}", output.status);
    }
}

#[test]
fn failures_are_the_exit_code_and_files_are_written() {
    let (address, _) = answering(HELLO);
    let (url, folder) = (format!("http://{address}/"), tempfile::tempdir().expect("a folder"));
    let (hdr, page) = (folder.path().join("out.hgrm"), folder.path().join("report"));
    let paths = [hdr.to_str().expect("a path"), page.to_str().expect("a path")];
    let output = bench(&[&url, "-n", "200", "-c", "2", "--warm-up", "0s", "--hdr", paths[0], "--report", paths[1]]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("ceiling") && told.contains("status 200"), "{output:?}");
    let text = std::fs::read_to_string(&hdr).expect("a distribution");
    assert!(text.trim_start().starts_with("Value") && text.contains("Total count    =          200]"), "{text}");
    assert!(page.join("report.json").exists() && page.join("index.html").exists());

    let output = bench(&[
        &url,
        "-n",
        "5",
        "-c",
        "1",
        "--no-ceiling",
        "--warm-up",
        "0s",
        "--expect-length",
        "6",
        "--max-errors",
        "4",
    ]);
    assert_eq!(output.status.code(), Some(1), "nothing was answered as it should be");
}
