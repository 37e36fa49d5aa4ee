//! Kubernetes manifests as text: what a cluster would hold for the routes that are measured.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

/// The namespace of what is measured.
pub const NAMESPACE: &str = "bench";

/// The class of every Ingress here.
pub const INGRESS_CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: sluicegate\nspec:\n  \
                                 controller: sluicegate.io/ingress\n";

/// A TLS Secret of two PEM texts.
pub fn secret(certificate: &str, key: &str) -> String {
    let block = |pem: &str| pem.lines().fold(String::new(), |text, line| text + "    " + line + "\n");
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata:\n  name: tls\n  namespace: {NAMESPACE}\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(certificate),
        block(key)
    )
}

/// A Service with one port called http.
pub fn service(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  selector:\n    app: {name}\n  \
         ports:\n  - name: http\n    port: 80\n    targetPort: http\n"
    )
}

/// The EndpointSlice of a Service.
pub fn slice(name: &str, namespace: &str, addresses: &[String], port: u16) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-x7k2p\n  namespace: {namespace}\n  labels:\n    \
         kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- name: http\n  port: {port}\n  protocol: TCP\nendpoints:\n"
    );
    for (at, address) in addresses.iter().enumerate() {
        let _infallible = write!(
            text,
            "- addresses: [{address}]\n  conditions: {{ready: true, serving: true, terminating: false}}\n  nodeName: node-{}\n  \
             targetRef: {{kind: Pod, name: {name}-{at}, namespace: {namespace}}}\n",
            at % 500
        );
    }
    text
}

/// An Ingress of one host.
pub struct Ingress<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The host of its rule.
    pub host: &'a str,
    /// Path prefixes, and the Services that they lead to.
    pub paths: &'a [(&'a str, &'a str)],
    /// With the certificate of [`secret`].
    pub tls: bool,
    /// Annotations: name and value.
    pub annotations: &'a [(&'a str, &'a str)],
}

impl Ingress<'_> {
    /// As YAML.
    pub fn text(&self) -> String {
        let Self { name, namespace, host, paths, tls, annotations } = self;
        let mut text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: {namespace}\n"
        );
        if !annotations.is_empty() {
            text.push_str("  annotations:\n");
        }
        for (name, value) in *annotations {
            let _infallible = writeln!(text, "    {name}: \"{value}\"");
        }
        text.push_str("spec:\n  ingressClassName: sluicegate\n");
        if *tls {
            let _infallible = write!(text, "  tls:\n  - hosts: [{host}]\n    secretName: tls\n");
        }
        let _infallible = write!(text, "  rules:\n  - host: {host}\n    http:\n      paths:\n");
        for (path, service) in *paths {
            let _infallible = write!(
                text,
                "      - path: {path}\n        pathType: Prefix\n        backend:\n          service:\n            name: {service}\n            \
                 port:\n              name: http\n"
            );
        }
        text
    }
}

/// One file of several documents, put in place at once, as deployment tools do. Returns the moment of that.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write<T: AsRef<str>>(path: &Path, documents: &[T]) -> io::Result<Instant> {
    let texts: Vec<&str> = documents.iter().map(AsRef::as_ref).collect();
    replace(path, &texts.join("---\n"))
}

/// Puts a file in place of another one in one step. Returns the moment of that.
///
/// # Errors
/// Where the folder cannot be written.
pub fn replace(path: &Path, text: &str) -> io::Result<Instant> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.new"));
    fs::write(&beside, text)?;
    let moment = Instant::now();
    fs::rename(beside, path)?;
    Ok(moment)
}
