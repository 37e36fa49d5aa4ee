//! What the program says and how it exits when it is used wrongly or cannot do what it is told: one line, never a backtrace.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

mod cli_support;

use cli_support::{Gateway, free_address, manifests, run_to_end};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

/// Arguments, exit code, parts of the one line on standard error.
type Row<'a> = (&'a [&'a str], i32, &'a [&'a str]);

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let table: &[Row<'_>] = &[
        (&["run", "--no-such-flag"], 2, &["--no-such-flag", "--help"]),
        (&["rnu"], 2, &["rnu"]),
        (&["run"], 2, &["--manifests", "--kubeconfig"]),
        (&["backend", "--interface", "lo", "--vip", "192.0.2.1", "--peer", "203.0.113.0/33"], 2, &["ADDRESS/PREFIX"]),
        (
            &[
                "backend",
                "--interface",
                "lo",
                "--vip",
                "192.0.2.1",
                "--director",
                "192.0.2.2",
                "--peer",
                "203.0.113.0/24",
            ],
            2,
            &["--tunnel gue"],
        ),
        (&["run", "--manifests", "x", "--http", "8080"], 2, &["--http", "127.0.0.1:8080"]),
        (&["run", "--manifests", "x", "--workers", "0"], 2, &["--workers", "1..=1024"]),
        (&["run", "--manifests", "x", "--drain", "10"], 2, &["--drain", "10s"]),
        (&["run", "--manifests", "x", "--take-over", "traefik"], 2, &["traefik", "ingress-nginx"]),
        (&["run", "--manifests", "x", "--default-ssl-certificate", "secret"], 2, &["NAMESPACE/NAME"]),
        (&["run", "--manifests", "x", "--trusted-proxies", "everybody"], 2, &["--trusted-proxies", "everybody"]),
        (&["run", "--manifests", "x", "--log-level", "loud"], 2, &["--log-level", "loud"]),
        (
            &["run", "--manifests", "x", "--proxy-protocol-on", "127.0.0.1:1"],
            2,
            &["--proxy-protocol-on 127.0.0.1:1", "--http or --https"],
        ),
        (&["run", "--kubeconfig", "x", "--manifests", "y"], 2, &["--kubeconfig", "--manifests"]),
        (&["run", "--context", "x"], 2, &["--context", "--kubeconfig"]),
        (
            &["run", "--manifests", "x", "--publish-status-address", "192.0.2.1"],
            2,
            &["--publish-status-address", "cluster"],
        ),
        (&["run", "--manifests", "x", "--role", "sluice"], 2, &["--role", "director"]),
        (&["run", "--manifests", "x", "--forward", "ipvs"], 2, &["--forward", "packet"]),
        (&["run", "--manifests", "x", "--director-peer", "edge2"], 2, &["--director-peer", "edge2=192.0.2.12:7946"]),
        (
            &["run", "--manifests", "x", "--director-peer", "edge2=192.0.2.12:7946"],
            2,
            &["--director-peer", "--director-secret-file"],
        ),
        (&["doctor"], 2, &["--role"]),
        (&["doctor", "--role", "director"], 2, &["--interface"]),
        (&["backend", "--interface", "lo"], 2, &["--vip"]),
        (&["backend", "--interface", "lo", "--vip", "192.0.2.100"], 2, &["--director", "--tunnel none"]),
        (&["check"], 2, &["DIR|FILE"]),
        (&["explain", "ftp://shop.example/"], 2, &["http"]),
        (&["explain", "tcp,198.51.100.7,192.0.2.10:80"], 2, &["ADDRESS:PORT", "tcp,198.51.100.7:40000,192.0.2.10:80"]),
        (&["explain", "gre,198.51.100.7,192.0.2.10"], 2, &["none of tcp, udp, sctp and icmp", "in brackets"]),
        (&["tap", "--vip", "192.0.2.1"], 2, &["--packet"]),
        (&["tap", "--packet", "--status", "404"], 2, &["--packet", "--status"]),
        (&["tap", "--packet", "--snap", "1500"], 2, &["--snap", "1..=232"]),
        (&["tap", "--packet", "--for", "10"], 2, &["--for", "10s"]),
        (&["vips", "--rate", "--interval", "1"], 2, &["--interval", "500ms"]),
        (&["routes", "-o", "xml"], 2, &["xml", "json"]),
    ];
    for (arguments, code, parts) in table {
        let end = run_to_end(arguments);
        assert_eq!(end.code, Some(*code), "{arguments:?}: {}", end.stderr);
        assert_one_line(arguments, &end.stderr, parts);
    }
}

#[track_caller]
fn assert_one_line(arguments: &[&str], stderr: &str, parts: &[&str]) {
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: {part:?} is not in {stderr}");
    }
}

