//! Kubernetes objects as text, as a user would write them.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// A Service with port 80, and one EndpointSlice for each endpoint (each has a port of its own).
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    of_service(name, "", endpoints)
}

/// The same with an `appProtocol`, such as `kubernetes.io/h2c`.
pub fn service_speaking(name: &str, protocol: &str, endpoints: &[SocketAddr]) -> String {
    of_service(name, &format!(", appProtocol: {protocol}"), endpoints)
}

fn of_service(name: &str, port_extra: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{ports: [{{name: main, port: 80, protocol: TCP{port_extra}}}]}}\n"
    );
    for (index, endpoint) in endpoints.iter().enumerate() {
        let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{index}, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {family}\nports: [{{name: main, port: {}, protocol: TCP}}]\n\
             endpoints: [{{addresses: [\"{}\"], conditions: {{ready: true}}, nodeName: node-{index}, \
             targetRef: {{kind: Pod, name: {name}-{index}, namespace: default}}}}]\n",
            endpoint.port(),
            endpoint.ip(),
        );
    }
    text
}

/// An Ingress with one path.
#[derive(Clone, Debug)]
pub struct Ingress {
    name: String,
    host: Option<String>,
    service: String,
    path: String,
    annotations: Vec<(String, String)>,
    secret: Option<String>,
}

impl Ingress {
    /// Sends everything under `host` to `service`.
    pub fn new(host: &str, service: &str) -> Self {
        let name = host.replace('*', "any").replace('.', "-");
        Self {
            name,
            host: Some(host.to_owned()),
            service: service.to_owned(),
            path: "/".to_owned(),
            annotations: Vec::new(),
            secret: None,
        }
    }

    /// Sends what no other host takes to `service`.
    pub fn any_host(service: &str) -> Self {
        Self { host: None, ..Self::new("catch.all", service) }
    }

    /// Another name than the one that is made of the host.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Another path than `/`.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// An annotation of ingress-nginx, without its prefix.
    pub fn nginx(self, name: &str, value: &str) -> Self {
        self.annotation(&format!("nginx.ingress.kubernetes.io/{name}"), value)
    }

    /// An annotation of our own, without its prefix.
    pub fn own(self, name: &str, value: &str) -> Self {
        self.annotation(&format!("sluicegate.io/{name}"), value)
    }

    fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }

    /// TLS for the host, with the certificate of a Secret.
    pub fn tls(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }

    /// The manifest.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {}\n  namespace: default\n  annotations:\n",
            self.name
        );
        text.push_str("    tests.example/made: \"yes\"\n");
        for (name, value) in &self.annotations {
            let _ = writeln!(text, "    {name}: {value:?}");
        }
        text.push_str("spec:\n");
        if let Some(secret) = &self.secret {
            let host = self.host.as_deref().unwrap_or_default();
            let _ = writeln!(text, "  tls: [{{hosts: [{host:?}], secretName: {secret}}}]");
        }
        text.push_str("  rules:\n  - ");
        if let Some(host) = &self.host {
            let _ = write!(text, "host: {host:?}\n    ");
        }
        let _ = writeln!(
            text,
            "http: {{paths: [{{path: {:?}, pathType: Prefix, backend: {{service: {{name: {}, port: {{number: 80}}}}}}}}]}}",
            self.path, self.service
        );
        text
    }
}

/// Several manifests in one text.
pub fn all<'a>(documents: impl IntoIterator<Item = &'a str>) -> String {
    documents.into_iter().collect::<Vec<_>>().join("\n---\n")
}
