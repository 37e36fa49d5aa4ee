//! One value as a Kubernetes object of the kinds that the gateway reads.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluicegate_config::{Kind, ObjectRef};
use sluicegate_translate::Object;
use std::sync::Arc;

/// Unknown fields of one object that are named before the rest is only counted.
const MAX_UNKNOWN_FIELDS: usize = 8;

/// What a value turned out to be.
pub(crate) enum Decoded {
    /// An object that the gateway reads, and the paths of fields that nobody knows.
    Object(Box<Object>, Vec<String>),
    /// A kind that the gateway does not read.
    OtherKind(String),
    /// Not an object that an API server would take.
    Refused(Refusal),
}

/// Why an API server would not take an object.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Which object, where kind and name can be read.
    pub object: Option<ObjectRef>,
    /// The field at fault.
    pub field: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Reads one object. `kind` and `apiVersion` may come from a surrounding list.
pub(crate) fn decode(value: &Value, defaults: &TypeMeta) -> Decoded {
    let types = match TypeMeta::of(value, defaults) {
        Ok(types) => types,
        Err(refusal) => return Decoded::Refused(refusal),
    };
    let Some((kind, version)) = known_kind(&types) else {
        return Decoded::OtherKind(format!("{} ({})", types.kind, types.api_version));
    };
    let reference = match reference(kind, value) {
        Ok(reference) => reference,
        Err(refusal) => return Decoded::Refused(refusal),
    };
    if types.api_version != version {
        return Decoded::Refused(Refusal {
            object: Some(reference),
            field: "apiVersion".to_owned(),
            reason: format!("`{}` is not a version of {kind} that Kubernetes still serves", types.api_version),
            remedy: format!("convert the object to `{version}` (kubectl convert does it)"),
        });
    }
    let result = match kind {
        Kind::Ingress => typed::<Ingress>(value, &reference, Object::Ingress),
        Kind::IngressClass => typed::<IngressClass>(value, &reference, Object::IngressClass),
        Kind::Service => typed::<Service>(value, &reference, Object::Service),
        Kind::EndpointSlice => typed::<EndpointSlice>(value, &reference, Object::EndpointSlice),
        Kind::Secret => typed::<Secret>(value, &reference, |secret| Object::Secret(merge_string_data(secret))),
        Kind::ConfigMap => typed::<ConfigMap>(value, &reference, Object::ConfigMap),
        Kind::Node => typed::<Node>(value, &reference, Object::Node),
        Kind::Namespace => typed::<Namespace>(value, &reference, Object::Namespace),
        Kind::File => return Decoded::OtherKind(types.kind),
    };
    match result {
        Ok((object, unknown)) => Decoded::Object(Box::new(object), unknown),
        Err(refusal) => Decoded::Refused(refusal),
    }
}

/// `apiVersion` and `kind`.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypeMeta {
    pub api_version: String,
    pub kind: String,
}

impl TypeMeta {
    fn of(value: &Value, defaults: &Self) -> Result<Self, Refusal> {
        let Value::Object(map) = value else {
            return Err(Refusal {
                object: None,
                field: "(document)".to_owned(),
                reason: "this is not a mapping with apiVersion, kind and metadata".to_owned(),
                remedy: "move what is not a Kubernetes object out of the folder".to_owned(),
            });
        };
        let text = |field: &str, default: &str| match map.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            None if !default.is_empty() => Ok(default.to_owned()),
            _ => Err(Refusal {
                object: None,
                field: field.to_owned(),
                reason: "a Kubernetes object needs apiVersion and kind as strings".to_owned(),
                remedy: format!("set `{field}`, or move what is not a Kubernetes object out of the folder"),
            }),
        };
        Ok(Self { api_version: text("apiVersion", &defaults.api_version)?, kind: text("kind", &defaults.kind)? })
    }

    /// For `kind: List`, `IngressList` and so on: what its items are where they do not say it themselves.
    pub fn of_items(value: &Value) -> Option<Self> {
        let map = value.as_object()?;
        let item = map.get("kind")?.as_str()?.strip_suffix("List")?;
        map.contains_key("items").then(|| Self {
            api_version: match (item, map.get("apiVersion").and_then(Value::as_str)) {
                ("", _) | (_, None) => String::new(),
                (_, Some(version)) => version.to_owned(),
            },
            kind: item.to_owned(),
        })
    }
}

/// The kind, and the one version of it that is read. Other groups have kinds of these names too (a Knative Service, say).
fn known_kind(types: &TypeMeta) -> Option<(Kind, &'static str)> {
    let group = types.api_version.split_once('/').map_or("", |(group, _)| group);
    Some(match (group, types.kind.as_str()) {
        ("networking.k8s.io" | "extensions", "Ingress") => (Kind::Ingress, Ingress::API_VERSION),
        ("networking.k8s.io", "IngressClass") => (Kind::IngressClass, IngressClass::API_VERSION),
        ("discovery.k8s.io", "EndpointSlice") => (Kind::EndpointSlice, EndpointSlice::API_VERSION),
        ("", "Service") => (Kind::Service, Service::API_VERSION),
        ("", "Secret") => (Kind::Secret, Secret::API_VERSION),
        ("", "ConfigMap") => (Kind::ConfigMap, ConfigMap::API_VERSION),
        ("", "Node") => (Kind::Node, Node::API_VERSION),
        ("", "Namespace") => (Kind::Namespace, Namespace::API_VERSION),
        _ => return None,
    })
}

