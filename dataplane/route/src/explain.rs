//! Why a request goes where it goes: every candidate, and the reason that it lost.
//!
//! The winner is found here by trying the routes one after the other, not by the structures that the request path uses; a
//! property test holds the two against each other.

use crate::host_table::{CompiledRoute, HostTable, Target};
use crate::normalize::{BadPath, Scratch, normalize};
use crate::path::Condition;
use crate::table::{Outcome, RouteId, RouteTable};
use serde::Serialize;
use sluicegate_config::{Dialect, HostPattern, Redirect, RuleRef};
use std::fmt;

/// Most candidates of one host that are listed although their path does not match.
const MAX_LISTED: usize = 100;

/// What became of a host and path, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The authority as it was asked for.
    pub host: String,
    /// The path as it was asked for.
    pub path: String,
    /// The path as it is compared: the normal form of the host's dialect.
    pub compared: Option<String>,
    /// The virtual host that claims the name.
    pub claimed_by: Option<HostPattern>,
    /// Its dialect.
    pub dialect: Option<Dialect>,
    /// What [`RouteTable::find`] answers.
    #[serde(skip)]
    pub outcome: Outcome,
    /// The outcome in words.
    pub result: String,
    /// The candidates, those of the claiming host first, each host's in order of precedence.
    pub candidates: Vec<Candidate>,
    /// Candidates that are not listed, because their path does not match and there are too many of them.
    pub omitted: usize,
}

/// One route that could have taken the request.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The virtual host that it belongs to.
    pub host: HostPattern,
    /// Its path as tables show it: `=/exact`, `/prefix`, `/string*`, `~regex`, or `(fallback)`.
    pub path: String,
    /// What it does: a backend, a redirect or a refusal.
    pub target: String,
    /// The rule that it comes from.
    pub origin: RuleRef,
    /// Whether it won, and why not.
    pub reason: Reason,
    /// The reason in words.
    pub because: String,
}

/// Why a candidate won or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// It takes the request.
    Won,
    /// Another pattern claims the host, and with it all paths.
    HostBeaten {
        /// That pattern.
        by: HostPattern,
    },
    /// Its path does not match.
    PathDiffers {
        /// What is different, where that is a usual mistake.
        hint: Option<&'static str>,
    },
    /// Its path matches, but another one comes before it.
    Beaten {
        /// The path of the other one.
        by: String,
        /// The rule that decides.
        rule: &'static str,
    },
    /// It takes what no route takes, and one does.
    FallbackUnneeded,
    /// It is the catch-all's fallback, and the host's dialect does not fall to it.
    NoFallThrough,
    /// Its regular expression cannot be compiled.
    Unusable {
        /// The error.
        error: String,
    },
    /// The request's path cannot be compared with it.
    BadPath {
        /// What is wrong with the path.
        why: BadPath,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Won => f.write_str("takes the request"),
            Self::HostBeaten { by: HostPattern::Wildcard(suffix) } => {
                write!(f, "*.{suffix} claims the host; the catch-all serves only hosts that nobody claims")
            }
            Self::HostBeaten { by } => write!(f, "{by} claims the host as a whole"),
            Self::PathDiffers { hint: Some(hint) } => write!(f, "the path does not match: {hint}"),
            Self::PathDiffers { hint: None } => f.write_str("the path does not match"),
            Self::Beaten { by, rule } => write!(f, "{by} comes before it: {rule}"),
            Self::FallbackUnneeded => f.write_str("is only for what no route takes"),
            Self::NoFallThrough => f.write_str("a host of the nginx dialect does not fall to the catch-all"),
            Self::Unusable { error } => f.write_str(error),
            Self::BadPath { why } => write!(f, "{why}"),
        }
    }
}

