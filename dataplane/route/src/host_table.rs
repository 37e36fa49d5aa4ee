//! One virtual host, compiled: its routes in order of precedence and the means to find the first that matches.

use crate::index::Seed;
use crate::normalize::{Scratch, normalize, normalize_literal};
use crate::path::{Condition, Matcher};
use crate::pattern::{GaveUp, Pattern};
use crate::precedence::Rank;
use crate::rewrite::Template;
use crate::text::Text;
use serde::Serialize;
use sluicegate_config::{
    Action, BackendId, Dialect, HostPattern, Matching, ObjectRef, PathMatch, Policy, Redirect, Route, RuleRef,
    VirtualHost,
};
use std::sync::Arc;

/// Where a table keeps a backend. It stays the same while anything refers to the backend, and is given to another
/// one only after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BackendSlot(pub(crate) u32);

impl BackendSlot {
    /// The slot as an index; slots are numbered densely from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where requests of one host, Ingress and Service are counted: a place that it has for as long as a table has such a
/// route, and that is given to others afterwards.
#[derive(Clone, Debug)]
pub struct SeriesSlot {
    /// The place; places are numbered densely from 0.
    pub index: u32,
    /// Whose place it is. Another one is another `Arc`, and this one is dropped with the last table that has the route.
    pub tenure: Arc<()>,
}

/// What a host's requests are told apart by when they are counted.
struct Counted {
    ingress: ObjectRef,
    service: Option<Arc<str>>,
    slot: SeriesSlot,
}

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Sends it to the backend in this slot.
    Forward(BackendSlot),
    /// Answers with a redirect; [`crate::redirect_location`] says where to.
    Redirect(Redirect),
    /// Answers 503 and reaches no backend; the reason is for logs and `explain`, never for the client.
    Deny(Arc<str>),
}

/// One route of a virtual host.
pub struct CompiledRoute {
    /// What it does.
    pub target: Target,
    /// Its settings.
    pub policy: Arc<Policy>,
    /// The rule that it comes from.
    pub origin: RuleRef,
    /// Which paths it claims, as written.
    pub path: PathMatch,
    /// Why it matches nothing, if its regular expression cannot be compiled.
    pub unusable: Option<Arc<str>>,
    /// Where its requests are counted.
    pub series: SeriesSlot,
    pub(crate) dialect: Dialect,
    pub(crate) condition: Condition,
    pub(crate) template: Option<Box<Template>>,
}

impl CompiledRoute {
    fn new(route: &Route, target: Target, series: SeriesSlot, dialect: Dialect) -> Self {
        let mut unusable = None;
        let literal = |text: &str| normalize_literal(dialect, text);
        let condition = match &route.path {
            PathMatch::Exact(text) => Condition::Exact(literal(text).as_slice().into()),
            PathMatch::Prefix(text) => Condition::prefix(&literal(text)),
            PathMatch::StringPrefix(text) => Condition::StringPrefix(literal(text).as_slice().into()),
            PathMatch::Regex(text) => match Pattern::compile(text) {
                Ok(pattern) => Condition::Regex(Arc::new(pattern)),
                Err(error) => {
                    unusable = Some(error.to_string().into());
                    Condition::Never
                }
            },
        };
        let template = Template::of(route, dialect).map(Box::new);
        Self {
            target,
            policy: Arc::clone(&route.policy),
            origin: route.origin.clone(),
            path: route.path.clone(),
            unusable,
            series,
            dialect,
            condition,
            template,
        }
    }

    /// Its place among the routes of its host. `text` is a buffer for the path's normal form.
    pub(crate) fn rank<'a>(&'a self, matching: Matching, text: &'a mut Vec<u8>) -> Rank<'a> {
        rank(&self.path, self.dialect, matching, text)
    }
}

fn rank<'a>(path: &'a PathMatch, dialect: Dialect, matching: Matching, text: &'a mut Vec<u8>) -> Rank<'a> {
    let text = match path {
        PathMatch::Regex(pattern) => pattern.as_bytes(),
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::StringPrefix(_) => {
            *text = normalize_literal(dialect, path.as_str());
            text
        }
    };
    Rank::new(matching, path, text)
}

/// What a host's own routes say to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Index of a route, the fallback included.
    Route(u32),
    /// Nothing, and it has no fallback.
    Nothing,
    /// The path cannot be compared.
    BadPath,
}

/// What a look-up reads of a virtual host, small enough to lie side by side with others: among 20,000 hosts, what
/// costs is the number of cache lines and pages that are touched.
#[derive(Clone)]
pub(crate) struct HostEntry {
    /// The pattern's text, without `*.`.
    name: Text,
    matcher: Matcher,
    fallback: Option<u32>,
    dialect: Dialect,
    pub(crate) table: Arc<HostTable>,
}

impl HostEntry {
    pub(crate) fn new(table: HostTable, seed: Seed) -> Self {
        let conditions = table.routes().iter().map(|route| route.condition.clone()).collect();
        Self {
            name: name_of(&table.pattern).into(),
            matcher: Matcher::new(conditions, table.matching == Matching::LongestPath, seed),
            fallback: table.fallback,
            dialect: table.dialect,
            table: Arc::new(table),
        }
    }

    #[inline]
    pub(crate) fn is_named(&self, name: &[u8]) -> bool {
        self.name.as_bytes() == name
    }

    #[inline]
    pub(crate) fn find(&self, raw: &[u8], seed: Seed) -> Found {
        let mut scratch = Scratch::new();
        let path = match normalize(self.dialect, raw, &mut scratch) {
            Ok(path) => path,
            Err(_) => return Found::BadPath,
        };
        match self.matcher.find(path, seed) {
            Ok(Some(route)) => Found::Route(route),
            Ok(None) => self.fallback.map_or(Found::Nothing, Found::Route),
            Err(GaveUp) => Found::BadPath,
        }
    }
}

