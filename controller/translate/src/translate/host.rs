//! Virtual hosts: the paths of all Ingresses of one host, by the rules of the host's dialect.

use super::{Translator, is_any};
use crate::facts::ingress::{BackendUse, Ingress, Path, PathType, has_group};
use crate::facts::note;
use sluicegate_config::draft::{HostDraft, RouteDraft};
use sluicegate_config::{
    Action, Dialect, HostPattern, Matching, PathMatch, Policy, Redirect, Rewrite, RuleRef, SourceKey, Verdict,
};
use std::sync::Arc;

impl Translator<'_> {
    pub(super) fn host(&mut self, host: &HostPattern) -> Option<HostDraft> {
        let objects = self.objects;
        let (dialect, claimants) = self.claimants(objects.by_host.of(host))?;
        let reader = Reader { dialect, matching: matching(dialect, host, &claimants), plain: Arc::default() };
        let mut draft = HostDraft { dialect, matching: reader.matching, routes: Vec::new(), fallbacks: Vec::new() };
        for (ingress, own_dialect) in &claimants {
            if *own_dialect != dialect {
                self.other_dialect(host, ingress, *own_dialect, dialect, claimants[0].0);
            }
            reader.read(ingress, host, &mut draft);
        }
        Some(draft)
    }

    fn other_dialect(&mut self, host: &HostPattern, ingress: &Ingress, own: Dialect, of: Dialect, oldest: &Ingress) {
        self.say(
            SourceKey::Host(host.clone()),
            note(
                &ingress.reference,
                Verdict::Warning,
                "spec.ingressClassName",
                format!(
                    "host {host} is read in the dialect {of} of {}, which comes first, not in {own}",
                    oldest.reference
                ),
                "put all Ingresses of one host into classes of one dialect",
            ),
        );
    }
}

/// Any Ingress of the host that uses regular expressions, or rewrites a path, turns all paths of the host into regular
/// expressions (annotations.md section 4, row 13).
fn matching(dialect: Dialect, host: &HostPattern, claimants: &[(&Ingress, Dialect)]) -> Matching {
    let regex = dialect == Dialect::Nginx
        && claimants.iter().any(|(ingress, _)| {
            paths(ingress, host).any(|path| ingress.options().use_regex || rewrite(ingress, path).is_some())
        });
    if regex { Matching::FirstRegex } else { Matching::LongestPath }
}

/// The rewrite target, unless it is the path itself.
fn rewrite<'a>(ingress: &'a Ingress, path: &Path) -> Option<&'a Arc<str>> {
    ingress.options().rewrite.as_ref().filter(|target| **target != path.path)
}

fn paths<'a>(ingress: &'a Ingress, host: &'a HostPattern) -> impl Iterator<Item = &'a Path> {
    ingress.rules.iter().filter(move |rule| rule.host.pattern.as_ref() == Ok(host)).flat_map(|rule| &rule.paths)
}

struct Reader {
    dialect: Dialect,
    matching: Matching,
    plain: Arc<Policy>,
}

impl Reader {
    fn read(&self, ingress: &Ingress, host: &HostPattern, draft: &mut HostDraft) {
        for path in paths(ingress, host) {
            let Some(path_match) = self.path(path) else { continue };
            let origin = RuleRef { ingress: ingress.reference.clone(), field: Arc::clone(&path.field) };
            if let Some(bare) = self.redirected(path) {
                draft.routes.push(RouteDraft {
                    path: PathMatch::Exact(bare),
                    action: Action::Redirect(Redirect::AppendSlash),
                    policy: Arc::clone(&self.plain),
                    origin: origin.clone(),
                    implied: true,
                });
            }
            draft.routes.push(RouteDraft {
                path: path_match,
                action: action(ingress, &path.backend),
                policy: self.policy(ingress, path),
                origin,
                implied: false,
            });
        }
        draft.fallbacks.extend(self.fallback(ingress, host));
    }

