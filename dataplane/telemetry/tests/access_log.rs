//! The access log: lines as they stand in files, and what becomes of them where files do not take them.

mod request_support;

use request_support::{Fields, Request, attempt, failed_attempt};
use sluicegate_telemetry::access_log::{TemplateError, UPSTREAMINFO, VARIABLES};
use sluicegate_telemetry::request_json::{REQUEST_FIELDS, TRY_FIELDS};
use sluicegate_telemetry::{
    AccessLog, AccessLogSettings, FaultReason, LineFormat, LogTarget, Protocol, RequestFilter, RequestSinks as _,
    TlsVersion, UpstreamError,
};
use sluicegate_trace::{Ratio, TraceId};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// However slow the machine is, it is faster than that.
const LIMIT: Duration = Duration::from_secs(60);

fn settings(path: &Path, format: &str) -> AccessLogSettings {
    AccessLogSettings {
        target: LogTarget::File(path.to_owned()),
        format: format.parse().expect("a format"),
        sample: None,
        filters: Vec::new(),
        skip: Vec::new(),
    }
}

/// What stands in the file after these requests.
fn logged_with(change: impl FnOnce(&mut AccessLogSettings), format: &str, requests: &[Request]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let mut settings = settings(&path, format);
    change(&mut settings);
    let log = AccessLog::start(settings).expect("a log");
    let mut sink = log.of_worker(0);
    for request in requests {
        request.finish(|request| sink.finished(request));
    }
    assert!(log.finish(LIMIT), "the writer ends");
    let text = fs::read_to_string(&path).expect("UTF-8");
    assert_eq!(log.counts().written, text.lines().count() as u64);
    assert_eq!(log.counts().dropped, 0);
    text
}

fn logged(format: &str, request: Request) -> String {
    let text = logged_with(|_| {}, format, &[request]);
    assert!(text.ends_with('\n') && text.lines().count() == 1, "one line: {text:?}");
    text.trim_end_matches('\n').to_owned()
}

/// The line of JSON without its time, which is looked at here.
fn json(request: Request) -> String {
    let line = logged("json", request);
    let rest = line.strip_prefix("{\"time\":\"").expect("the time comes first");
    let (time, rest) = rest.split_once("\",").expect("more fields");
    assert_eq!(time.len(), "2026-01-31T23:59:59.123Z".len(), "{time}");
    let year = 1970 + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs() / 31_556_952;
    assert!(time.starts_with(&format!("{year}-")) && time.ends_with('Z'), "{time}");
    format!("{{{rest}")
}

/// A request that was tried twice, over HTTP/2 and TLS, and has everything.
fn full() -> Request {
    let request = Request::default();
    let started = request.started;
    Request {
        protocol: Protocol::Http2,
        tls: Some((TlsVersion::Tls13, Some("shop.example".to_owned()))),
        method: b"POST".to_vec(),
        query: Some(b"page=2&token=tops3cret&b".to_vec()),
        request_fields: Fields::default()
            .with("referer", "https://me:pw@blog.example/a?sig=abc&c=d")
            .with("user-agent", "curl/8.5.0")
            .with("authorization", "Bearer letmein")
            .with("cookie", "session=letmein")
            .with("x-team", "blue"),
        response_fields: Some(Fields::default().with("x-cache", "HIT").with("set-cookie", "session=letmein")),
        bytes_in: 42,
        grpc_status: Some(0),
        tries: vec![failed_attempt(started, 1, UpstreamError::ConnectTimeout), attempt(started, 2)],
        ..request
    }
}

#[test]
fn json_has_every_field_in_its_order() {
    assert_eq!(
        json(full()),
        concat!(
            r#"{"status":200,"method":"POST","host":"shop.example","path":"/cart/7","query":"page=2&token=REDACTED&b","#,
            r#""protocol":"h2","tls":"1.3","server_name":"shop.example","client":"203.0.113.7","#,
            r#""peer":"198.51.100.7:40000","local":"192.0.2.10:80","bytes_in":42,"bytes_out":120,"request_length":242,"#,
            r#""duration_ms":20.000,"grpc_status":0,"namespace":"shop","ingress":"front","rule_host":"shop.example","#,
            r#""rule_path":"/cart","service":"cart","service_port":"80","tries":[{"endpoint":"192.0.2.101:8080","#,
            r#""pod":"cart-1","node":"node-a","error":"connect_timeout","start_ms":1.000,"duration_ms":18.000,"#,
            r#""queued_ms":0.250,"connect_ms":2.000,"reused":false,"bytes":0,"span_id":"0a0b0c0d0e0f0001"},"#,
            r#"{"endpoint":"192.0.2.102:8080","pod":"cart-2","node":"node-a","status":200,"start_ms":1.000,"#,
            r#""duration_ms":18.000,"queued_ms":0.250,"connect_ms":2.000,"first_byte_ms":12.000,"reused":false,"#,
            r#""bytes":120,"span_id":"0a0b0c0d0e0f0002"}],"referer":"https://blog.example/a?sig=REDACTED&c=d","#,
            r#""user_agent":"curl/8.5.0","request_id":"0123456789abcdef0123456789abcdef","#,
            r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"1111222233334444","#,
            r#""parent_span_id":"00f067aa0ba902b7","sampled":true}"#,
        )
    );
}

