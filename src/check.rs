//! `check`: what each object of the manifests becomes, and what is rejected.

mod nginx_settings;

use crate::Failure;
use crate::cli::{CheckArguments, OutputFormat};
use crate::options::TranslateOptions;
use crate::output::{Table, print, printable};
use anyhow::Context as _;
use serde_json::json;
use sluicegate_config::{
    Action, Kind, Method, ObjectRef, Redirect, Rejection, Route, TlsTreatment, Verdict, VipPort, VipService,
    VirtualHost,
};
use sluicegate_translate::{Controller, Object, ObjectChange};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn check(arguments: &CheckArguments) -> Result<(), Failure> {
    let reading = Reading::of(&arguments.paths, &arguments.translate)?;
    let becomes = reading.becomes();
    let rejections = reading.controller.rejections().chain(&reading.elsewhere).cloned().collect::<Vec<_>>();
    let count = |verdict| rejections.iter().filter(|rejection| rejection.verdict == verdict).count();
    let counts = [Verdict::Rejected, Verdict::Warning, Verdict::Ignored].map(count);
    match arguments.output {
        OutputFormat::Json => {
            let objects = becomes.iter().map(|(object, lines)| json!({"object": object, "becomes": lines}));
            let document = json!({
                "objects": objects.collect::<Vec<_>>(),
                "rejections": rejections,
                "rejected": counts[0], "warnings": counts[1], "ignored": counts[2],
            });
            print(&format!("{document:#}\n"))?;
        }
        OutputFormat::Table => print(&report(&becomes, &rejections, counts))?,
    }
    if counts[0] > 0 { Err(Failure::Silent) } else { Ok(()) }
}

fn report(becomes: &BTreeMap<ObjectRef, Vec<String>>, rejections: &[Rejection], counts: [usize; 3]) -> String {
    let mut out = String::new();
    if becomes.is_empty() {
        out.push_str("no objects that the gateway reads\n");
    } else {
        let mut table = Table::new(&["OBJECT", "BECOMES"]);
        for (object, lines) in becomes {
            for (at, line) in lines.iter().enumerate() {
                table.row([if at == 0 { object.to_string() } else { String::new() }, line.clone()]);
            }
        }
        out.push_str(&table.render());
    }
    if !rejections.is_empty() {
        out.push('\n');
    }
    for rejection in rejections {
        out.push_str(&printable(&rejection.to_string()));
        out.push('\n');
    }
    let [rejected, warnings, ignored] = counts;
    out.push_str(&format!(
        "\n{} objects, {rejected} rejected, {warnings} warnings, {ignored} ignored\n",
        becomes.len()
    ));
    out
}

/// Manifests, read once and translated.
pub struct Reading {
    pub controller: Controller,
    /// The objects that were read, with what is seen in them alone.
    objects: BTreeMap<ObjectRef, String>,
    /// What stands in objects that the gateway does not read, and is to be said otherwise.
    elsewhere: Vec<Rejection>,
}

impl Reading {
    /// Reads folders and files.
    pub fn of(paths: &[PathBuf], options: &TranslateOptions) -> anyhow::Result<Self> {
        let loaded = sluicegate_source::load(paths)?;
        let mut controller = Controller::new(options.settings([]).context("--vip-pool")?);
        let objects = loaded.changes.iter().filter_map(|change| match change {
            ObjectChange::Set(object) => Some((object.reference(), own_words(object))),
            ObjectChange::Remove(_) => None,
        });
        let objects = objects.collect();
        let elsewhere = nginx_settings::notes(&loaded.changes);
        controller.apply(loaded.changes, unix_now());
        controller.give_addresses(true, unix_now());
        for (file, rejections) in loaded.file_rejections {
            controller.set_file_rejections(&file, rejections);
        }
        Ok(Self { controller, objects, elsewhere })
    }

    /// For each object, in words, what it leads to.
    fn becomes(&self) -> BTreeMap<ObjectRef, Vec<String>> {
        let mut becomes = self.objects.keys().map(|object| (object.clone(), Vec::new())).collect::<BTreeMap<_, _>>();
        let mut say = |object: &ObjectRef, line: String| {
            if let Some(lines) = becomes.get_mut(object) {
                lines.push(line);
            }
        };
        self.say_routes(&mut say);
        self.say_backends(&mut say);
        self.say_certificates(&mut say);
        self.say_addresses(&mut say);
        for (object, lines) in &mut becomes {
            let own = &self.objects[object];
            if !own.is_empty() {
                lines.insert(0, own.clone());
            } else if lines.is_empty() {
                lines.push("nothing: no object that is served uses it".to_owned());
            }
        }
        becomes
    }

    fn say_routes(&self, say: &mut impl FnMut(&ObjectRef, String)) {
        for host in self.controller.desired().routes.values() {
            for route in host.routes.iter().chain(&host.fallback) {
                say(&route.origin.ingress, route_line(host, route));
            }
        }
        for (pattern, name) in &self.controller.desired().server_names {
            let treatment = match &name.treatment {
                TlsTreatment::Certificate(id) => format!("with the certificate of Secret {id}"),
                TlsTreatment::DefaultCertificate => "with the default certificate".to_owned(),
                TlsTreatment::Passthrough(id) => format!("passed through to {id}"),
            };
            say(&name.origin, format!("TLS for {pattern} {treatment}"));
        }
    }