    /// `None` where the type of the path is not known; the Ingress was told.
    fn path(&self, path: &Path) -> Option<PathMatch> {
        let text = Arc::clone(&path.path);
        let known = match (&path.path_type, self.dialect) {
            (PathType::Missing | PathType::Unknown(_), _) => return None,
            (PathType::Exact, _) => PathMatch::Exact(text),
            // A Prefix `/foo/` does not take `/foo` in this dialect: that is redirected.
            (PathType::Prefix, Dialect::Nginx) if ends_in_slash(&text) => PathMatch::StringPrefix(text),
            (PathType::ImplementationSpecific, Dialect::Nginx) => PathMatch::StringPrefix(text),
            (PathType::Prefix | PathType::ImplementationSpecific, _) => PathMatch::Prefix(text),
        };
        Some(match self.matching {
            Matching::FirstRegex => PathMatch::Regex(known.into_text()),
            Matching::LongestPath => known,
        })
    }

    /// Exact and Prefix paths that end in a slash: the path without it is redirected to it (row 11).
    fn redirected(&self, path: &Path) -> Option<Arc<str>> {
        let applies = self.dialect == Dialect::Nginx
            && self.matching == Matching::LongestPath
            && matches!(path.path_type, PathType::Exact | PathType::Prefix)
            && ends_in_slash(&path.path);
        applies.then(|| path.path[..path.path.len() - 1].into())
    }

    /// Without regular expressions there are no groups, so a target that wants some is not applied.
    fn policy(&self, ingress: &Ingress, path: &Path) -> Arc<Policy> {
        let target =
            rewrite(ingress, path).filter(|target| self.matching == Matching::FirstRegex || !has_group(target));
        match target {
            None => Arc::clone(&ingress.options().policy),
            Some(target) => {
                let rewrite = Some(Rewrite { target: Arc::clone(target) });
                Arc::new(Policy { rewrite, ..(*ingress.options().policy).clone() })
            }
        }
    }

    /// The default backend of an Ingress: for each of its hosts, or, where it has no rules, for every host.
    fn fallback(&self, ingress: &Ingress, host: &HostPattern) -> Option<RouteDraft> {
        let backend = ingress.default_backend.as_ref()?;
        debug_assert!(
            !ingress.rules.is_empty() || is_any(host),
            "an Ingress without rules has a part in no other host"
        );
        Some(RouteDraft {
            path: PathMatch::Prefix("/".into()),
            action: action(ingress, backend),
            policy: Arc::clone(&ingress.options().policy),
            origin: RuleRef { ingress: ingress.reference.clone(), field: "spec.defaultBackend".into() },
            implied: false,
        })
    }
}

fn ends_in_slash(path: &str) -> bool {
    path.len() > 1 && path.ends_with('/')
}

/// A backend that is no Service goes to the default backend of its Ingress. Where nothing can be meant the path answers
/// 503 and keeps its claim, so that no shorter path takes requests that were not meant for it.
fn action(ingress: &Ingress, backend: &BackendUse) -> Action {
    if let Some(reason) = &ingress.options().closed {
        return Action::Deny(Arc::clone(reason));
    }
    let instead = match backend {
        BackendUse::Service { .. } => Some(backend),
        BackendUse::Resource { .. } => ingress.default_backend.as_ref(),
        BackendUse::Bad(_) => None,
    };
    match (instead.and_then(|backend| ingress.backend_id(backend)), backend) {
        (Some(id), _) => Action::Forward(id),
        (None, BackendUse::Resource { kind, name }) => {
            Action::Deny(format!("backend is the resource {kind} {name}, and only Services are served").into())
        }
        (None, BackendUse::Bad(why)) => Action::Deny(why.to_string().into()),
        (None, BackendUse::Service { name, .. }) => Action::Deny(format!("Service {name} cannot be used").into()),
    }
}