#[test]
fn help_is_complete_and_has_examples() {
    let help = run_to_end(&["--help"]);
    assert_eq!(help.code, Some(0));
    for command in [
        "demo", "run", "check", "routes", "backends", "vips", "cordon", "uncordon", "explain", "tap", "backend",
        "detach", "doctor", "prepare",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {}", help.stdout);
        let own = run_to_end(&[command, "--help"]);
        assert_eq!(own.code, Some(0));
        assert!(own.stdout.contains("Examples:"), "{command}: {}", own.stdout);
    }
    assert_eq!(run_to_end(&["--version"]).code, Some(0));
    assert_eq!(run_to_end(&[]).code, Some(2));
}

#[test]
fn what_cannot_be_done_is_one_line_and_exit_code_1() {
    let folder = manifests(&[]);
    let path = folder.path().to_str().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = free_address().to_string();
    let base = ["run", "--manifests", path, "--https", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let with = |more: &[&'static str], last: &[&str]| -> Vec<String> {
        base.iter().chain(more).map(ToString::to_string).chain(last.iter().map(ToString::to_string)).collect()
    };
    let table: Vec<(Vec<String>, &[&str])> = vec![
        (with(&["--admin", "127.0.0.1:0"], &["--http", &taken]), &["port is in use"]),
        (with(&["--http", "127.0.0.1:0"], &["--admin", &taken]), &["--admin", "in use"]),
        (with(&["--http", "127.0.0.1:0", "--admin"], &["0.0.0.0:0"]), &["--admin", "token"]),
        (with(&["--http", "192.0.2.1:0", "--admin"], &["127.0.0.1:0"]), &["does not have the address"]),
        (
            with(&["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--default-ssl-certificate"], &["a/b"]),
            &["a/b", "no such Secret"],
        ),
        (
            with(&["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], &["--config", missing]),
            &["--config", "cannot be read"],
        ),
        (vec!["check".into(), missing.into()], &["missing", "No such file"]),
        (vec!["routes".into(), "--admin".into(), free], &["no gateway answers", "--admin"]),
    ];
    for (arguments, parts) in table {
        let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
        let end = run_to_end(&arguments);
        assert_eq!(end.code, Some(1), "{arguments:?}: {}", end.stderr);
        let last = end.stderr.lines().last().unwrap_or_default();
        assert_one_line(&arguments, last, parts);
        assert!(!end.stderr.contains("backtrace") && !end.stderr.contains("panicked"), "{}", end.stderr);
    }
    let arguments = [
        "run",
        "--manifests",
        missing,
        "--http",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let end = run_to_end(&arguments);
    assert_eq!(end.code, Some(1));
    assert_one_line(&arguments, end.stderr.lines().last().unwrap_or_default(), &["--manifests", "missing"]);
}

#[test]
fn a_folder_that_may_not_be_read_is_named() {
    let folder = manifests(&[("a.yaml", "")]);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    if fs::read_dir(folder.path()).is_err() {
        let end = run_to_end(&["check", folder.path().to_str().unwrap()]);
        assert_eq!(end.code, Some(1));
        assert_one_line(&["check"], &end.stderr, &["Permission denied"]);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_file_of_options_is_checked_like_the_flags() {
    let folder = manifests(&[]);
    let file = folder.path().join("options.txt");
    let arguments = ["run", "--config", file.to_str().unwrap()];
    for (text, part) in
        [("htpt: x\n", "`htpt` is not a flag"), ("workers: many\n", "--workers"), ("a: [\n", "not a mapping")]
    {
        fs::write(&file, text).unwrap();
        let end = run_to_end(&arguments);
        assert_eq!(end.code, Some(2), "{}", end.stderr);
        assert_one_line(&arguments, &end.stderr, &[part, "options.txt"]);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = manifests(&[]);
    let options = folder.path().join("options.txt");
    let (by_flag, by_environment) = (free_address(), free_address());
    fs::write(
        &options,
        format!(
            "manifests: {}\nhttp: 127.0.0.1:1\nhttps: {by_environment}\nlog-format: json\n",
            folder.path().display()
        ),
    )
    .unwrap();
    let gateway = Gateway::start_with(
        &["--config", options.to_str().unwrap(), "--http", &by_flag.to_string()],
        &[
            ("SLUICEGATE_HTTP", "127.0.0.1:2"),
            ("SLUICEGATE_METRICS", "127.0.0.1:0"),
            ("SLUICEGATE_ADMIN", "127.0.0.1:0"),
        ],
    );
    assert_eq!(gateway.http, by_flag);
    assert_eq!(gateway.https, by_environment);
}

mod checking {
    use super::*;

    const GOOD: &str = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  rules:\n  - host: web.example\n    http:\n      paths:\n      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn good_manifests_are_told_and_exit_0() {
        let folder = manifests(&[("web.yaml", GOOD)]);
        let end = run_to_end(&["check", folder.path().to_str().unwrap()]);
        assert_eq!(end.code, Some(0), "{}{}", end.stdout, end.stderr);
        for part in ["Ingress default/web", "web.example / to default/web:80", "Service default/web", "0 rejected"] {
            assert!(end.stdout.contains(part), "{part}: {}", end.stdout);
        }
    }

    #[test]
    fn rejections_are_told_and_exit_1() {
        for (name, text, parts) in [
            ("syntax", "kind: [", ["File ", "document 1"]),
            ("type", &GOOD.replacen("number: 80", "number: \"80\"", 1), ["Ingress default/web", "port.number"]),
            ("path", &GOOD.replace("path: /,", "path: web,"), ["Ingress default/web", "paths[0].path"]),
            (
                "certificate",
                &format!(
                    "{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\nstringData: {{tls.crt: x, tls.key: y}}\n",
                    GOOD.replace("spec:\n  rules", "spec:\n  tls: [{hosts: [web.example], secretName: cert}]\n  rules")
                ),
                ["Secret default/cert", "tls.crt"],
            ),
        ] {
            let folder = manifests(&[("web.yaml", text)]);
            let end = run_to_end(&["check", folder.path().to_str().unwrap()]);
            assert_eq!(end.code, Some(1), "{name}: {}{}", end.stdout, end.stderr);
            for part in parts {
                assert!(end.stdout.contains(part), "{name}: {part} is not in {}", end.stdout);
            }
            assert_eq!(end.stderr, "", "{name}");
            let json = run_to_end(&["check", "-o", "json", folder.path().to_str().unwrap()]);
            let document: serde_json::Value = serde_json::from_str(&json.stdout).expect(name);
            assert_eq!(json.code, Some(1));
            assert!(document["rejected"].as_u64().is_some_and(|rejected| rejected > 0), "{name}: {document}");
        }
    }

    #[test]
    fn a_class_of_somebody_else_is_ignored_with_the_reason() {
        let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: other}\nspec: {controller: example.test/other}\n";
        let folder = manifests(&[
            ("class.yaml", class),
            ("web.yaml", &GOOD.replace("spec:\n  rules", "spec:\n  ingressClassName: other\n  rules")),
        ]);
        let end = run_to_end(&["check", folder.path().to_str().unwrap()]);
        assert_eq!(end.code, Some(0), "{}", end.stdout);
        assert!(end.stdout.contains("ignored: Ingress default/web (spec.ingressClassName)"), "{}", end.stdout);
    }

    #[test]
    fn explaining_from_manifests_needs_no_gateway() {
        let folder = manifests(&[("web.yaml", GOOD)]);
        let path = folder.path().to_str().unwrap();
        let end = run_to_end(&["explain", "https://web.example/a", "--manifests", path]);
        assert_eq!(end.code, Some(0), "{}", end.stderr);
        assert!(end.stdout.contains("-> ") && end.stdout.contains("default/web:80"), "{}", end.stdout);
        let json = run_to_end(&["explain", "nobody.example", "--manifests", path, "-o", "json"]);
        let document: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert!(document["result"].as_str().is_some_and(|result| result.starts_with("404")), "{document}");
    }
}

mod packets {
    use super::*;

    const BOUND: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: vips, namespace: sluicegate-system}
data: {"192.0.2.10": shop/web, "2001-db8--10": "shop/web:TUNNEL"}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
endpoints: [{addresses: ["198.51.100.101"]}, {addresses: ["198.51.100.102"]}]
"#;

    #[test]
    fn explaining_from_manifests_needs_no_director() {
        let folder = manifests(&[("vips.yaml", BOUND)]);
        let ask = |packet: &str| {
            let end = run_to_end(&["explain", packet, "--manifests", folder.path().to_str().unwrap(), "-o", "json"]);
            assert_eq!(end.code, Some(0), "{}", end.stderr);
            serde_json::from_str::<serde_json::Value>(&end.stdout).expect("JSON")
        };
        let mut reached = std::collections::BTreeSet::new();
        for port in 40_000..40_012 {
            let told = ask(&format!("tcp,198.51.100.7:{port},192.0.2.10:80"));
            assert_eq!((&told["verdict"], &told["reason"]), (&"forwarded".into(), &"flow_new".into()), "{told:#}");
            assert_eq!(told["ring"]["real_server"], told["real_server"], "{told:#}");
            reached.insert(told["real_server"].as_str().unwrap().to_owned());
        }
        assert_eq!(reached.len(), 2, "both real servers get some: {reached:?}");
        let told = ask("udp,198.51.100.7:40000,192.0.2.10:80");
        assert_eq!(told["reason"], "no_service", "{told:#}");
        let codes: Vec<&str> =
            told["candidates"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["other_protocol", "other_port"], "{told:#}");
        assert_eq!(ask("icmp,2001:db8::7,2001:db8::10")["reason"], "echo_answered");
        assert_eq!(ask("tcp,198.51.100.7:1,192.0.2.99:80")["reason"], "not_vip");
        let text = run_to_end(&[
            "explain",
            "tcp,198.51.100.7:40000,192.0.2.10:80",
            "--manifests",
            folder.path().to_str().unwrap(),
        ]);
        for part in ["ASSUMED", "REAL SERVER", "->", "slot ", "scheduler mh"] {
            assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
        }
    }

    #[test]
    fn a_gateway_that_forwards_nothing_says_so() {
        let folder = manifests(&[]);
        let gateway = Gateway::start(&folder, &["--forward", "off"]);
        let admin = gateway.admin.to_string();
        let explained = run_to_end(&["explain", "tcp,198.51.100.7:40000,192.0.2.10:80", "--admin", &admin]);
        assert_eq!(explained.code, Some(1));
        assert_one_line(&["explain"], &explained.stderr, &["503", "no packets are forwarded here"]);
        let tapped = run_to_end(&["tap", "--packet", "--admin", &admin]);
        assert_eq!(tapped.code, Some(1));
        assert_one_line(&["tap"], &tapped.stderr, &["503", "no packets are forwarded here"]);
        let stats = run_to_end(&["vips", "--stats", "--rate", "--admin", &admin]);
        assert_eq!(stats.code, Some(0), "{}", stats.stderr);
        assert!(stats.stdout.starts_with("no packets are forwarded"), "{}", stats.stdout);
        assert!(cli_support::get(gateway.metrics, "localhost", "/readyz").starts_with("HTTP/1.1 200"));
    }
}
