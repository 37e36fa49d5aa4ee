//! What the backend is asked for, and where a redirect leads.
//!
//! Without a rewrite the backend gets the request target as the client sent it. With one, the template replaces the whole
//! path: `$1` to `$9` stand for groups of the route's regular expression, found in the path's normal form, and a
//! group that took no part is empty. The result is escaped again; no byte leaves that a URI may not hold.

use crate::host_table::CompiledRoute;
use crate::normalize::{Scratch, begins_escape, is_path_byte, is_unreserved, normalize, push_escaped};
use crate::path::Condition;
use crate::pattern::Groups;
use sluicegate_config::{Dialect, Route};

/// Appends the path and query that the backend is asked for to `out`. `false` means that nothing is rewritten and
/// nothing was appended: send the target as it came.
///
/// `path` is the raw path of the request that [`crate::RouteTable::find`] found the route for, `query` what follows
/// its `?`. A template with a `?` of its own sets parameters, which the request's follow unless the template ends
/// in `?`.
pub fn rewrite(route: &CompiledRoute, path: &[u8], query: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    let Some(template) = &route.template else { return false };
    let mut scratch = Scratch::new();
    let Ok(path) = normalize(route.dialect, path, &mut scratch) else { return false };
    let groups = match &route.condition {
        Condition::Regex(pattern) => match pattern.groups(path) {
            Some(groups) => groups,
            None => return false,
        },
        Condition::Never => return false,
        Condition::Exact(_) | Condition::Prefix(_) | Condition::StringPrefix(_) => Groups::default(),
    };
    template.expand(route.dialect, path, &groups, query, out);
    true
}

/// Appends the path and query of the `Location` that a [`sluicegate_config::Redirect::AppendSlash`] sends the client
/// to: the path in normal form (so that `//name` cannot lead to another host) with a slash behind it, then the query as
/// it came.
pub fn redirect_location(route: &CompiledRoute, path: &[u8], query: Option<&[u8]>, out: &mut Vec<u8>) {
    let mut scratch = Scratch::new();
    let path = normalize(route.dialect, path, &mut scratch).unwrap_or(b"/");
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let leading = path.iter().take_while(|byte| **byte == b'/').count().saturating_sub(1);
    push_path(route.dialect, path.get(leading..).unwrap_or_default(), out);
    out.push(b'/');
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// A rewrite target, taken apart.
pub(crate) struct Template {
    path: Vec<Piece>,
    /// What follows the first `?`.
    parameters: Option<Vec<Piece>>,
    drops_query: bool,
}

enum Piece {
    Literal(Box<[u8]>),
    /// 1 to 9.
    Group(u8),
}

impl Template {
    /// The template of a route. An empty target, or one that is the route's own path, rewrites nothing.
    pub(crate) fn of(route: &Route, dialect: Dialect) -> Option<Self> {
        let target = &*route.policy.rewrite.as_ref()?.target;
        if target.is_empty() || target == route.path.as_str() {
            return None;
        }
        let (path, parameters) = match target.split_once('?') {
            Some((path, parameters)) => (path, Some(parameters)),
            None => (target, None),
        };
        let drops_query = parameters.is_some_and(|text| text.is_empty() || text.ends_with('?'));
        let parameters = parameters.map(|text| text.strip_suffix('?').unwrap_or(text)).filter(|text| !text.is_empty());
        Some(Self {
            path: pieces(path, |text, out| push_path(dialect, text, out)),
            parameters: parameters.map(|text| pieces(text, push_query)),
            drops_query,
        })
    }

    fn expand(&self, dialect: Dialect, path: &[u8], groups: &Groups, query: Option<&[u8]>, out: &mut Vec<u8>) {
        let start = out.len();
        for piece in &self.path {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Group(number) => push_path(dialect, group(path, groups, *number), out),
            }
        }
        if out.get(start) != Some(&b'/') {
            out.insert(start, b'/');
        }
        let mut separator = b'?';
        if let Some(parameters) = &self.parameters {
            out.push(separator);
            separator = b'&';
            for piece in parameters {
                match piece {
                    Piece::Literal(text) => out.extend_from_slice(text),
                    Piece::Group(number) => push_parameter(dialect, group(path, groups, *number), out),
                }
            }
        }
        // A question mark alone is kept, an ampersand alone is not.
        let query = query.filter(|query| !self.drops_query && (separator == b'?' || !query.is_empty()));
        if let Some(query) = query {
            out.push(separator);
            out.extend_from_slice(query);
        }
    }
}

fn pieces(text: &str, escape: impl Fn(&[u8], &mut Vec<u8>)) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal: &[u8] = text.as_bytes();
    let mut rest = literal;
    let push_literal = |text: &[u8], pieces: &mut Vec<Piece>| {
        let mut escaped = Vec::with_capacity(text.len());
        escape(text, &mut escaped);
        if !escaped.is_empty() {
            pieces.push(Piece::Literal(escaped.into()));
        }
    };
    while let Some((byte, behind)) = rest.split_first() {
        if let (b'$', Some(digit @ b'1'..=b'9')) = (*byte, behind.first()) {
            push_literal(&literal[..literal.len() - rest.len()], &mut pieces);
            pieces.push(Piece::Group(digit - b'0'));
            literal = &behind[1..];
            rest = literal;
        } else {
            rest = behind;
        }
    }
    push_literal(literal, &mut pieces);
    pieces
}

fn group<'a>(path: &'a [u8], groups: &Groups, number: u8) -> &'a [u8] {
    let range = groups.get(usize::from(number)).copied().flatten();
    range.and_then(|(start, end)| path.get(start..end)).unwrap_or_default()
}

/// Appends text of a path's normal form. That of the strict dialect is escaped already, that of nginx is plain.
fn push_path(dialect: Dialect, text: &[u8], out: &mut Vec<u8>) {
    push(text, dialect == Dialect::Strict, is_path_byte, out);
}

/// Appends a captured text inside a parameter, which it cannot leave.
fn push_parameter(dialect: Dialect, text: &[u8], out: &mut Vec<u8>) {
    let stays = |byte| is_unreserved(byte) || b"/:@,!$()*".contains(&byte);
    push(text, dialect == Dialect::Strict, stays, out);
}

/// Appends the parameters of a template as they are, save for bytes that no URI may hold.
fn push_query(text: &[u8], out: &mut Vec<u8>) {
    push(text, true, |byte| is_path_byte(byte) || byte == b'?', out);
}

/// Appends text, escaping what does not stay as it is. With `escaped`, what is an escape already stays one.
fn push(text: &[u8], escaped: bool, stays: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    for (at, byte) in text.iter().enumerate() {
        if stays(*byte) || (escaped && begins_escape(&text[at..])) {
            out.push(*byte);
        } else {
            push_escaped(*byte, out);
        }
    }
}
