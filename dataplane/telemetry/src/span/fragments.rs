//! What many spans have in common, written once: the attributes that follow from the rule and the endpoint alone. A worker
//! keeps a few dozen such pieces and copies them, since writing them each time costs more than all that is a span's own.

use super::wire::{self, SpanWriter};
use crate::labels::{MethodLabel, Protocol};
use crate::request::{FinishedRequest, RouteTaken, Try};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Pieces of each kind; where two want one place, the later one has it.
const PLACES: usize = 64;

/// Pieces by what they were made of.
pub struct Fragments<K> {
    places: Vec<Option<(K, Box<[u8]>)>>,
}

impl<K> Default for Fragments<K> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

/// What a piece was made of.
pub trait Origin: Sized {
    /// What it is looked up by.
    type Asked<'a>;
    /// Whether it would be the same.
    fn is_of(&self, asked: &Self::Asked<'_>) -> bool;
    /// What has to be kept to know it again.
    fn keep(asked: &Self::Asked<'_>) -> Self;
    /// Where it is looked for; any number does.
    fn place(asked: &Self::Asked<'_>) -> usize;
}

impl<K: Origin> Fragments<K> {
    /// Puts the piece into the span, after writing it where it is not there.
    pub fn put(&mut self, span: &mut SpanWriter<'_>, asked: &K::Asked<'_>, write: impl FnOnce(&mut SpanWriter<'_>)) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let place = &mut self.places[K::place(asked) % PLACES];
        if !matches!(place, Some((known, _)) if known.is_of(asked)) {
            *place = Some((K::keep(asked), wire::attributes(write)));
        }
        if let Some((_, written)) = place {
            span.attributes(written);
        }
    }
}

/// A rule, kept.
struct Rule {
    namespace: Arc<str>,
    ingress: Arc<str>,
    path: Box<str>,
    service: Option<(Arc<str>, Box<str>)>,
}

impl Rule {
    fn keep(route: &RouteTaken<'_>) -> Self {
        Self {
            namespace: Arc::clone(route.namespace),
            ingress: Arc::clone(route.ingress),
            path: route.path.into(),
            service: route.service.map(|(name, port)| (Arc::clone(name), port.into())),
        }
    }

    fn is(&self, route: &RouteTaken<'_>) -> bool {
        let same_service = match (&self.service, route.service) {
            (Some((name, port)), Some((other, other_port))) => same(name, other) && **port == *other_port,
            (None, None) => true,
            _ => false,
        };
        same_service
            && same(&self.ingress, route.ingress)
            && same(&self.namespace, route.namespace)
            && *self.path == *route.path
    }
}

/// Names of one table are mostly the same memory.
fn same(one: &Arc<str>, other: &Arc<str>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn is_rule(rule: &Option<Rule>, route: &Option<RouteTaken<'_>>) -> bool {
    match (rule, route) {
        (Some(rule), Some(route)) => rule.is(route),
        (None, None) => true,
        _ => false,
    }
}

/// What the piece of a server's span is made of.
pub struct Serving {
    method: MethodLabel,
    protocol: Protocol,
    is_tls: bool,
    authority: Box<[u8]>,
    rule: Option<Rule>,
}

impl Origin for Serving {
    type Asked<'a> = &'a FinishedRequest<'a>;

    fn is_of(&self, request: &Self::Asked<'_>) -> bool {
        self.method == request.method_label
            && self.protocol == request.downstream.protocol
            && self.is_tls == request.downstream.tls.is_some()
            && *self.authority == *request.authority
            && is_rule(&self.rule, &request.route)
    }

    fn keep(request: &Self::Asked<'_>) -> Self {
        Self {
            method: request.method_label,
            protocol: request.downstream.protocol,
            is_tls: request.downstream.tls.is_some(),
            authority: request.authority.into(),
            rule: request.route.as_ref().map(Rule::keep),
        }
    }

    fn place(request: &Self::Asked<'_>) -> usize {
        let ingress = request.route.map_or(0, |route| Arc::as_ptr(route.ingress).cast::<u8>().addr() >> 4);
        ingress ^ request.authority.len() ^ request.method_label.index()
    }
}

/// What the piece of a client's span is made of.
pub struct Calling {
    method: MethodLabel,
    protocol: Protocol,
    endpoint: SocketAddr,
    pod: Option<Arc<str>>,
    node: Option<Arc<str>>,
    rule: Option<Rule>,
}

impl Origin for Calling {
    type Asked<'a> = (&'a FinishedRequest<'a>, &'a Try);

    fn is_of(&self, (request, attempt): &Self::Asked<'_>) -> bool {
        let is = |kept: &Option<Arc<str>>, name: &Option<Arc<str>>| match (kept, name) {
            (Some(kept), Some(name)) => same(kept, name),
            (None, None) => true,
            _ => false,
        };
        self.endpoint == attempt.endpoint
            && self.method == request.method_label
            && self.protocol == attempt.protocol
            && is(&self.pod, &attempt.pod)
            && is(&self.node, &attempt.node)
            && is_rule(&self.rule, &request.route)
    }

    fn keep((request, attempt): &Self::Asked<'_>) -> Self {
        Self {
            method: request.method_label,
            protocol: attempt.protocol,
            endpoint: attempt.endpoint,
            pod: attempt.pod.clone(),
            node: attempt.node.clone(),
            rule: request.route.as_ref().map(Rule::keep),
        }
    }

    fn place((request, attempt): &Self::Asked<'_>) -> usize {
        let address = match attempt.endpoint.ip() {
            IpAddr::V4(address) => address.to_bits() as usize,
            IpAddr::V6(address) => address.to_bits() as usize,
        };
        address ^ usize::from(attempt.endpoint.port()) ^ request.method_label.index() << 3
    }
}
