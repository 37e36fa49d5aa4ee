//! What a demo that stays up prints: what there is to try, to look into and to change.

use super::laboratory::{HTTP_PORT, Laboratory, SPARE, STORE, Tier, UDP_PORT, VIP_PAIRS};
use super::stage::Stage;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// The last line.
pub const END: &str = "\nCtrl-C ends it and removes what it made.\n";

/// What there is to try with the gateway on this machine.
pub fn of_gateway(stage: &Stage) -> String {
    let mut text = String::new();
    for (wanted, got) in stage.moved_ports() {
        line(&mut text, &format!("{wanted} is taken; using {got}"));
    }
    let (http, https) = (stage.http(), stage.https());
    let folder = stage.folder().display();
    let resolve = |host: &str, port: u16| format!("--resolve {host}:{port}:{}", http.ip());
    line(&mut text, &format!("Sluicegate serves the manifests in {folder}"));
    line(&mut text, &format!("  HTTP  http://{http}   HTTPS https://{https}   status page http://{}", stage.admin()));
    line(&mut text, "");
    line(&mut text, "Try:");
    let plain =
        |host: &str, path: &str| format!("  curl {} http://{host}:{}{path}", resolve(host, http.port()), http.port());
    let secure = |host: &str, path: &str, more: &str| {
        format!("  curl -k{more} {} https://{host}:{}{path}", resolve(host, https.port()), https.port())
    };
    for request in [
        plain("shop.example", "/"),
        plain("shop.example", "/cart/checkout") + "    # the longest prefix wins",
        plain("blog.example", "/") + "             # another virtual host",
        plain("any.apps.example", "/") + "         # a wildcard",
        plain("blog.example", "/empty") + "        # a Service without endpoints",
        secure("shop.example", "/", " -v") + "     # TLS by server name, HTTP/2",
        secure("grpc.example", "/", "") + "        # gRPC backends speak h2c",
        format!(
            "  curl --http1.1 -N {} -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
             -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' 'http://chat.example:{}/ws?hello=1' --output -    # WebSocket, Ctrl-C ends it",
            resolve("chat.example", http.port()),
            http.port()
        ),
    ] {
        line(&mut text, &request);
    }
    line(&mut text, "");
    line(&mut text, "See inside:");
    let admin = stage.admin();
    for command in ["routes", "backends", "explain http://shop.example/cart/checkout"] {
        line(&mut text, &format!("  sluicegate {command} --admin {admin}"));
    }
    line(&mut text, "");
    line(&mut text, &format!("Change it live: edit {folder}/blog.yaml, save, and ask again."));
    text
}

/// What there is to try in the network of namespaces.
pub fn of_packets(laboratory: &Laboratory) -> String {
    let mut text = String::new();
    let client = laboratory.client();
    let name = client.namespace.path().display().to_string();
    // What all names of namespaces begin with; the shell puts the host behind it.
    let all = name.trim_end_matches(client.namespace.label());
    let folder = laboratory.folder().display();
    let program = std::env::current_exe().map_or("sluicegate".to_owned(), |path| path.display().to_string());
    line(&mut text, "");
    line(
        &mut text,
        "Packets: a director forwards by XDP between namespaces; replies go past it, straight to the client",
    );
    line(
        &mut text,
        "  client1 -- router -+- lan   director1, near1 to near3                 192.0.2.0/24, 2001:db8:1::/64",
    );
    line(
        &mut text,
        "                     +- farm  far1, far2, gateway1, gateway2, pods      203.0.113.0/24, 2001:db8:2::/64",
    );
    for pair in VIP_PAIRS {
        let [ipv4, ipv6] = pair.addresses();
        let to = pair.tier.bound().collect::<Vec<_>>().join(", ");
        line(&mut text, &format!("  VIP {ipv4}, {ipv6}  {:6}  -> {to}", pair.method.to_string()));
    }
    line(&mut text, "");
    line(&mut text, "Try, as root:");
    line(&mut text, &format!("  lab={all}"));
    let inside = |host: &str| format!("  nsenter --net=${{lab}}{host} ");
    for pair in VIP_PAIRS.into_iter().filter(|pair| pair.tier != Tier::Gateways) {
        for vip in pair.addresses() {
            line(&mut text, &format!("{}curl 'http://{}/'", inside("client1"), SocketAddr::new(vip, HTTP_PORT)));
        }
    }
    for pair in VIP_PAIRS.into_iter().filter(|pair| pair.tier == Tier::Gateways) {
        let [ipv4, ipv6] = pair.addresses();
        line(&mut text, &format!("{}curl --resolve {STORE}:80:{ipv4} http://{STORE}/", inside("client1")));
        line(&mut text, &format!("{}curl -k --resolve '{STORE}:443:[{ipv6}]' https://{STORE}/", inside("client1")));
    }
    line(&mut text, "");
    line(&mut text, "See inside:");
    let vip = VIP_PAIRS[0].addresses()[0];
    let packet = format!("tcp,{},{}", SocketAddr::new(client.ipv4.into(), 40_000), SocketAddr::new(vip, HTTP_PORT));
    for question in ["vips", "vips --stats", &format!("explain {packet}"), "tap --packet --count 20"] {
        line(&mut text, &format!("{}{program} {question}", inside("director1")));
    }
    line(&mut text, &format!("{}{program} routes", inside("gateway1")));
    line(&mut text, &format!("{}tcpdump -ni eth0 host {}    # requests and replies", inside("near1"), vip));
    line(
        &mut text,
        &format!("{}tcpdump -ni director1 port {HTTP_PORT} or port {UDP_PORT}    # requests alone", inside("lan")),
    );
    line(&mut text, &format!("  {folder}/logs/"));
    line(&mut text, "");
    line(
        &mut text,
        &format!("Change it live: add {SPARE}, as {folder}/vips/near.yaml says, save, and look at `vips`."),
    );
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _ok = writeln!(text, "{line}");
}