#[test]
fn what_is_documented_of_json_is_what_is_written() {
    let mut seen = Vec::new();
    let mut of_tries = BTreeSet::new();
    let refused = Request { fault: Some((FaultReason::ConnectTimeout, "x".to_owned())), status: 504, ..full() };
    let mut secure = full();
    secure.tries[1].tls = Some(Duration::from_millis(3));
    for request in [refused, secure] {
        let value: serde_json::Value = serde_json::from_str(&logged("json", request)).expect("JSON");
        let object = value.as_object().expect("an object");
        seen.extend(object.keys().cloned());
        for attempt in object["tries"].as_array().expect("tries") {
            of_tries.extend(attempt.as_object().expect("an object").keys().cloned());
        }
    }
    let documented =
        |fields: &[(&str, &str)]| fields.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), documented(REQUEST_FIELDS));
    assert_eq!(of_tries, documented(TRY_FIELDS));
    // In the order of the table: a line of the default format is compared whole above.
    let line = json(Request { fault: Some((FaultReason::ConnectTimeout, "x".to_owned())), status: 504, ..full() });
    let places: Vec<_> = REQUEST_FIELDS[1..]
        .iter()
        .filter(|(name, _)| *name != "span_id")
        .map(|(name, _)| line.find(&format!("\"{name}\":")))
        .collect();
    assert!(places.iter().filter(|place| place.is_some()).is_sorted(), "{places:?}");
}

#[test]
fn errors_have_their_reason() {
    let request = Request {
        status: 503,
        fault: Some((FaultReason::NoEndpoints, "shop/cart:80 has no ready endpoint".to_owned())),
        tries: Vec::new(),
        trace: None,
        ..Request::default()
    };
    let line = json(request);
    let begins =
        r#"{"status":503,"reason":"no_endpoints","detail":"shop/cart:80 has no ready endpoint","method":"GET","#;
    assert!(line.starts_with(begins) && line.contains("\"tries\":[]") && !line.contains("trace_id"), "{line}");
}

#[test]
fn what_is_no_http_is_a_line_too() {
    let request = Request {
        method: Vec::new(),
        authority: Vec::new(),
        path: Vec::new(),
        request_fields: Fields::default(),
        response_fields: None,
        status: 0,
        fault: Some((FaultReason::BadRequest, "the request line".to_owned())),
        route: None,
        tries: Vec::new(),
        request_id: Vec::new(),
        trace: None,
        ..Request::default()
    };
    let value: serde_json::Value = serde_json::from_str(&logged("json", request)).expect("JSON");
    assert_eq!((&value["status"], &value["reason"]), (&0.into(), &"bad_request".into()));
    let request = Request {
        method: Vec::new(),
        authority: Vec::new(),
        path: Vec::new(),
        status: 0,
        route: None,
        tries: Vec::new(),
        request_id: Vec::new(),
        request_fields: Fields::default(),
        ..Request::default()
    };
    let line = logged("nginx", request);
    assert!(line.contains("] \"-\" 000 120 \"-\" \"-\" 200 0.020 [-] [] - - - - -"), "{line}");
}

/// The line without its time, which is looked at here.
fn nginx(request: Request) -> String {
    let line = logged("nginx", request);
    let (before, rest) = line.split_once(" [").expect("the time");
    let (time, after) = rest.split_once("] ").expect("the time's end");
    let shape: String = time
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '9'
            } else if c.is_ascii_alphabetic() {
                'A'
            } else {
                c
            }
        })
        .collect();
    assert_eq!(shape, "99/AAA/9999:99:99:99 +9999", "{time}");
    format!("{before} [] {after}")
}