    fn say_backends(&self, say: &mut impl FnMut(&ObjectRef, String)) {
        for backend in self.controller.desired().backends.values() {
            let service = ObjectRef::new(Kind::Service, backend.id.namespace.clone(), backend.id.service.clone());
            let to = match (&backend.external, backend.endpoints.len(), &backend.unavailable) {
                (Some((name, port)), _, _) => format!("{name}:{port}"),
                (None, 0, Some(why)) => format!("nothing ({why})"),
                (None, 0, None) => "no endpoints".to_owned(),
                (None, 1, _) => "1 endpoint".to_owned(),
                (None, count, _) => format!("{count} endpoints"),
            };
            say(&service, format!("backend {} ({}): {to}", backend.id, backend.protocol));
        }
    }

    fn say_certificates(&self, say: &mut impl FnMut(&ObjectRef, String)) {
        for certificate in self.controller.desired().certificates.values() {
            let id = &certificate.id;
            let secret = ObjectRef::new(Kind::Secret, id.namespace.clone(), id.name.clone());
            let days = (certificate.not_after - unix_now()).div_euclid(86_400);
            say(&secret, format!("certificate for {}, valid for {days} days more", certificate.names.join(", ")));
        }
    }

    fn say_addresses(&self, say: &mut impl FnMut(&ObjectRef, String)) {
        let desired = self.controller.desired();
        for vip in desired.vips.values() {
            let services = vip.services.iter().map(|service| format!("{}/{}", service.namespace, service.service));
            let services = services.collect::<Vec<_>>().join(", ");
            let services = if services.is_empty() { "announced alone".to_owned() } else { services };
            if vip.origin.kind == Kind::ConfigMap {
                say(&vip.origin, format!("VIP {}: {services}", vip.address));
            }
            for service in &vip.services {
                let object = ObjectRef::new(Kind::Service, service.namespace.clone(), service.service.clone());
                let pool = self.controller.objects().pool_of(vip.address);
                let from = pool.map(|pool| format!(" (pool {pool})")).unwrap_or_default();
                service.ports.iter().for_each(|port| say(&object, vip_line(vip.address, &from, service, port)));
            }
        }
        for listener in desired.listeners.values() {
            say(&listener.origin, format!("TCP port {} to {}", listener.port, listener.backend));
        }
    }
}

fn vip_line(vip: IpAddr, from: &str, service: &VipService, port: &VipPort) -> String {
    let method = match service.method {
        Some(method) => method.to_string(),
        None if service.into_pods => format!("{} (the endpoints are pods)", Method::Pod),
        None => "the method that fits".to_owned(),
    };
    let scheduler = service.options.scheduler;
    let count = port.reals.len();
    let plural = if count == 1 { "" } else { "s" };
    let what = match port.reals.iter().filter_map(|real| real.pods).sum::<u32>() {
        _ if !service.into_pods => format!("{count} real server{plural}"),
        1 => format!("{count} node{plural} with 1 pod"),
        pods => format!("{count} node{plural} with {pods} pods"),
    };
    format!("VIP {vip}{from} {}/{}: {what} by {scheduler} and {method}", port.protocol, port.port)
}

fn route_line(host: &VirtualHost, route: &Route) -> String {
    let is_fallback = host.fallback.as_ref().is_some_and(|fallback| fallback.origin == route.origin);
    let path = if is_fallback { "(default)".to_owned() } else { route.path.to_string() };
    let action = match &route.action {
        Action::Forward(id) => format!("to {id}"),
        Action::Redirect(Redirect::AppendSlash) => "redirect to the path with a slash".to_owned(),
        Action::Deny(reason) => format!("denied with 503: {reason}"),
    };
    format!("{} {path} {action}", host.host)
}

/// What is seen in an object without the others.
fn own_words(object: &Object) -> String {
    match object {
        Object::IngressClass(class) => {
            let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or("(none)");
            format!("class of controller {controller}")
        }
        Object::EndpointSlice(slice) => {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            let service = service.map_or("no Service (no label kubernetes.io/service-name)", String::as_str);
            let count = slice.endpoints.as_ref().map_or(0, Vec::len);
            format!("{count} endpoint{} of {service}", if count == 1 { "" } else { "s" })
        }
        Object::Node(node) => {
            let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten();
            let internal: Vec<&str> =
                addresses.filter(|one| one.type_ == "InternalIP").map(|one| one.address.as_str()).collect();
            match internal.as_slice() {
                [] => "node without an address of type InternalIP".to_owned(),
                internal => format!("node at {}", internal.join(", ")),
            }
        }
        Object::Namespace(namespace) => {
            let count = namespace.metadata.labels.as_ref().map_or(0, BTreeMap::len);
            format!("namespace with {count} label{}", if count == 1 { "" } else { "s" })
        }
        _ => String::new(),
    }
}

/// Seconds since the Unix epoch.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