impl RouteTable {
    /// Says where a request goes, as [`RouteTable::find`] does, and why it goes nowhere else.
    pub fn explain(&self, host: &[u8], path: &[u8]) -> Explanation {
        let claimants = self.claimants(host);
        let owner = claimants.first().copied();
        let mut scratch = Scratch::new();
        let compared = owner.map(|(_, owner)| normalize(owner.dialect(), path, &mut scratch));
        let outcome = match (owner, compared) {
            (Some((slot, owner)), Some(Ok(compared))) => self.decide(slot, owner, compared, &claimants),
            (Some(_), Some(Err(bad))) => Decision::Bad(bad),
            _ => Decision::NoHost,
        };
        let mut listing = Listing { table: self, decision: outcome, candidates: Vec::new(), omitted: 0 };
        for (position, (slot, claimant)) in claimants.iter().enumerate() {
            let compared = compared.and_then(Result::ok).unwrap_or(path);
            listing.add_host(*slot, claimant, compared, owner.filter(|_| position > 0).map(|(_, owner)| owner));
        }
        Explanation {
            host: String::from_utf8_lossy(host).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            compared: compared.and_then(Result::ok).map(|path| String::from_utf8_lossy(path).into_owned()),
            claimed_by: owner.map(|(_, owner)| owner.pattern().clone()),
            dialect: owner.map(|(_, owner)| owner.dialect()),
            outcome: outcome.outcome(),
            result: self.describe(outcome),
            candidates: listing.candidates,
            omitted: listing.omitted,
        }
    }

    fn decide(&self, slot: u32, owner: &HostTable, path: &[u8], claimants: &[(u32, &HostTable)]) -> Decision {
        for (at, route) in (0..).zip(owner.routes()) {
            match route.condition.matches(path) {
                Ok(true) => return Decision::Won(RouteId::new(slot, at)),
                Ok(false) => {}
                Err(_) => return Decision::Bad(BadPath::Costly),
            }
        }
        let own = owner.fallback_index().map(|at| RouteId::new(slot, at));
        let inherited = || {
            let (slot, host) = claimants.iter().find(|(_, host)| *host.pattern() == HostPattern::Any)?;
            (owner.dialect() == Dialect::Strict).then_some(RouteId::new(*slot, host.fallback_index()?))
        };
        own.or_else(inherited).map_or(Decision::NoPath, Decision::Won)
    }

    fn describe(&self, decision: Decision) -> String {
        match decision {
            Decision::Won(id) => {
                let route = self.route(id);
                format!("{} by {} {}", self.describe_target(route), route.origin.ingress, route.origin.field)
            }
            Decision::NoHost => "404: no virtual host claims the host, and there is no catch-all".into(),
            Decision::NoPath => "404: the host is served, but no route takes the path and there is no fallback".into(),
            Decision::Bad(why) => format!("400: {why}"),
        }
    }