#[test]
fn the_line_of_ingress_nginx() {
    assert_eq!(
        nginx(Request::default()),
        "203.0.113.7 - - [] \"GET /cart/7 HTTP/1.1\" 200 120 \"-\" \"curl/8.5.0\" 200 0.020 [shop-cart-80] [] \
         192.0.2.101:8080 120 0.018 200 0123456789abcdef0123456789abcdef"
    );
    assert_eq!(
        nginx(full()),
        "203.0.113.7 - - [] \"POST /cart/7?page=2&token=REDACTED&b HTTP/2.0\" 200 120 \
         \"https://blog.example/a?sig=REDACTED&c=d\" \"curl/8.5.0\" 242 0.020 [shop-cart-80] [] \
         192.0.2.101:8080, 192.0.2.102:8080 0, 120 0.018, 0.018 504, 200 0123456789abcdef0123456789abcdef"
    );
    let refused = Request { status: 404, route: None, tries: Vec::new(), ..Request::default() };
    assert_eq!(
        nginx(refused),
        "203.0.113.7 - - [] \"GET /cart/7 HTTP/1.1\" 404 120 \"-\" \"curl/8.5.0\" 200 0.020 [-] [] \
         - - - - 0123456789abcdef0123456789abcdef"
    );
}

/// Bytes that would forge lines, end strings or steer a terminal.
fn hostile() -> Request {
    let nasty = b"a\"b\\c\nd\r\t\x00\x1b[2J\x7f\xff\xc3\x28\xc2\x9b31m \xe2\x80\xae\xc3\xa9".to_vec();
    Request {
        method: b"GE\"T".to_vec(),
        authority: nasty.clone(),
        path: [b"/".to_vec(), nasty.clone()].concat(),
        query: Some(nasty.clone()),
        request_fields: Fields(vec![("user-agent", nasty.clone()), ("referer", nasty.clone())]),
        request_id: nasty,
        fault: Some((FaultReason::BadRequest, "quote \" and\nline".to_owned())),
        ..Request::default()
    }
}

#[test]
fn hostile_bytes_stay_inside_of_their_field() {
    let shown = "a\"b\\c\nd\r\t\0\u{1b}[2J\u{7f}\u{fffd}\u{fffd}(\u{9b}31m \u{202e}é";
    for format in ["json", r#"escape=json {"host":"$http_host","path":"$uri","user_agent":"$http_user_agent"}"#] {
        let line = logged(format, hostile());
        assert!(line.chars().all(|letter| !letter.is_control() && letter != '\u{202e}'), "{line:?}");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        for (field, prefix) in [("host", ""), ("path", "/"), ("user_agent", "")] {
            assert_eq!(value[field], format!("{prefix}{shown}"), "{format}: {field}");
        }
    }
    let escaped = r"a\x22b\x5Cc\x0Ad\x0D\x09\x00\x1B[2J\x7F\xFF\xC3(\xC2\x9B31m \xE2\x80\xAE\xC3\xA9";
    let line = logged("$http_user_agent|$request", hostile());
    assert_eq!(line, format!(r"{escaped}|GE\x22T /{escaped}?{escaped} HTTP/1.1"));
}

#[test]
fn credentials_are_never_written() {
    for format in ["json", "nginx"] {
        let line = logged(format, full());
        for secret in ["letmein", "tops3cret", "sig=abc", "me:pw"] {
            assert!(!line.contains(secret), "{format}: {line}");
        }
    }
    for name in
        ["http_authorization", "http_cookie", "cookie_session", "sent_http_set_cookie", "http_proxy_authorization"]
    {
        let refused = format!("x ${name}").parse::<LineFormat>();
        assert_eq!(refused, Err(TemplateError::Secret { name: name.to_owned() }));
    }
}