/// Names the object; without a namespace it is in `default`, as kubectl has it.
fn reference(kind: Kind, value: &Value) -> Result<ObjectRef, Refusal> {
    let metadata = value.get("metadata").and_then(Value::as_object);
    let text = |field: &str| metadata.and_then(|metadata| metadata.get(field)).filter(|value| !value.is_null());
    let refuse = |object, field: &str, reason: String, remedy: &str| Refusal {
        object,
        field: format!("metadata.{field}"),
        reason,
        remedy: remedy.to_owned(),
    };
    let name = match text("name") {
        Some(Value::String(name)) if is_dns_name(name, 253) => name.as_str(),
        Some(other) => {
            return Err(refuse(
                None,
                "name",
                format!("{other} is not a name for {kind}"),
                "use a quoted name of lower-case letters, digits, `-` and `.`",
            ));
        }
        None => {
            return Err(refuse(None, "name", format!("this {kind} has no name"), "set metadata.name"));
        }
    };
    let namespace = match text("namespace") {
        _ if !kind.is_namespaced() => "",
        None => "default",
        Some(Value::String(namespace)) if namespace.is_empty() => "default",
        Some(Value::String(namespace)) if is_dns_name(namespace, 63) => namespace.as_str(),
        Some(other) => {
            return Err(refuse(
                None,
                "namespace",
                format!("{other} is not a namespace (of {kind} {name})"),
                "use a quoted name of lower-case letters, digits and `-`",
            ));
        }
    };
    Ok(ObjectRef::new(kind, namespace, name))
}

/// A DNS-1123 name as the API server asks of `metadata.name` (RFC 1123 section 2.1; lower case).
fn is_dns_name(name: &str, longest: usize) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= longest
        && name.bytes().all(|byte| edge(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge)
}

fn typed<T>(value: &Value, reference: &ObjectRef, wrap: fn(T) -> Object) -> Result<(Object, Vec<String>), Refusal>
where
    T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
{
    let mut unknown = Vec::new();
    let mut more = 0_usize;
    let read = serde_ignored::deserialize::<_, _, T>(value, |path| {
        if unknown.len() < MAX_UNKNOWN_FIELDS {
            unknown.push(field_path(&path.to_string()));
        } else {
            more += 1;
        }
    });
    match read {
        Ok(mut object) => {
            if more > 0 {
                unknown.push(format!("and {more} more"));
            }
            let metadata = object.metadata_mut();
            metadata.namespace = (!reference.namespace.is_empty()).then(|| reference.namespace.to_string());
            Ok((wrap(object), unknown))
        }
        // The path costs time, so it is looked for only where there is an error to explain.
        Err(error) => Err(match serde_path_to_error::deserialize::<_, T>(value) {
            Err(located) => wrong_type(reference, &located.path().to_string(), &located.inner().to_string()),
            Ok(_) => wrong_type(reference, "(object)", &error.to_string()),
        }),
    }
}

fn wrong_type(reference: &ObjectRef, field: &str, message: &str) -> Refusal {
    if reference.kind == Kind::Secret && (field.starts_with("data") || field.starts_with("stringData")) {
        // What serde says quotes the value, which is nobody's business in a log.
        return Refusal {
            object: Some(reference.clone()),
            field: field.to_owned(),
            reason: "wrong type: `data` holds base64 and `stringData` plain text, both as strings".to_owned(),
            remedy: "encode the value in base64, or put the plain text under `stringData`".to_owned(),
        };
    }
    let remedy = if message.contains("expected a string") || message.contains("expected string") {
        "put the value in quotes"
    } else if message.contains("invalid type: string") && (message.contains("i32") || message.contains("i64")) {
        "write the number without quotes"
    } else if message.contains("invalid type: string") && message.contains("bool") {
        "write true or false without quotes"
    } else {
        "give the field the type that `kubectl explain` shows for it"
    };
    Refusal {
        object: Some(reference.clone()),
        field: field.to_owned(),
        reason: format!("wrong type: {message}"),
        remedy: remedy.to_owned(),
    }
}

/// serde_ignored writes `spec.rules.0.host` with `?` for optional levels; users know `spec.rules[0].host`.
fn field_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('.').filter(|segment| *segment != "?") {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push('[');
            out.push_str(segment);
            out.push(']');
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(segment);
        }
    }
    out
}

/// `stringData` is write-only: an API server merges it into `data` (it wins there), and so must a folder.
fn merge_string_data(mut secret: Secret) -> Secret {
    if let Some(plain) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(plain.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))));
    }
    secret
}

/// The object that a whole file stands for in rejections.
pub(crate) fn file_reference(path: &Arc<str>) -> ObjectRef {
    ObjectRef::new(Kind::File, "", Arc::clone(path))
}