    fn describe_target(&self, route: &CompiledRoute) -> String {
        match &route.target {
            Target::Forward(slot) => self.backend_id(*slot).map(ToString::to_string).unwrap_or_default(),
            Target::Redirect(Redirect::AppendSlash) => "redirect 301 to the path with a slash".into(),
            Target::Deny(reason) => format!("deny 503: {reason}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Decision {
    Won(RouteId),
    NoHost,
    NoPath,
    Bad(BadPath),
}

impl Decision {
    fn outcome(self) -> Outcome {
        match self {
            Self::Won(id) => Outcome::Route(id),
            Self::NoHost => Outcome::NoHost,
            Self::NoPath => Outcome::NoPath,
            Self::Bad(_) => Outcome::BadPath,
        }
    }
}

struct Listing<'a> {
    table: &'a RouteTable,
    decision: Decision,
    candidates: Vec<Candidate>,
    omitted: usize,
}

impl Listing<'_> {
    /// Lists a host's routes and its fallback. `owner` is the host that claims the name, if it is another one.
    fn add_host(&mut self, slot: u32, host: &HostTable, path: &[u8], owner: Option<&HostTable>) {
        let mut misses = 0;
        for (at, route) in (0..).zip(host.all_routes()) {
            let is_fallback = host.fallback_index() == Some(at);
            let reason = self.reason(RouteId::new(slot, at), is_fallback, host, path, owner);
            let missed = matches!(reason, Reason::PathDiffers { .. } | Reason::HostBeaten { .. });
            misses += usize::from(missed);
            if missed && misses > MAX_LISTED {
                self.omitted += 1;
                continue;
            }
            self.candidates.push(Candidate {
                host: host.pattern().clone(),
                path: if is_fallback { "(fallback)".into() } else { route.path.to_string() },
                target: self.table.describe_target(route),
                origin: route.origin.clone(),
                because: reason.to_string(),
                reason,
            });
        }
    }

    fn reason(
        &self,
        id: RouteId,
        is_fallback: bool,
        host: &HostTable,
        path: &[u8],
        owner: Option<&HostTable>,
    ) -> Reason {
        let route = self.table.route(id);
        match (self.decision, owner) {
            (Decision::Won(winner), _) if winner == id => Reason::Won,
            (Decision::Bad(why), None) => Reason::BadPath { why },
            (decision, Some(owner)) if is_fallback && *host.pattern() == HostPattern::Any => match decision {
                Decision::NoPath if owner.dialect() == Dialect::Nginx => Reason::NoFallThrough,
                Decision::Bad(why) => Reason::BadPath { why },
                _ => Reason::FallbackUnneeded,
            },
            (_, Some(owner)) => Reason::HostBeaten { by: owner.pattern().clone() },
            (_, None) if is_fallback => Reason::FallbackUnneeded,
            (_, None) => self.reason_of_path(route, host, path),
        }
    }

    fn reason_of_path(&self, route: &CompiledRoute, host: &HostTable, path: &[u8]) -> Reason {
        if let Some(error) = &route.unusable {
            return Reason::Unusable { error: error.to_string() };
        }
        match (route.condition.matches(path), self.decision) {
            (Ok(true), Decision::Won(winner)) => {
                let winner = self.table.route(winner);
                let (mut first, mut second) = (Vec::new(), Vec::new());
                let first = winner.rank(host.matching(), &mut first);
                let rule = first.reason_before(&route.rank(host.matching(), &mut second));
                Reason::Beaten { by: winner.path.to_string(), rule }
            }
            (Err(_), _) => Reason::BadPath { why: BadPath::Costly },
            _ => Reason::PathDiffers { hint: hint(&route.condition, path) },
        }
    }
}

/// Names the difference where it is one that people stumble over.
fn hint(condition: &Condition, path: &[u8]) -> Option<&'static str> {
    match condition {
        Condition::Exact(text) => hint_exact(text.as_bytes(), path),
        Condition::Prefix(text) if path.starts_with(text.as_bytes()) => Some("it ends inside an element of the path"),
        Condition::Prefix(text) | Condition::StringPrefix(text) => {
            let start = path.get(..text.as_bytes().len())?;
            start.eq_ignore_ascii_case(text.as_bytes()).then_some("paths are case-sensitive")
        }
        Condition::Regex(_) => Some("the pattern is anchored at the start of the path"),
        Condition::Never => None,
    }
}

fn hint_exact(text: &[u8], path: &[u8]) -> Option<&'static str> {
    fn without_slash(path: &[u8]) -> &[u8] {
        path.strip_suffix(b"/").unwrap_or(path)
    }
    if path.eq_ignore_ascii_case(text) {
        Some("paths are case-sensitive")
    } else {
        (without_slash(path) == without_slash(text)).then_some("an Exact path includes its trailing slash")
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "host      {}", self.host)?;
        if let (Some(pattern), Some(dialect)) = (&self.claimed_by, self.dialect) {
            writeln!(f, "claimed   by {pattern} ({dialect} dialect)")?;
        }
        writeln!(f, "path      {}", self.path)?;
        if let Some(compared) = self.compared.as_ref().filter(|compared| **compared != self.path) {
            writeln!(f, "compared  {compared}")?;
        }
        writeln!(f, "result    {}", self.result)?;
        if self.candidates.is_empty() {
            return Ok(());
        }
        writeln!(f)?;
        let mut rows = vec![["", "HOST", "PATH", "TARGET", "RULE", "BECAUSE"].map(String::from)];
        rows.extend(self.candidates.iter().map(|candidate| {
            let mark = if candidate.reason == Reason::Won { "->" } else { "" };
            let rule = format!("{} {}", candidate.origin.ingress, candidate.origin.field);
            let (host, path) = (candidate.host.to_string(), candidate.path.clone());
            [mark.into(), host, path, candidate.target.clone(), rule, candidate.because.clone()]
        }));
        write_aligned(f, &rows)?;
        if self.omitted > 0 {
            writeln!(f, "   … and {} more whose path does not match or whose host lost", self.omitted)?;
        }
        Ok(())
    }
}

fn write_aligned<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