#[test]
fn templates_take_the_variables_of_nginx() {
    for (template, line) in [
        ("$status", "200"),
        ("${status}00", "20000"),
        ("$scheme://$host$request_uri", "https://shop.example/cart/7?page=2&token=REDACTED&b"),
        ("$is_args$args", "?page=2&token=REDACTED&b"),
        ("$http_x_team $http_x_none $sent_http_x_cache", "blue - HIT"),
        ("escape=json \"$http_x_none\"", "\"\""),
        (
            "$namespace/$ingress_name $service_name:$service_port $server_name$location_path",
            "shop/front cart:80 shop.example/cart",
        ),
        (
            "$remote_addr $realip_remote_addr:$remote_port $server_addr:$server_port $proxy_protocol_addr",
            "203.0.113.7 198.51.100.7:40000 192.0.2.10:80 203.0.113.7",
        ),
        ("$ssl_protocol $ssl_server_name $server_protocol", "TLSv1.3 shop.example HTTP/2.0"),
        ("$upstream_connect_time|$upstream_header_time|$upstream_status", "0.002, 0.002|-, 0.014|504, 200"),
        ("$upstream_pod|$upstream_node|$tries", "cart-1, cart-2|node-a, node-a|2"),
        ("$trace_id $opentelemetry_span_id", "4bf92f3577b34da6a3ce929d0e0e4736 1111222233334444"),
        ("$fault_reason $remote_user", "- -"),
    ] {
        assert_eq!(logged(template, full()), line, "{template}");
    }
    // None of them is known by name alone.
    for name in VARIABLES.iter().flat_map(|(names, _)| *names) {
        let line = logged(&format!("<${name}>"), full());
        assert!(line.starts_with('<') && line.ends_with('>'), "{name}: {line}");
    }
    assert!(UPSTREAMINFO.parse::<LineFormat>().is_ok());
}

#[test]
fn templates_that_cannot_be_are_refused_with_what_can() {
    for (template, part) in [
        ("$status $statsu", "no variable $statsu; there are $args, $query_string, $body_bytes_sent"),
        ("x $ y", "there is none after `x `"),
        ("${status", "before the name of a variable"),
        ("jsno", "it has no variable"),
        ("$status\n$host", "control characters"),
        ("$http_", "no variable $http_"),
    ] {
        let error = template.parse::<LineFormat>().expect_err(template).to_string();
        assert!(error.contains(part), "{template}: {error}");
    }
}

#[test]
fn filters_skipped_urls_probes_and_ingresses_leave_lines_out() {
    let request = |status: u16, path: &str, took: u64| Request {
        status,
        path: path.as_bytes().to_vec(),
        took: Duration::from_millis(took),
        ..Request::default()
    };
    let requests = || {
        vec![
            request(200, "/a", 5),
            request(404, "/a", 5),
            request(200, "/slow", 800),
            request(200, "/healthz", 5),
            request(200, "/assets/a.css", 5),
            Request { query: Some(b"x=1".to_vec()), ..request(200, "/healthz", 5) },
            Request { is_probe: true, ..request(200, "/probe", 5) },
        ]
    };
    let lines = |change: &dyn Fn(&mut AccessLogSettings)| {
        logged_with(change, "$status $request_uri", &requests()).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&|_| {}).len(), 6, "a probe is no line");
    let filtered = lines(&|settings| {
        settings.filters = vec!["status>=400".parse().expect("a filter"), "duration>500ms".parse().expect("a filter")];
    });
    assert_eq!(filtered, ["404 /a", "200 /slow"]);
    let skipped = lines(&|settings| {
        settings.skip = vec!["/healthz".parse().expect("a URL"), "/assets/*".parse().expect("a URL")];
    });
    assert_eq!(skipped, ["200 /a", "404 /a", "200 /slow", "200 /healthz?x=1"]);
    let mut quiet = Request { status: 500, ..Request::default() };
    quiet.route.as_mut().expect("a route").access_log = false;
    assert_eq!(logged_with(|_| {}, "json", &[quiet]), "");
}

#[test]
fn samples_take_their_part_and_every_error() {
    let ratio = |settings: &mut AccessLogSettings| settings.sample = Some(Ratio::new(0.25).expect("a ratio"));
    let without_trace: Vec<_> = (0..4000).map(|_| Request { trace: None, ..Request::default() }).collect();
    let taken = logged_with(ratio, "$status", &without_trace).lines().count();
    assert!((800..1200).contains(&taken), "{taken} of 4000");
    let failed: Vec<_> = [500, 503, 499, 0].map(|status| Request { status, trace: None, ..Request::default() }).into();
    let none = |settings: &mut AccessLogSettings| settings.sample = Some(Ratio::new(0.0).expect("a ratio"));
    assert_eq!(logged_with(none, "$status", &failed), "500\n503\n499\n000\n");
    let cut = Request { fault: Some((FaultReason::UpstreamReset, "cut".to_owned())), ..Request::default() };
    let missed = Request { status: 404, fault: Some((FaultReason::NoRoute, "none".to_owned())), ..Request::default() };
    assert_eq!(logged_with(none, "$status $fault_reason", &[cut, missed]), "200 upstream_reset\n");
    // The same traces whatever the process, so that lines of several gateways belong together.
    let traced = |id: u128| {
        let mut request = Request::default();
        request.trace.as_mut().expect("a trace").trace_id = TraceId::from_random(id);
        request
    };
    let (kept, left) = (u128::from(u64::MAX), 1u128);
    let lines = logged_with(ratio, "$trace_id", &[traced(kept), traced(left)]);
    assert_eq!(lines, format!("{kept:032x}\n"));
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn lines_are_there_a_moment_after_the_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog::start(settings(&path, "json")).expect("a log");
    let mut sink = log.of_worker(0);
    for count in 1..=3 {
        Request::default().finish(|request| sink.finished(request));
        eventually("a line without another request", || {
            fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == count)
        });
    }
    let mode = fs::metadata(&path).expect("a file").mode() & 0o777;
    assert_eq!(mode & !0o640, 0, "{mode:o}: others than owner and group");
}