/// A virtual host as the table keeps it.
pub struct HostTable {
    pattern: HostPattern,
    /// Of a wildcard alone: what an exact host is written as is its name.
    written: Option<Box<str>>,
    dialect: Dialect,
    matching: Matching,
    /// In order of precedence; the fallback, if there is one, is the last.
    routes: Vec<CompiledRoute>,
    fallback: Option<u32>,
    /// The backends of its routes, each once, ascending.
    backends: Box<[u32]>,
    /// Where its requests are counted.
    counted: Box<[Counted]>,
}

impl HostTable {
    /// Compiles a host. `slot_of` says where a backend is kept, and keeps a place for one that is not there; `fresh`
    /// gives a place to count in, for what the `former` table of the host has none for.
    pub(crate) fn new(
        pattern: &HostPattern,
        host: &VirtualHost,
        former: Option<&Self>,
        mut slot_of: impl FnMut(&BackendId) -> u32,
        mut fresh: impl FnMut() -> u32,
    ) -> Self {
        let mut order: Vec<&Route> = host.routes.iter().collect();
        order.sort_by(|one, other| {
            let (mut text, mut other_text) = (Vec::new(), Vec::new());
            rank(&one.path, host.dialect, host.matching, &mut text).cmp(&rank(
                &other.path,
                host.dialect,
                host.matching,
                &mut other_text,
            ))
        });
        let mut counted: Vec<Counted> = Vec::new();
        let mut series_of = |route: &Route| {
            let ingress = &route.origin.ingress;
            let service = if let Action::Forward(id) = &route.action { Some(&id.service) } else { None };
            let is_same = |one: &&Counted| one.ingress == *ingress && one.service.as_ref() == service;
            if let Some(known) = counted.iter().find(is_same) {
                return known.slot.clone();
            }
            let kept = former.and_then(|former| former.counted.iter().find(is_same));
            let new = || SeriesSlot { index: fresh(), tenure: Arc::new(()) };
            let slot = kept.map_or_else(new, |kept| kept.slot.clone());
            counted.push(Counted { ingress: ingress.clone(), service: service.cloned(), slot: slot.clone() });
            slot
        };
        let compile = |route: &Route| {
            let series = series_of(route);
            let target = match &route.action {
                Action::Forward(id) => Target::Forward(BackendSlot(slot_of(id))),
                Action::Redirect(redirect) => Target::Redirect(redirect.clone()),
                Action::Deny(reason) => Target::Deny(Arc::clone(reason)),
            };
            CompiledRoute::new(route, target, series, host.dialect)
        };
        let routes: Vec<CompiledRoute> = order.into_iter().chain(&host.fallback).map(compile).collect();
        let fallback = host.fallback.as_ref().and_then(|_| routes.len().checked_sub(1));
        let mut backends: Vec<u32> = routes
            .iter()
            .filter_map(|route| if let Target::Forward(slot) = route.target { Some(slot.0) } else { None })
            .collect();
        backends.sort_unstable();
        backends.dedup();
        Self {
            fallback: fallback.and_then(|at| u32::try_from(at).ok()),
            dialect: host.dialect,
            matching: host.matching,
            routes,
            pattern: pattern.clone(),
            written: match pattern {
                HostPattern::Any | HostPattern::Exact(_) => None,
                HostPattern::Wildcard(_) => Some(pattern.to_string().into()),
            },
            backends: backends.into(),
            counted: counted.into(),
        }
    }

    /// Places to count in that this table has and the next one of the host does not.
    pub(crate) fn series_gone<'a>(&'a self, next: Option<&'a Self>) -> impl Iterator<Item = u32> + 'a {
        let stays = move |slot: &SeriesSlot| {
            next.is_some_and(|next| next.counted.iter().any(|one| one.slot.index == slot.index))
        };
        self.counted.iter().map(|one| &one.slot).filter(move |slot| !stays(slot)).map(|slot| slot.index)
    }

    /// What it claims.
    pub fn pattern(&self) -> &HostPattern {
        &self.pattern
    }

    /// The pattern as an Ingress writes it, `*.example.com`; empty for every host.
    pub fn written(&self) -> &str {
        match (&self.pattern, &self.written) {
            (HostPattern::Exact(name), _) => name.as_str(),
            (_, Some(written)) => written,
            (_, None) => "",
        }
    }

    /// The dialect of its routes.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// How its routes compete.
    pub fn matching(&self) -> Matching {
        self.matching
    }

    /// Its routes in order of precedence, without the fallback.
    pub fn routes(&self) -> &[CompiledRoute] {
        self.fallback.and_then(|at| self.routes.get(..at as usize)).unwrap_or(&self.routes)
    }

    /// What takes a path that no route takes.
    pub fn fallback(&self) -> Option<&CompiledRoute> {
        self.routes.get(self.fallback? as usize)
    }

    pub(crate) fn fallback_index(&self) -> Option<u32> {
        self.fallback
    }

    /// Routes and fallback under one numbering.
    pub(crate) fn all_routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    pub(crate) fn backends(&self) -> &[u32] {
        &self.backends
    }
}

/// The text under which a pattern is found; empty for the catch-all.
pub(crate) fn name_of(pattern: &HostPattern) -> &[u8] {
    match pattern {
        HostPattern::Exact(name) | HostPattern::Wildcard(name) => name.as_str().as_bytes(),
        HostPattern::Any => b"",
    }
}
