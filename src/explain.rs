//! `explain URL|PACKET`: which rule or virtual IP takes it and why the others do not, asked of the running gateway or of manifests.

mod packet;

use crate::check::Reading;
use crate::cli::{ExplainArguments, OutputFormat};
use crate::output::{Table, print};
use crate::{Failure, admin_client};
use http::Uri;
use http::uri::Scheme;
use serde_json::{Value, json};
use sluicegate_config::Desired;
use sluicegate_config::TlsTreatment;
use sluicegate_config::diff::diff;
use sluicegate_forward::packet_tuple::PacketTuple;
use sluicegate_route::RouteTable;

pub fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let target = &arguments.target;
    if looks_like_a_packet(target) {
        return packet::explain(arguments);
    }
    // The text is checked here too, so that nonsense is a usage error and needs no gateway.
    Target::parse(target).map_err(Failure::Usage)?;
    let explanation = if arguments.manifests.is_empty() {
        admin_client::get(&arguments.admin, &format!("/api/v1/explain?url={}", encoded(target)))?
    } else {
        let reading = Reading::of(&arguments.manifests, &arguments.translate)?;
        let table = RouteTable::empty().with(&diff(&Desired::default(), reading.controller.desired()));
        by_table(&table, target).map_err(Failure::Usage)?
    };
    match arguments.output {
        OutputFormat::Json => print(&format!("{explanation:#}\n"))?,
        OutputFormat::Table => print(&render(&explanation))?,
    }
    Ok(())
}

/// A URL has no comma before its path; what begins with a word and a comma is meant as a packet.
fn looks_like_a_packet(text: &str) -> bool {
    PacketTuple::is_meant_by(text) || text.split_once(',').is_some_and(|(word, _)| !word.contains(['/', '.', ':']))
}

/// The answer of a table, as the admin API gives it.
pub fn by_table(table: &RouteTable, url: &str) -> Result<Value, String> {
    let target = Target::parse(url)?;
    let explanation = table.explain(target.authority.as_bytes(), target.path.as_bytes());
    let mut value = serde_json::to_value(&explanation).map_err(|error| error.to_string())?;
    if target.tls {
        value["tls"] = tls(table, &target.host);
    }
    Ok(value)
}

/// What happens to the TLS connection before any request.
fn tls(table: &RouteTable, host: &str) -> Value {
    let Some(name) = table.server_name(host) else {
        return json!({"treatment": "default_certificate", "because": "no Ingress lists the host under spec.tls"});
    };
    let origin = name.origin.to_string();
    match &name.treatment {
        TlsTreatment::Certificate(id) => {
            json!({"treatment": "certificate", "certificate": id.to_string(), "origin": origin})
        }
        TlsTreatment::DefaultCertificate => {
            json!({"treatment": "default_certificate", "because": "the Secret is missing or not usable", "origin": origin})
        }
        TlsTreatment::Passthrough(id) => {
            json!({"treatment": "passthrough", "backend": id.to_string(), "origin": origin})
        }
    }
}

/// A URL, taken apart.
#[derive(Debug)]
struct Target {
    tls: bool,
    authority: String,
    host: String,
    path: String,
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?}: {why}; give a URL such as https://shop.example/cart");
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri = full.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => match uri.scheme_str() {
                Some("ws" | "grpc") => false,
                Some("wss" | "grpcs") => true,
                _ => return Err(wrong("the scheme is neither http nor https")),
            },
        };
        let authority = uri.authority().ok_or_else(|| wrong("there is no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user name does not belong into it"));
        }
        let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let path = match uri.path() {
            "" => "/",
            path => path,
        };
        Ok(Self { tls, authority: authority.as_str().to_owned(), host, path: path.to_owned() })
    }
}

/// Percent-encodes what does not belong into a query value.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn render(explanation: &Value) -> String {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut facts = Table::new(&["HOST", &text(explanation, "host")]);
    if !explanation["claimed_by"].is_null() {
        facts.row([
            "CLAIMED BY".to_owned(),
            format!("{} ({} dialect)", text(explanation, "claimed_by"), text(explanation, "dialect")),
        ]);
    }
    facts.row(["PATH".to_owned(), text(explanation, "path")]);
    let compared = text(explanation, "compared");
    if !compared.is_empty() && compared != text(explanation, "path") {
        facts.row(["COMPARED".to_owned(), compared]);
    }
    if let Some(tls) = explanation.get("tls") {
        let what = [
            text(tls, "treatment").replace('_', " "),
            text(tls, "certificate"),
            text(tls, "backend"),
            text(tls, "because"),
        ];
        let mut said = what.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        if let Some(origin) = tls.get("origin").and_then(Value::as_str) {
            said.push_str(&format!(" ({origin})"));
        }
        facts.row(["TLS".to_owned(), said]);
    }
    facts.row(["RESULT".to_owned(), text(explanation, "result")]);
    let mut out = facts.render();
    let candidates = explanation["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if candidates.is_empty() {
        return out;
    }
    let mut table = Table::new(&["", "HOST", "PATH", "TARGET", "INGRESS", "RULE", "BECAUSE"]);
    for candidate in candidates {
        let won = candidate["reason"]["code"] == "won";
        let ingress = &candidate["origin"]["ingress"];
        table.row([
            if won { "->".to_owned() } else { String::new() },
            text(candidate, "host"),
            text(candidate, "path"),
            text(candidate, "target"),
            format!("{}/{}", text(ingress, "namespace"), text(ingress, "name")),
            text(&candidate["origin"], "field"),
            text(candidate, "because"),
        ]);
    }
    out.push('\n');
    out.push_str(&table.render());
    if let Some(omitted) = explanation["omitted"].as_u64().filter(|omitted| *omitted > 0) {
        out.push_str(&format!("and {omitted} more whose path does not match\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let table = [
            ("https://Shop.Example:8443/cart?x=1", (true, "Shop.Example:8443", "shop.example", "/cart")),
            ("shop.example", (false, "shop.example", "shop.example", "/")),
            ("http://[2001:db8::1]:80/a", (false, "[2001:db8::1]:80", "2001:db8::1", "/a")),
            ("wss://chat.example./ws", (true, "chat.example.", "chat.example", "/ws")),
        ];
        for (text, expected) in table {
            let target = Target::parse(text).expect(text);
            assert_eq!((target.tls, target.authority.as_str(), target.host.as_str(), target.path.as_str()), expected);
        }
        for bad in ["", "ftp://a/", "http://", "http://u@h/", "a b", "/path"] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("http://a/b?c=d&e=%41"), "http://a/b%3Fc%3Dd%26e%3D%2541");
    }
}