#[test]
fn workers_go_on_writing_when_nobody_else_holds_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog::start(settings(&path, "$status")).expect("a log");
    let mut sink = log.of_worker(0);
    drop(log);
    Request::default().finish(|request| sink.finished(request));
    drop(sink);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "200\n");
}

/// Workers that log numbered lines as fast as they can, with breaths.
fn load(log: &Arc<AccessLog>, workers: usize, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<u64>> {
    let start = |worker: usize| {
        let (log, stop) = (Arc::clone(log), Arc::clone(stop));
        std::thread::spawn(move || {
            let mut sink = log.of_worker(worker);
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let path = format!("/{worker}/{number}").into_bytes();
                Request { path, ..Request::default() }.finish(|request| sink.finished(request));
                number += 1;
                if number % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            number
        })
    };
    (0..workers).map(start).collect()
}

/// Every number of every worker once, in its order, in these files one after the other.
fn assert_whole(files: &[PathBuf], numbers: &[u64]) {
    let mut next = vec![0; numbers.len()];
    for file in files {
        let text = fs::read_to_string(file).expect("a file");
        assert!(text.is_empty() || text.ends_with('\n'), "{}: torn", file.display());
        for line in text.lines() {
            let (worker, number) = line[1..].split_once('/').unwrap_or_else(|| panic!("torn: {line:?}"));
            let worker: usize = worker.parse().unwrap_or_else(|_| panic!("torn: {line:?}"));
            assert_eq!(number.parse(), Ok(next[worker]), "{}: {line}", file.display());
            next[worker] += 1;
        }
    }
    assert_eq!(next, numbers, "lines were lost");
}

#[test]
fn rotation_under_load_loses_and_tears_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog::start(settings(&path, "$uri")).expect("a log");
    let stop = Arc::new(AtomicBool::new(false));
    let workers = load(&log, 2, &stop);
    let mut files = Vec::new();
    for turn in 0..8 {
        eventually("lines in the file", || fs::metadata(&path).is_ok_and(|file| file.len() > 1000));
        let old = folder.path().join(format!("access.log.{turn}"));
        fs::rename(&path, &old).expect("rotated");
        files.push(old);
        // As `kill -HUP` does; every other time it is left to the name alone, as where nobody sends the signal.
        if turn % 2 == 0 {
            log.reopen();
        }
        eventually("a new file", || path.exists());
    }
    stop.store(true, Ordering::Relaxed);
    let numbers: Vec<u64> = workers.into_iter().map(|worker| worker.join().expect("a worker")).collect();
    assert!(log.finish(LIMIT));
    files.push(path);
    assert_whole(&files, &numbers);
    assert_eq!((log.counts().written, log.counts().dropped), (numbers.iter().sum(), 0));
}

#[test]
fn a_file_that_cannot_be_opened_anew_stays_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let (inside, moved) = (folder.path().join("logs"), folder.path().join("moved"));
    fs::create_dir(&inside).expect("a folder");
    let log = AccessLog::start(settings(&inside.join("access.log"), "$uri")).expect("a log");
    let mut sink = log.of_worker(0);
    fs::rename(&inside, &moved).expect("renamed");
    log.reopen();
    for _ in 0..3 {
        Request::default().finish(|request| sink.finished(request));
    }
    assert!(log.finish(LIMIT));
    assert_eq!(fs::read_to_string(moved.join("access.log")).expect("a file").lines().count(), 3);
    let missing = AccessLog::start(settings(&inside.join("access.log"), "$uri")).expect_err("no folder").to_string();
    assert!(missing.starts_with("--access-log /") && missing.contains("give a file in a folder"), "{missing}");
}

