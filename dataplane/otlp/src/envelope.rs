//! A batch of spans as `ExportTraceServiceRequest`: `resource_spans { resource, scope_spans { scope, spans…, schema_url } }`.
//! All but the spans is the same for every batch and written once.

use crate::messages::{KeyValue, Resource, Scope, Text};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use sluicegate_telemetry::span::{SCHEMA_URL, SpanRecord};

/// What stands around the spans.
pub struct Envelope {
    /// Field `resource` of `ResourceSpans`.
    resource: Vec<u8>,
    /// Field `scope` of `ScopeSpans`.
    scope: Vec<u8>,
    /// Field `schema_url` of `ScopeSpans`.
    schema: Vec<u8>,
}

impl Envelope {
    /// Spans come from this resource.
    pub fn new(attributes: &[(String, String)]) -> Self {
        let attributes = attributes
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: Some(Text { string_value: Some(value.clone()) }) });
        let scope = Scope { name: "sluicegate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        Self {
            resource: field(1, &Resource { attributes: attributes.collect() }.encode_to_vec()),
            scope: field(1, &scope.encode_to_vec()),
            schema: field(3, SCHEMA_URL.as_bytes()),
        }
    }

    /// The request for a batch.
    pub fn around(&self, batch: &[SpanRecord]) -> Vec<u8> {
        let spans: usize = batch.iter().map(|record| record.bytes.len()).sum();
        let in_scope = self.scope.len() + spans + self.schema.len();
        let in_resource = self.resource.len() + 1 + encoded_len_varint(in_scope as u64) + in_scope;
        let mut out = Vec::with_capacity(1 + 10 + in_resource);
        begin(&mut out, 1, in_resource);
        out.extend_from_slice(&self.resource);
        begin(&mut out, 2, in_scope);
        out.extend_from_slice(&self.scope);
        batch.iter().for_each(|record| out.extend_from_slice(&record.bytes));
        out.extend_from_slice(&self.schema);
        out
    }
}

fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    begin(&mut out, number, content.len());
    out.extend_from_slice(content);
    out
}

fn begin(out: &mut Vec<u8>, number: u32, length: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}