/// How long the slowest of so many calls took.
fn slowest(log: &AccessLog, requests: usize) -> Duration {
    let mut sink = log.of_worker(0);
    let long = vec![b'x'; 4000];
    let request = Request { path: long, ..Request::default() };
    let one = |_| {
        let start = Instant::now();
        request.finish(|request| sink.finished(request));
        start.elapsed()
    };
    (0..requests).map(one).max().unwrap_or_default()
}

#[test]
fn a_full_disk_costs_lines_and_no_time() {
    let log = AccessLog::start(settings(Path::new("/dev/full"), "json")).expect("a log");
    let took = slowest(&log, 5000);
    eventually("lines counted as dropped", || log.counts().dropped == 5000);
    assert_eq!(log.counts().written, 0);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(log.finish(LIMIT));
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.pipe");
    let made = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
    made.expect("a named pipe");
    let log = AccessLog::start(settings(&path, "$uri")).expect("a log that waits for no reader");
    let requests = 5000;
    let took = slowest(&log, requests);
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Pipe, the writer's batch and the worker's buffer are full: 64 KiB, and twice 4 MiB.
    eventually("dropped lines", || log.counts().dropped > 1000);
    // A reader that comes late gets whole lines.
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&path)
        .expect("a reader");
    let mut text = Vec::new();
    let mut part = [0; 65536];
    eventually("all that was not dropped", || {
        while let Ok(length @ 1..) = reader.read(&mut part) {
            text.extend_from_slice(&part[..length]);
        }
        let counts = log.counts();
        counts.written + counts.dropped == requests as u64
            && text.iter().filter(|byte| **byte == b'\n').count() as u64 == counts.written
    });
    assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() == 4000 || line.is_empty()), "torn lines");
    assert!(log.finish(LIMIT));
}

#[test]
fn an_end_waits_for_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.pipe");
    let made = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
    made.expect("a named pipe");
    let log = AccessLog::start(settings(&path, "json")).expect("a log");
    slowest(&log, 100);
    let start = Instant::now();
    log.finish(Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn filters_compare_what_they_say() {
    let request = Request { status: 404, took: Duration::from_millis(250), ..Request::default() };
    for (filter, takes) in [
        ("status=404", true),
        ("status=4xx", true),
        ("status!=4xx", false),
        ("status=400-403", false),
        ("status>=404", true),
        ("status>404", false),
        ("status<404", false),
        ("status<=4xx", true),
        ("duration>=250ms", true),
        ("duration>250ms", false),
        ("duration<1s", true),
        ("host=Shop.Example.", true),
        ("host=*.example", true),
        ("host=*.shop.example", false),
        ("host!=shop.example", false),
        ("path=/cart/7", true),
        ("path=/cart", false),
        ("path=/cart/*", true),
        ("path!=/x/*", true),
        ("method=GET", true),
        ("method=get", false),
        ("ingress=shop/front", true),
        ("ingress=shop/*", true),
        ("ingress=blog/*", false),
        ("status=404&host=shop.example & duration>=1ms", true),
        ("status=404&host=blog.example", false),
    ] {
        let parsed: RequestFilter = filter.parse().expect(filter);
        assert_eq!(request.finish(|request| parsed.takes(request)), takes, "{filter}");
    }
    for authority in ["shop.example:8080", "SHOP.example", "shop.example.:80"] {
        let request = Request { authority: authority.as_bytes().to_vec(), ..Request::default() };
        let parsed: RequestFilter = "host=shop.example".parse().expect("a filter");
        assert!(request.finish(|request| parsed.takes(request)), "{authority}");
    }
    for (filter, part) in [
        ("", "nothing is compared"),
        ("status", "nothing is compared"),
        ("statsu=1", "the property is none of"),
        ("status=4yy", "a class such as 5xx"),
        ("status=499-400", "a range"),
        ("duration=5ms", "durations are compared with"),
        ("duration>5", "a number with a unit"),
        ("host>x", "compared with = and !="),
        ("host=a*", "the only pattern of hosts"),
        ("path=cart", "begins with /"),
        ("ingress=front", "namespace/name"),
        ("method=", "there is no value"),
    ] {
        let error = filter.parse::<RequestFilter>().expect_err(filter).to_string();
        assert!(error.contains(part), "{filter}: {error}");
    }
}
